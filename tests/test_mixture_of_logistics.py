"""Mixtures of discretized logistics, against SciPy's logistic distribution function."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from tiny_runs import tiny
from torch import Tensor

from models import DiscretizedLogistic, MixtureOfLogistics, Spec
from models.corruptions import GaussianNoise
from models.likelihoods.mixture_of_logistics import MixtureOfLogisticBytes
from ppl_vae.detect import detect
from ppl_vae.errors import InputError
from ppl_vae.restore import restore

DRAWS = 20_000


def mass(value: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """P(v) of one logistic on the bytes, from SciPy's distribution function."""
    top = np.where(value == 255, np.inf, (value + 0.5 - loc) / scale)
    bottom = np.where(value == 0, -np.inf, (value - 0.5 - loc) / scale)
    cdf, sf = scipy.stats.logistic.cdf, scipy.stats.logistic.sf
    return np.where(value < loc, cdf(top) - cdf(bottom), sf(bottom) - sf(top))  # of the near tail


def likelihood_and_features(channels: int, *batch: int) -> tuple[MixtureOfLogistics, Tensor]:
    torch.manual_seed(channels)
    likelihood = MixtureOfLogistics(Spec((channels, 2, 3), "bytes", 2), components=3)
    return likelihood, torch.randn(*batch, *likelihood.features).double()


def by_hand(features: np.ndarray, x: np.ndarray, channels: int) -> np.ndarray:
    """log P(x) of (H, W) pixels, component by component and channel by channel."""
    parts = features.reshape(3, -1, 2, 3)
    weights = scipy.special.softmax(parts[:, 0], axis=0)
    total = np.zeros((2, 3))
    for k, weight in enumerate(weights):
        locs = 127.5 * (1 + parts[k, 1 : 1 + channels])
        scales = 0.05 + 16 * np.exp(parts[k, 1 + channels : 1 + 2 * channels])
        slopes = iter(np.tanh(parts[k, 1 + 2 * channels :]))
        joint = weight.copy()
        for c in range(channels):
            loc = locs[c] + sum(next(slopes) * (x[d] - 127.5) for d in range(c))
            joint *= mass(x[c], loc, scales[c])
        total += joint
    return np.log(total).sum()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_log_prob_is_that_of_scipy(channels):
    likelihood, features = likelihood_and_features(channels, 4)
    x = torch.randint(256, (4, channels, 2, 3)).double()
    x[0], x[1] = 0, 255
    got = likelihood(features).log_prob(x)
    expected = [by_hand(f.numpy(), v.numpy(), channels) for f, v in zip(features, x, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_masses_of_a_grey_pixel_sum_to_one():
    likelihood = MixtureOfLogistics(Spec((1, 1, 1), "bytes", 2), components=4)
    features = 3 * torch.randn(20, *likelihood.features).double()
    values = torch.arange(256).double().reshape(-1, 1, 1, 1, 1)
    total = likelihood(features).log_prob(values).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(20).double(), rtol=0, atol=1e-12)


def test_the_masses_of_a_pixel_of_two_channels_sum_to_one():
    likelihood = MixtureOfLogistics(Spec((2, 1, 1), "bytes", 2), components=2)
    features = 2 * torch.randn(3, *likelihood.features).double()
    values = torch.tensor([*product(range(256), repeat=2)]).double().reshape(-1, 1, 2, 1, 1)
    total = likelihood(features).log_prob(values).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3).double(), rtol=0, atol=1e-10)


def test_a_third_channel_given_the_others_sums_to_one():
    """p(r, g, b) summed over b is p(r, g), the mass of a likelihood of two channels."""
    three = MixtureOfLogistics(Spec((3, 1, 1), "bytes", 2), components=2)
    features = torch.randn(3, *three.features).double()
    values = torch.full((256, 1, 3, 1, 1), 100.0).double()
    values[:, 0, 1], values[:, 0, 2, 0, 0] = 40, torch.arange(256).double()
    summed = three(features).log_prob(values).exp().sum(0)
    p = three(features)
    two = MixtureOfLogisticBytes(p.logits, p.loc[..., :2, :, :], p.scale[..., :2, :, :], p.slopes)
    torch.testing.assert_close(summed, two.log_prob(values[0, :, :2]).exp(), rtol=1e-9, atol=0)


def test_one_component_of_grey_is_the_discretized_logistic():
    spec = Spec((1, 2, 3), "bytes", 2)
    mixture, single = MixtureOfLogistics(spec, components=1), DiscretizedLogistic(spec)
    features = torch.randn(5, *mixture.features).double()
    x = torch.randint(256, (5, 1, 2, 3)).double()
    expected = single(features[:, 1:])
    torch.testing.assert_close(mixture(features).log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(mixture(features).mean, expected.mean)


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_have_the_moments_of_the_masses(channels):
    """Means, and the products of neighbouring channels, which the slopes make."""
    likelihood, features = likelihood_and_features(channels)
    p = likelihood(features)
    drawn = p.sample(torch.Size((DRAWS,)))
    assert drawn.shape == (DRAWS, channels, 2, 3)
    assert p.support.check(drawn).all()
    # E[f(v)] = sum_v f(v) P(v), estimated from uniform values with weights.
    values = torch.randint(256, (100_000, channels, 2, 3)).double()
    single = MixtureOfLogisticBytes(
        *(
            part.flatten(-2).movedim(-1, 0)[..., None, None]
            for part in (p.logits, p.loc, p.scale, p.slopes)
        )
    )  # a pixel is a datum
    weights = single.log_prob(values.flatten(-2).movedim(-1, 1)[..., None, None]).exp()
    weights = (weights * 256.0**channels).unflatten(-1, (2, 3))
    for statistic in (lambda v: v[:, -1], lambda v: v[:, 0] * v[:, -1]):
        got, other = statistic(drawn), weights * statistic(values)
        error = (got.var(0) / len(got) + other.var(0) / len(other)).sqrt()
        assert ((got.mean(0) - other.mean(0)).abs() < 4.5 * error).all()


def test_the_decoder_begins_at_the_mean_and_colour_has_no_closed_form():
    likelihood = MixtureOfLogistics(Spec((3, 2, 2), "bytes", 2), components=2)
    mean = torch.tensor([60.0, 120.0, 180.0])[:, None, None].expand(3, 2, 2)
    p = likelihood(likelihood.features_for_mean(mean))
    with pytest.raises(NotImplementedError, match="no closed form"):
        _ = p.mean
    drawn = p.sample(torch.Size((4000,)))
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - mean).abs() < 5 * error + 1).all()  # the range cuts tails off
    wide = p.expand(torch.Size((5, 4)))
    assert wide.batch_shape == (5, 4)
    assert wide.sample().shape == (5, 4, 3, 2, 2)


@pytest.mark.usefixtures("no_pictures")
def test_what_needs_single_pixels_refuses_it_with_a_remedy(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run", likelihood=MixtureOfLogistics, epochs=1, batch_size=400)
    remedy = "independent given z.*MixtureOfLogisticBytes; choose --likelihood DiscretizedLogistic"
    with pytest.raises(InputError, match=remedy):
        restore(run, corruption=GaussianNoise(0.1), corrupt=True, count=2)
    with pytest.raises(InputError, match=r"independent given z.*; choose another --likelihood"):
        detect(run, data_points=2)
