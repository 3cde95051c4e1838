"""Where decoders begin: at the mean of the training images."""

from functools import partial
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from models import (
    MLP,
    VAE,
    Bernoulli,
    BetaBinomial,
    ContinuousBernoulli,
    Convolutional,
    DiscretizedLogistic,
    GatedMLP,
    Gaussian,
    Likelihood,
    Linear,
    MaxPooling,
    Residual,
    Spec,
)

SHAPE = (2, 3, 2)
SHARES = torch.linspace(0.02, 0.98, 12, dtype=torch.float64).reshape(SHAPE)


def features_for_mean(likelihood: Likelihood, mean: Tensor) -> Tensor:
    features = likelihood.features_for_mean(mean)
    assert features is not None
    assert features.shape == likelihood.features
    return features


def mean_of_bytes(likelihood: Likelihood, features: Tensor) -> Tensor:
    """E[x|z] as a sum over 0, ..., 255."""
    levels = torch.arange(256.0, dtype=torch.float64).reshape(-1, 1, 1, 1).expand(256, *SHAPE)
    return (likelihood(features).base_dist.log_prob(levels).exp() * levels).sum(0)


def test_the_mean_of_a_beta_binomial_by_enumeration() -> None:
    likelihood = BetaBinomial(Spec(SHAPE, "bytes", 2)).double()
    got = mean_of_bytes(likelihood, features_for_mean(likelihood, 255 * SHARES))
    torch.testing.assert_close(got, 255 * SHARES, rtol=0, atol=1e-9)


def test_the_mean_of_a_discretized_logistic_by_enumeration() -> None:
    """But for its tails: of a logistic X, E[max(X, a)] - E[X] = s softplus(-(m - a) / s).

    The edges 0 and 255 are reached from half a level inside of them.
    """
    likelihood = DiscretizedLogistic(Spec(SHAPE, "bytes", 2)).double()
    mean = 255 * SHARES
    features = features_for_mean(likelihood, mean)
    scale = likelihood(features).base_dist.scale
    below = scale * softplus(-mean / scale)
    above = scale * softplus((mean - 255) / scale)
    got = mean_of_bytes(likelihood, features)
    # Rounding to whole levels is a sum of steps in place of an integral, whose error is of second
    # order in the width of a level over the scale, and smaller than a hundredth of a level.
    torch.testing.assert_close(got, mean + below - above, rtol=0, atol=0.01)


def test_the_mean_of_a_continuous_bernoulli_by_quadrature() -> None:
    """As far out as a start may lie."""
    shares = SHARES.clamp(0.08, 0.92)
    likelihood = ContinuousBernoulli(Spec(SHAPE, "unit", 2))
    density = likelihood(features_for_mean(likelihood, shares)).base_dist
    x, weights = np.polynomial.legendre.leggauss(100)
    points = torch.tensor((x + 1) / 2).reshape(-1, 1, 1, 1).expand(100, *SHAPE)
    masses = density.log_prob(points).exp() * torch.tensor(weights / 2).reshape(-1, 1, 1, 1)
    # Thirty halvings of [-15, 15] leave a logit known to 3e-8, and the mean changes by less.
    torch.testing.assert_close((masses * points).sum(0), shares, rtol=0, atol=1e-7)


def test_the_mean_of_a_bernoulli_and_its_edges() -> None:
    likelihood = Bernoulli(Spec(SHAPE, "binary", 2))
    odds = features_for_mean(likelihood, SHARES).exp()
    torch.testing.assert_close(odds / (1 + odds), SHARES)
    empty = features_for_mean(likelihood, torch.zeros(SHAPE))
    torch.testing.assert_close(empty, torch.full(SHAPE, log(1e-3 / (1 - 1e-3))))


@pytest.mark.parametrize("scale", ["shared", "pixel", "network"])
def test_a_gaussian_keeps_its_initial_scale(scale: str) -> None:
    likelihood = Gaussian(Spec(SHAPE, "real", 2), scale).double()
    density = likelihood(features_for_mean(likelihood, SHARES)).base_dist
    untrained = likelihood(torch.zeros(*likelihood.features, dtype=torch.float64)).base_dist
    assert torch.equal(density.mean, SHARES)
    assert torch.equal(density.stddev, untrained.stddev)


@pytest.mark.parametrize(
    "network", [Linear, MLP, partial(MLP, hidden=(5, 4)), GatedMLP, Convolutional, Residual]
)
def test_a_network_begins_around_given_outputs(network) -> None:
    """In each pixel where its last layer has a bias for each, and else in each channel."""
    torch.manual_seed(0)
    decoder = network((3,), (2, 8, 8)).double()
    outputs = torch.randn(2, 8, 8, dtype=torch.float64)
    z = torch.randn(5, 3, dtype=torch.float64)
    before = decoder(z).detach()
    biases = [module for module in decoder.modules() if getattr(module, "bias", None) is not None]
    bias = biases[-1].bias.detach().clone()
    decoder.initialise_output(outputs)
    if len(bias) == 2:
        outputs = outputs.mean((1, 2), keepdim=True).expand_as(outputs)
    shape = (2, 8, 8) if len(bias) == 128 else (2, 1, 1)
    torch.testing.assert_close(
        decoder(z) - before, (outputs - bias.reshape(shape)).expand(5, -1, -1, -1)
    )


def test_a_network_that_cannot_begin_anywhere_is_left_alone() -> None:
    decoder = MaxPooling((3,), (1, 28, 28))
    before = [parameter.clone() for parameter in decoder.parameters()]
    decoder.initialise_output(torch.randn(1, 28, 28))
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))


def test_a_model_begins_at_the_mean_of_its_images() -> None:
    torch.manual_seed(0)
    images = torch.bernoulli(torch.linspace(0.1, 0.9, 64)).reshape(1, 1, 8, 8).repeat(50, 1, 1, 1)
    images[:25] = 1 - images[:25]
    model = VAE(Spec((1, 8, 8), "binary", 3), network=Linear)
    weight = model.decoder.linear.weight.detach().clone()
    model.initialise(lambda count: images[torch.arange(count) % len(images)])
    mean = model.decode(torch.zeros(1, 3)).mean[0]
    torch.testing.assert_close(mean, torch.full((1, 8, 8), 0.5))
    assert torch.equal(model.decoder.linear.weight, weight)


@pytest.mark.parametrize(("side", "count"), [(8, 1000), (512, 1000), (1024, 256), (2**15, 1)])
def test_the_mean_of_large_images_is_that_of_fewer(side: int, count: int) -> None:
    """At most 1 GiB of them: 2^28 pixels of float32."""
    asked: list[int] = []

    def images(wanted: int) -> Tensor:
        asked.append(wanted)
        return torch.full((wanted, 1, 2, 2), 0.25)

    model = VAE(Spec((1, 2, 2), "binary", 1), network=Linear)
    model.spec = Spec((1, side, side), "binary", 1)
    model.initialise(images)
    assert asked == [count]
    start = model.decoder(torch.zeros(1, 1)).sigmoid()
    torch.testing.assert_close(start, torch.full_like(start, 0.25))
