"""The maximum mean discrepancy against a double loop, and what it does to the loss."""

from functools import partial
from math import exp, sqrt

import numpy as np
import pytest
import torch
from comparing import seeded

from guides import DiagonalNormal
from models import MLP, VAE, Mixture, MixtureOfNormals, Spec
from ppl_vae.densities.weights import log_terms
from ppl_vae.errors import InputError
from ppl_vae.objectives import ELBO, MMD
from ppl_vae.objectives.mmd import squared_discrepancy
from ppl_vae.pairs.checks import check_objective

SPEC = Spec((1, 3, 4), "binary", 3)


def by_loops(a: np.ndarray, b: np.ndarray, kernel: str, width: float) -> float:
    """Gretton et al. (2012), equation (3), pair by pair."""

    def k(u, v) -> float:
        square = sum((s - t) ** 2 for s, t in zip(u, v, strict=True))
        return exp(-square / width**2) if kernel == "normal" else width**2 / (width**2 + square)

    n = len(a)
    total = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += (k(a[i], a[j]) + k(b[i], b[j])) / (n * (n - 1))
            total -= 2 * k(a[i], b[j]) / n**2
    return total


@pytest.mark.parametrize("kernel", ["normal", "inverse_multiquadratic"])
def test_the_estimate_is_that_of_the_loops(kernel):
    a, b = torch.randn(7, 3, dtype=torch.float64), 2 * torch.rand(7, 3, dtype=torch.float64)
    expected = by_loops(a.numpy(), b.numpy(), kernel, 1.7)
    assert squared_discrepancy(a, b, kernel, 1.7).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kernel", ["normal", "inverse_multiquadratic"])
def test_it_is_unbiased(kernel):
    """Zero where the two are one distribution, and else the closed form between normals."""
    repeats, width, shift = 2000, 1.5, 0.8

    def estimates(shift: float) -> torch.Tensor:
        draws = torch.randn(repeats, 2, 5, 1, dtype=torch.float64)
        return torch.stack([squared_discrepancy(a + shift, b, kernel, width) for a, b in draws])

    same = estimates(0.0)
    assert abs(same.mean()) < 4 * same.std() / sqrt(repeats)
    other = estimates(shift)
    if kernel == "normal":  # E exp(-(u - v)^2 / h^2), u - v ~ N(m, 2), is known
        spread = width**2 + 4
        exact = 2 * width / sqrt(spread) * (1 - exp(-(shift**2) / spread))
        assert abs(other.mean() - exact) < 4 * other.std() / sqrt(repeats)
    assert other.mean() > same.mean() + 4 * other.std() / sqrt(repeats)


def build(prior=None):
    network = partial(MLP, hidden=(6,))
    model = VAE(SPEC, prior=prior(SPEC) if prior else None, network=network).double()
    guide = DiagonalNormal(SPEC, network=network).double()
    return model, guide, torch.rand(5, 1, 3, 4).round().double()


def test_without_a_weight_it_is_the_elbo():
    model, guide, x = build()
    objectives = MMD(weight=0.0, alpha=0.0), ELBO()
    loss, elbo = (seeded(objective.loss, model, guide, x) for objective in objectives)
    torch.testing.assert_close(loss, elbo, rtol=1e-12, atol=0)


def test_its_terms_add_up():
    model, guide, x = build()
    objectives = MMD(0.0), MMD(3.0), MMD(3.0, 0.25), MMD(3.0, bandwidth=sqrt(6))
    losses = [seeded(objective.loss, model, guide, x) for objective in objectives]
    terms = seeded(log_terms, model, guide, x, 1)
    prior = torch.randn(5, 3, dtype=torch.float64)  # the next numbers
    z = terms.latents["z"][0].detach().numpy()
    discrepancy = by_loops(z, prior.numpy(), "inverse_multiquadratic", sqrt(6))
    rate = (terms.log_guide - terms.log_prior).mean()
    distortion = -terms.log_likelihood.mean()
    both = distortion + 3 * discrepancy
    torch.testing.assert_close(losses, [distortion, both, both + 0.75 * rate, both])


def test_a_batch_of_one_has_a_loss():
    model, guide, x = build()
    loss = MMD().loss(model, guide, x[:1])
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, guide.encoder.parameters()))


def test_a_prior_that_nothing_would_train_is_refused():
    model, guide, x = build(MixtureOfNormals)
    with pytest.raises(InputError, match=r"MMD cannot be .*'z'.* take alpha below 1"):
        check_objective(MMD(), model, guide, x)
    clusters = Mixture(SPEC).double()  # whose z is reparameterised, but not the choice of a cluster
    with pytest.raises(InputError, match=r"MMD cannot be .*'y'.* take alpha below 1"):
        check_objective(MMD(), clusters, guide, x)
    weights = torch.autograd.grad(MMD(alpha=0.5).loss(clusters, guide, x), clusters.logits)
    assert weights[0].any()
    loss = MMD(alpha=0.5).loss(model, guide, x)
    gradients = torch.autograd.grad(loss, model.prior.parameters())
    assert all(gradient.any() for gradient in gradients)
