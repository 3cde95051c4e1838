"""Importance weights are per datum, and their averages are what the equations say."""

import gc
from dataclasses import fields
from math import log, sqrt

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import (
    SPEC,
    Posterior,
    TwoLevels,
    ppca,
    split_of,
    two_levels_log_likelihood,
    two_levels_model,
)
from scipy.special import logsumexp
from tiny_runs import TINY
from torch import Tensor

import ppl_vae.measures.estimates
from guides import DiagonalNormal
from models import VAE, Bernoulli, Gaussian, Likelihood, Linear, ProbabilisticPCA, Spec
from ppl_vae.data import Split
from ppl_vae.densities.weights import LogTerms, log_terms, log_weights
from ppl_vae.measures.estimates import estimate


@pytest.fixture
def model() -> ProbabilisticPCA:
    return ppca()


@pytest.fixture
def images() -> Split:
    return split_of(torch.randn(7, *SPEC.image_shape, dtype=torch.float64))


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
def test_the_terms_are_the_densities_of_the_draws(likelihood: type[Likelihood]) -> None:
    spec = Spec((1, 3, 4), likelihood.domain, 2)
    model = VAE(spec, likelihood=likelihood(spec), network=TINY).double()
    guide = DiagonalNormal(spec, network=TINY).double()
    x = torch.rand(5, 1, 3, 4, dtype=torch.float64).bernoulli()
    torch.manual_seed(4)
    terms = log_terms(model, guide, x, 6)
    torch.manual_seed(4)
    with torch.no_grad():
        q = guide.posterior(x)
        z = (q.mean + q.stddev * torch.randn(6, 5, 2, dtype=torch.float64)).numpy()
        decoded = model.decode(torch.from_numpy(z)).mean.numpy()
    mean, scale = q.mean.numpy(), q.stddev.numpy()
    if likelihood is Bernoulli:
        pixels = scipy.stats.bernoulli.logpmf(x.numpy(), decoded)
    else:
        sigma = 1e-3 + model.likelihood.log_scale.exp().item()
        pixels = scipy.stats.norm.logpdf(x.numpy(), decoded, sigma)
    expected = {
        "log_prior": scipy.stats.norm.logpdf(z).sum(-1),
        "log_likelihood": pixels.sum((-3, -2, -1)),
        "log_guide": scipy.stats.norm.logpdf(z, mean, scale).sum(-1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(terms, name).detach(), value, rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(
        terms.log_weights.detach(),
        expected["log_prior"] + expected["log_likelihood"] - expected["log_guide"],
        rtol=1e-10,
    )


def test_the_weights_of_a_datum_do_not_depend_on_the_others(model, images) -> None:
    """Draw by draw: other images beside it change nothing."""
    guide = DiagonalNormal(SPEC, network=Linear).double()
    x = images[:]
    torch.manual_seed(1)
    weights = log_weights(model, guide, x, 5)
    assert weights.shape == (5, 7)
    changed = x.clone()
    changed[3:] = 100 * torch.randn_like(changed[3:])
    torch.manual_seed(1)
    with_others = log_weights(model, guide, changed, 5)
    torch.testing.assert_close(with_others[:, :3], weights[:, :3], rtol=1e-12, atol=1e-12)
    assert ((with_others[:, 3:] - weights[:, 3:]).abs() > 1).all()


def test_gradients_of_a_datum_do_not_reach_the_others(model, images) -> None:
    guide = DiagonalNormal(SPEC, network=Linear).double()
    x = images[:].requires_grad_()
    log_weights(model, guide, x, 5)[:, 2].logsumexp(0).backward()
    reached = x.grad.flatten(1).abs().sum(1) > 0
    assert reached.tolist() == [index == 2 for index in range(7)]


def test_the_exact_posterior_gives_log_p_from_one_draw(model, images) -> None:
    guide = Posterior(model)
    exact = model.log_likelihood(images[:])
    for particles in (1, 17):
        weights = log_weights(model, guide, images[:], particles)
        torch.testing.assert_close(weights, exact.expand(particles, 7), rtol=0, atol=1e-9)
        estimates = estimate(model, guide, images, particles)
        torch.testing.assert_close(estimates.elbo, exact, rtol=0, atol=1e-9)
        torch.testing.assert_close(estimates.log_likelihood, exact, rtol=0, atol=1e-9)


def test_the_bound_rises_with_the_particles_to_log_p(model, images) -> None:
    """Burda, Grosse and Salakhutdinov (2016), theorem 1."""
    guide, x = Posterior(model, 2.0), images[:]
    weights = log_weights(model, guide, x, 65_536).numpy()
    exact = model.log_likelihood(x).numpy()
    means, errors = [], []
    for particles in (1, 4, 16, 64, 256):
        groups = weights.reshape(-1, particles, 7)
        bounds = (logsumexp(groups, axis=1) - log(particles)).mean(-1)
        means.append(bounds.mean())
        errors.append(bounds.std(ddof=1) / sqrt(len(bounds)))
    steps, errors = np.diff(means), np.array(errors)
    assert (steps > 4 * np.hypot(errors[1:], errors[:-1]))[:3].all()
    assert (np.array(means) < exact.mean() + 4 * errors).all()
    everything = logsumexp(weights, axis=0) - log(len(weights))
    relative = np.exp(weights - exact)  # of mean 1
    standard_error = relative.std(0, ddof=1) / sqrt(len(weights))
    assert (standard_error < 0.01).all()
    assert (np.abs(everything - exact) < 4.5 * standard_error).all()


def test_the_bound_of_one_particle_is_the_elbo(model: ProbabilisticPCA, images: Split) -> None:
    """For q = p(z|x) with its covariance doubled, KL(q || p) = (D - D log 2) / 2 for every x."""
    estimates = estimate(model, Posterior(model, 2.0), images, 40_000)
    divergence = 0.5 * SPEC.latent_dim * (1 - log(2))
    gap = model.log_likelihood(images[:]) - estimates.elbo
    # log q / p = (chi^2_D - D log 2) / 2, of variance D / 2
    assert ((gap - divergence).abs() < 4 * sqrt(SPEC.latent_dim / 2 / 40_000)).all()


def test_gradients_come_through_the_weights_of_a_pair_by_hand() -> None:
    """Of log p(x, z) - log q(z|x) in the scales of a chain of normals: that of the bound."""
    x, guide = torch.randn(3, 2, dtype=torch.float64), TwoLevels()
    weights = log_weights(two_levels_model, guide, x, 20_000)
    relative = (weights - two_levels_log_likelihood(x)).exp()
    error = relative.std(0) / sqrt(20_000)
    assert ((relative.mean(0) - 1).abs() < 4 * error).all()
    weights.mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in guide.parameters())


class Recorder:
    """Stands in for `log_terms` and keeps what it returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: list[LogTerms] = []
        monkeypatch.setattr(ppl_vae.measures.estimates, "log_terms", self)

    def __call__(self, *arguments, **options) -> LogTerms:
        self.parts.append(log_terms(*arguments, **options))
        return self.parts[-1]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [tuple(part.log_prior.shape) for part in self.parts]


def pair() -> tuple[VAE, DiagonalNormal]:
    spec = Spec((1, 3, 4), "binary", 2)
    return VAE(spec, network=TINY).double(), DiagonalNormal(spec, network=TINY).double()


# Decoding a z: two layers of 8 and one of 12 numbers (the hooks see a layer's output in float64),
# and six float32 temporaries for each of the 12 pixels.
BYTES_PER_ROW = 8 * (8 + 8 + 12) + 6 * 4 * 12


@pytest.mark.parametrize("rows", [1, 3, 10, 25, 1000])
def test_pieces_cover_all_and_stay_below_the_bound(monkeypatch, rows) -> None:
    model, guide = pair()
    recorder, advanced = Recorder(monkeypatch), []
    x = torch.rand(7, 1, 3, 4, dtype=torch.float64).bernoulli()
    images, particles = split_of(x), 23
    memory = rows * BYTES_PER_ROW + BYTES_PER_ROW // 2
    estimates = estimate(model, guide, images, particles, memory, advanced.append)
    assert all(k * b * BYTES_PER_ROW <= memory for k, b in recorder.shapes)
    assert max(k * b for k, b in recorder.shapes) > rows / 2 or rows >= 7 * particles
    assert sum(k * b for k, b in recorder.shapes) == 7 * particles
    assert sum(advanced) == 7

    # The pieces put together, and averaged in one go.
    parts: list[list[LogTerms]] = [[]]
    for part in recorder.parts:
        if sum(len(p.log_prior) for p in parts[-1]) == particles:
            parts.append([])
        parts[-1].append(part)
    whole = {
        name: np.concatenate(
            [np.concatenate([getattr(p, name) for p in images]) for images in parts], axis=1
        )
        for name in ("log_prior", "log_likelihood", "log_guide")
    }
    weights = whole["log_prior"] + whole["log_likelihood"] - whole["log_guide"]
    assert weights.shape == (particles, 7)
    expected = {
        "elbo": weights.mean(0),
        "rate": (whole["log_guide"] - whole["log_prior"]).mean(0),
        "distortion": -whole["log_likelihood"].mean(0),
        "log_likelihood": logsumexp(weights, axis=0) - log(particles),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(estimates, name), value, rtol=1e-12, atol=1e-12)


def test_the_pieces_do_not_change_the_distribution() -> None:
    """Small and large pieces agree within the Monte Carlo error."""
    model, guide = pair()
    x = torch.rand(4, 1, 3, 4, dtype=torch.float64).bernoulli()
    images = split_of(x)
    particles = 4000
    small = estimate(model, guide, images, particles, 100 * BYTES_PER_ROW)
    large = estimate(model, guide, images, particles, 2**30)
    with torch.no_grad():
        spread = log_weights(model, guide, x, particles).std(0)
    standard_error = sqrt(2 / particles) * spread
    assert not torch.equal(small.elbo, large.elbo)
    assert ((small.elbo - large.elbo).abs() < 4 * standard_error).all()
    assert ((small.log_likelihood - large.log_likelihood).abs() < 4 * standard_error).all()


def test_the_estimate_leaves_no_graph_and_no_parameter_changed() -> None:
    model, guide = pair()
    images = split_of(torch.ones(3, 1, 3, 4, dtype=torch.float64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    estimates = estimate(model, guide, images, 5)
    assert not any(getattr(estimates, f.name).requires_grad for f in fields(estimates))
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_long_evaluation_keeps_nothing_of_an_image():
    """Small results that stay, allocated between large temporaries, pin the memory of those.

    The evaluation of 10,000 images grew to 9 GB by that.
    """
    images = split_of(torch.rand(20, 1, 3, 4))
    alive: list[int] = []

    def note(done: int) -> None:
        if not done:
            return
        gc.collect()
        alive.append(sum(type(thing) is Tensor for thing in gc.get_objects()))

    model = ProbabilisticPCA(SPEC)
    gc.freeze()  # the objects of all other tests, which take minutes to go through
    try:
        estimate(model, DiagonalNormal(SPEC), images, 50, memory_bytes=1, advance=note)
    finally:
        gc.unfreeze()
    assert len(alive) == 20
    assert len(set(alive[1:])) == 1
