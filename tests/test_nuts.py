"""NUTS on p(z|x): moments within standard errors of closed forms and of a grid."""

import numpy as np
import pytest
import torch
from oracles import (
    Posterior,
    counts,
    counts_log_likelihood,
    counts_lognormal_guide,
    counts_model,
    counts_posterior,
    curved_grid,
    curved_guide,
    curved_model,
    ppca,
    two_clusters,
    two_clusters_normal,
    two_clusters_terms,
)

from ppl_vae.compiler.tracing import traced
from ppl_vae.inference.adaptation import Metric, StepSize
from ppl_vae.inference.marginal_likelihood import marginal_likelihood_estimator
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.trees import sample_nuts


def test_moments_of_a_normal_posterior() -> None:
    """Means and second moments, each within 4 of its own standard errors; one call, many data."""
    model = ppca()
    x = model(size=25)
    told: list[int] = []
    found = nuts_posterior(
        model, Posterior(model, 0.5), x, draws=100, warmup=60, chains=4, advance=told.append
    )
    z = found.latents["z"]
    assert z.shape == (4, 100, 25, 2)
    assert sum(told) == 4 * 25 * 160
    exact = model.posterior(x)
    ess = found.ess["z"]
    assert (ess > 60).all()
    assert ((z.mean((0, 1)) - exact.mean).abs() < 4.5 * exact.stddev / ess.sqrt()).all()
    centred = (z - exact.mean).flatten(0, 1)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred).mean(0) / 400
    relative = covariance / exact.covariance_matrix.mean(0) - 1
    assert relative.diagonal().abs().max() < 4 * (2 / ess.sum(0).min()) ** 0.5
    assert (found.r_hat["z"] < 1.12).all()
    assert found.divergences.shape == (25,)
    assert found.divergences.sum() == 0
    assert 0.7 < found.acceptance.mean() < 0.97
    joint = model.log_likelihood(x) + exact.log_prob(z)
    torch.testing.assert_close(found.log_joint, joint)


def test_chains_of_one_datum_and_those_of_another_are_apart() -> None:
    """Scales that differ by a million have step sizes, metrics and trees of their own."""
    scale = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)[:, None]

    def potential(u):
        return -0.5 * (u / scale).square().sum(-1), -u / scale**2

    start = scale * torch.randn(3, 4, dtype=torch.float64)
    found = sample_nuts(potential, start, torch.ones_like(start), 100, 120)
    spread = (found.draws / scale[:, None]).square().mean((1, 2))
    assert ((spread - 1).abs() < 0.5).all()
    assert not found.diverging.any()
    assert (found.steps.double().mean(1) < 8).all()


def positive_latent() -> tuple:
    """Rates, which are sampled on the logarithm."""
    x = counts(10)
    exact = counts_posterior(x)
    return counts_model, counts_lognormal_guide, x, exact.mean, exact.variance


def far_from_normal() -> tuple:
    """Against a grid."""
    x = torch.rand(12, 6, dtype=torch.float64).bernoulli()
    z, log_joint = curved_grid(x)
    mass = log_joint.softmax(0)
    mean = (mass * z[:, None]).sum(0)
    variance = (mass * z[:, None].square()).sum(0) - mean.square()
    return curved_model, curved_guide, x, mean, variance


CENTRES = torch.tensor([-2.0, 2.0], dtype=torch.float64)


def summed_out() -> tuple:
    """A mixture of two normals."""
    x = torch.linspace(-2, 2, 12, dtype=torch.float64)
    share, centres = two_clusters_terms(x).softmax(-1), (CENTRES + 2 * x[:, None]) / 3
    mean = (share * centres).sum(-1)
    variance = 1 / 3 + (share * centres.square()).sum(-1) - mean.square()
    return two_clusters, two_clusters_normal, x, mean, variance


@pytest.mark.parametrize("pair", [positive_latent, far_from_normal, summed_out])
def test_moments_of_other_posteriors(pair) -> None:
    model, guide, x, mean, variance = pair()
    found = nuts_posterior(model, guide, x, draws=200, warmup=100)
    (z,), (ess,) = found.latents.values(), found.ess.values()
    assert z.shape[:3] == (4, 200, len(x))
    z, ess = z.reshape(800, -1), ess.flatten()
    assert ((z.mean(0) - mean).abs() < 4.5 * (variance / ess).sqrt()).all()
    assert pair is not positive_latent or (z > 0).all()
    if pair is summed_out:
        assert ((z.var(0) / variance - 1).abs() < 5 * (2 / ess).sqrt()).all()
        each = torch.distributions.Normal((CENTRES + 2 * x[:, None]) / 3, (1 / 3) ** 0.5)
        joint = (two_clusters_terms(x) + each.log_prob(z[..., None])).logsumexp(-1)
        torch.testing.assert_close(found.log_joint.flatten(0, 1), joint)


def test_divergences_are_marked() -> None:
    """A funnel: a scale that shrinks faster than any step size follows."""

    def potential(u):
        scale = u[:, :1].clamp(-30, 30)
        log_density = (
            -0.5 * u[:, 0].square() / 9
            - 0.5 * (u[:, 1:].square() * (-scale).exp()).sum(-1)
            - 0.5 * scale[:, 0] * (u.shape[1] - 1)
        )
        others = -u[:, 1:] * (-scale).exp()
        first = -u[:, 0] / 9 + 0.5 * (u[:, 1:].square() * (-scale).exp()).sum(-1) - 2.0
        return log_density, torch.cat([first[:, None], others], -1)

    start = 0.1 * torch.randn(8, 5, dtype=torch.float64)
    found = sample_nuts(potential, start, torch.ones_like(start), 60, 30, target=0.6)
    assert found.diverging.any()
    assert found.draws.isfinite().all()


def test_the_step_size_finds_its_acceptance() -> None:
    """acceptance(eps) = 1 / (1 + eps / e): 0.8 at e / 4, for each chain its own."""
    ideal = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    step = StepSize(torch.ones(3, dtype=torch.float64), 0.8)
    everyone = torch.ones(3, dtype=torch.bool)
    for _ in range(500):
        step.update(everyone, 1 / (1 + step.log_step.exp() / ideal))
    np.testing.assert_allclose(step.average.exp(), ideal / 4, rtol=0.1)
    kept = step.log_step.clone()
    step.update(torch.tensor([True, False, True]), torch.zeros(3, dtype=torch.float64))
    assert (step.log_step != kept).tolist() == [True, False, True]


@pytest.mark.parametrize("warmup", [1, 19, 20, 60, 149, 150, 500, 1000])
def test_metrics_learn_in_windows(warmup: int) -> None:
    metric = Metric(torch.full((2, 3), 7.0, dtype=torch.float64), warmup)
    scale = torch.tensor([[0.5], [3.0]], dtype=torch.float64)
    changed = []
    everyone = torch.ones(2, dtype=torch.bool)
    for number in range(1, warmup + 1):
        made = torch.full((2,), number)
        if metric.update(everyone, made, scale * torch.randn(2, 3)).all():
            changed.append(number)
    assert bool(changed) == (warmup >= 20)
    assert all(number < warmup for number in changed)
    if warmup >= 500:
        assert changed[0] == 100
        np.testing.assert_allclose(metric.variance.mean(1), scale[:, 0] ** 2, rtol=0.4)


def test_a_traced_function_is_the_function() -> None:
    weight = torch.randn(3, 3, requires_grad=True)

    def slope(u):
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = (u @ weight).tanh().sum()
            return (torch.autograd.grad(value, u)[0],)

    first, second, third = torch.randn(3, 5, 3)
    graph = traced(slope, first, second)
    assert graph is not slope
    assert torch.equal(graph(third)[0], slope(third)[0])
    assert torch.equal(graph(third.T.contiguous().T)[0], slope(third)[0])
    branch = lambda u: (u if u.sum() > 0 else -u,)  # noqa: E731
    assert traced(branch, first.abs(), -first.abs()) is branch
    assert traced(lambda u: (torch.rand(3) + u,), first, second)(third)[0].shape == (5, 3)


def test_the_estimator_of_appendix_d_on_conjugate_pairs() -> None:
    x = counts(10)
    found = marginal_likelihood_estimator(
        counts_model, counts_lognormal_guide, x, draws=160, warmup=60
    )
    difference = found.log_likelihood - counts_log_likelihood(x)
    assert (difference.abs() < 6 * found.standard_error + 1e-3).all()  # t of 3 degrees of freedom
    assert (found.standard_error < 0.1).all()


@pytest.mark.parametrize("option", ["draws", "warmup", "chains"])
def test_numbers_out_of_range_are_refused(option: str) -> None:
    model = ppca()
    with pytest.raises(ValueError, match=f"expected {option}"):
        nuts_posterior(model, Posterior(model), model(size=2), **{option: 0})
    with pytest.raises(ValueError, match="expected chains >= 2"):
        marginal_likelihood_estimator(model, Posterior(model), model(size=2), chains=1)
