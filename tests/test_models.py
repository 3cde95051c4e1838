"""The spec, the priors and the generative programs, against SciPy and quadrature."""

from collections import Counter
from itertools import product

import numpy as np
import pyro.poutine as poutine
import pytest
import scipy.special
import scipy.stats
import torch

from guides import DiagonalNormal, Guide
from models import (
    MLP,
    VAE,
    Bernoulli,
    Gaussian,
    Likelihood,
    Linear,
    Model,
    Network,
    Prior,
    Spec,
    StandardNormal,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (((28, 28), "binary", 2), r"image_shape \(C, H, W\) of sizes >= 1; got \(28, 28\)"),
        (((1, 0, 28), "binary", 2), r"expected image_shape .* got \(1, 0, 28\)"),
        (((1, 2, 2), "grey", 2), r"expected a domain of binary, unit, bytes, real; got 'grey'"),
        (((1, 2, 2), "binary", 0), r"expected latent_dim >= 1; got 0"),
    ],
)
def test_spec_refuses(values: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spec(*values)


def test_spec_counts_pixels_and_scales_bytes_only() -> None:
    assert Spec((3, 5, 7), "bytes", 2).pixels == 105
    x = torch.tensor([0.0, 51.0, 255.0])
    assert Spec((1, 1, 3), "bytes", 2).network_input(x).tolist() == pytest.approx([0, 0.2, 1])
    for domain in ("binary", "unit", "real"):
        assert Spec((1, 1, 3), domain, 2).network_input(x) is x


@pytest.mark.parametrize("abstract", [Model, Guide, Prior, Likelihood, Network])
def test_contracts_cannot_be_constructed(abstract: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        abstract()


def test_standard_normal_matches_scipy() -> None:
    prior = StandardNormal(Spec((1, 2, 2), "binary", 3)).double()()
    assert (prior.batch_shape, prior.event_shape) == ((), (3,))
    z = 3 * torch.randn(50, 3, dtype=torch.float64)
    expected = scipy.stats.multivariate_normal(np.zeros(3)).logpdf(z.numpy())
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-13)


def test_vae_chooses_the_likelihood_by_the_domain() -> None:
    assert isinstance(VAE(Spec((1, 2, 2), "binary", 3)).likelihood, Bernoulli)
    assert isinstance(VAE(Spec((1, 2, 2), "real", 3)).likelihood, Gaussian)


def test_joint_density_matches_scipy() -> None:
    spec = Spec((1, 2, 3), "binary", 2)
    model = VAE(spec, network=Linear).double()
    x = torch.bernoulli(torch.full((4, 1, 2, 3), 0.5, dtype=torch.float64))
    trace = poutine.trace(model).get_trace(x)
    z = trace.nodes["z"]["value"].numpy()
    weight, bias = (p.detach().numpy() for p in model.decoder.linear.parameters())
    log_prior = scipy.stats.norm.logpdf(z).sum(-1)
    probability = scipy.special.expit(z @ weight.T + bias)
    log_likelihood = scipy.stats.bernoulli.logpmf(x.flatten(1).numpy(), probability).sum(-1)
    expected = (log_prior + log_likelihood).sum()
    assert trace.log_prob_sum().item() == pytest.approx(expected, rel=1e-13)


def test_draws_from_the_vae_follow_its_marginal() -> None:
    # With one latent dimension p(x) = integral of p(z) p(x|z) is a one-dimensional quadrature,
    # and with four binary pixels there are 16 images to do it for.
    model = VAE(Spec((1, 2, 2), "binary", 1), network=lambda i, o: MLP(i, o, hidden=(8,))).double()
    for parameter in model.parameters():
        parameter.data *= 3
    images = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    # Gauss and Hermite's rule for the weight exp(-z^2 / 2); 100 nodes are exact to rounding here.
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    with torch.no_grad():
        conditional = model.decode(torch.tensor(nodes)[:, None]).log_prob(
            images.reshape(16, 1, 1, 2, 2)
        )
    marginal = conditional.exp().numpy() @ weights / np.sqrt(2 * np.pi)
    assert marginal.sum() == pytest.approx(1, abs=1e-12)

    draws = 20_000
    with torch.no_grad():
        drawn = model(size=draws)
    assert drawn.shape == (draws, 1, 2, 2)
    counts = Counter(map(tuple, drawn.flatten(1).int().tolist()))
    frequency = np.array([counts[tuple(image)] for image in images.int().tolist()]) / draws
    standard_error = np.sqrt(marginal * (1 - marginal) / draws)
    assert (np.abs(frequency - marginal) < 4 * standard_error).all()
    # Were z ignored, the pixels would be independent; these are far from it.
    on = images.numpy().T @ marginal
    independent = np.where(images.numpy() == 1, on, 1 - on).prod(1)
    assert (np.abs(frequency - independent) > 8 * standard_error).any()


def test_diagonal_normal_is_the_encoder_of_aevb() -> None:
    spec = Spec((1, 2, 3), "bytes", 2)
    guide = DiagonalNormal(spec, network=Linear).double()
    x = torch.randint(256, (5, 1, 2, 3)).double()
    z = torch.randn(7, 5, 2, dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in guide.encoder.linear.parameters())
    loc, log_variance = np.split(x.flatten(1).numpy() / 255 @ weight.T + bias, 2, axis=-1)
    expected = scipy.stats.norm.logpdf(z.numpy(), loc, np.exp(log_variance / 2)).sum(-1)
    np.testing.assert_allclose(guide.posterior(x).log_prob(z).detach(), expected, rtol=1e-12)


def test_a_guide_without_one_distribution_says_so() -> None:
    class Sampler(Guide):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(NotImplementedError, match="of Sampler is not one distribution"):
        Sampler(Spec((1, 2, 2), "real", 2)).posterior(torch.zeros(1, 1, 2, 2))
