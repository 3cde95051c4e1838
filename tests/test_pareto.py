"""k-hat against NumPy, ArviZ and known tails; importance-weighted bounds against closed forms."""

from math import log, sqrt

import numpy as np
import pytest
import scipy.stats
import torch
import xarray
from oracles import Posterior, direct_k_hat, ppca, refused

from ppl_vae.densities.joint import Joint
from ppl_vae.inference.pareto import iwae_curve, pareto_k


@pytest.mark.parametrize("draws", [100, 1000, 5000])
def test_k_hat_is_that_of_a_direct_computation(draws: int) -> None:
    log_weights = 2 * torch.randn(draws, 6, dtype=torch.float64) - 300
    expected = [direct_k_hat(column) for column in log_weights.numpy().T]
    np.testing.assert_allclose(pareto_k(log_weights).k_hat, expected, rtol=1e-6)


def test_smoothing_is_that_of_arviz() -> None:
    log_weights = 1.5 * torch.randn(400, 5, dtype=torch.float64) - 90
    array = xarray.DataArray(
        log_weights.T.reshape(5, 4, 100).numpy(), dims=["image", "chain", "draw"]
    )
    import arviz_stats  # noqa: F401

    # Its argument is the negative of log w, as log-likelihoods are in leave-one-out.
    smoothed, k_hat = (-array).azstats.psislw(dim=["chain", "draw"])
    found = pareto_k(log_weights)
    np.testing.assert_allclose(found.k_hat, k_hat, rtol=1e-6)
    # Weights below the tail stay; the smoothed ones are normalised.
    lowest = array.argmin(["chain", "draw"])
    shift = array[lowest] - smoothed[lowest] - log(400)
    np.testing.assert_allclose(found.log_likelihood, shift, rtol=1e-9)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_k_hat_finds_the_tail_of_pareto_weights(k: float) -> None:
    weights = scipy.stats.genpareto.rvs(k, size=(5000, 200), random_state=1) + 1
    found = pareto_k(torch.as_tensor(np.log(weights))).k_hat
    # The tail has 212 draws: a standard deviation of (1 + k) / sqrt(212), and the prior pulls.
    assert abs(found.mean() - (212 * k + 5) / 222) < 0.03
    assert abs(found.std() / ((1 + k) / sqrt(212)) - 1) < 0.3


def test_the_exact_posterior_has_no_tail() -> None:
    model = ppca()
    x = model(size=4)
    weights = Joint.of(model, Posterior(model), x).log_weights(200)
    found = pareto_k(weights)
    assert (found.k_hat == 0).all()
    torch.testing.assert_close(found.ess, torch.full((4,), 200.0).double())
    torch.testing.assert_close(found.log_likelihood, model.log_likelihood(x))


def test_a_guide_that_is_too_narrow_has_the_tail_that_theory_gives() -> None:
    """With v times the covariance in two dimensions w is a power of an exponential: k = 1 - v."""
    model = ppca()
    weights = Joint.of(model, Posterior(model, 0.3), model(size=100)).log_weights(2000)
    expected, tail = 0.7, int(3 * sqrt(2000))
    standard_error = (1 + expected) / sqrt(tail * 100)
    found = pareto_k(weights).k_hat.mean()
    assert abs(found - (tail * expected + 5) / (tail + 10)) < 4 * standard_error


def test_the_effective_sample_size_counts_what_there_is() -> None:
    log_weights = torch.full((100, 1), -torch.inf)
    log_weights[:30] = 0.0
    assert iwae_curve(log_weights, [100]).bound.item() == pytest.approx(log(0.3))
    assert pareto_k(log_weights).ess.item() == pytest.approx(30)


def test_the_curve_rises_from_the_elbo_as_the_closed_form_says() -> None:
    """For q with twice the posterior's covariance, whose KL is (D - D log 2) / 2."""
    model = ppca()
    x = model(size=3)
    weights = Joint.of(model, Posterior(model, 2.0), x).log_weights(20_000)
    curve = iwae_curve(weights, [1, 10, 100, 20_000])
    exact = model.log_likelihood(x)
    elbo = exact - (1 - log(2))
    assert ((curve.bound[0] - elbo).abs() < 4 * curve.standard_error[0]).all()
    torch.testing.assert_close(curve.standard_error[0], weights.std(0) / sqrt(20_000))
    assert (curve.bound.diff(dim=0) > 0)[:2].all()
    # In two dimensions w / p(x) = 2 v with v uniform on (0, 1): E log of a mean of ten.
    v = np.random.default_rng(0).random((200_000, 10))
    ten = np.log(2 * v.mean(1))
    difference = curve.bound[1] - exact - ten.mean()
    error = (curve.standard_error[1] ** 2 + ten.var() / len(ten)).sqrt()
    assert (difference.abs() < 4 * error).all()
    relative_error = sqrt((4 / 3 - 1) / 20_000)  # E (2 v)^2 = 4 / 3
    torch.testing.assert_close(
        curve.standard_error[-1], torch.full((3,), relative_error).double(), rtol=0.05, atol=0
    )
    assert ((curve.bound[-1] - exact).abs() < 4 * relative_error).all()


def test_the_default_numbers_of_draws() -> None:
    curve = iwae_curve(torch.randn(5000, 2))
    assert curve.particles.tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    assert curve.bound.shape == curve.standard_error.shape == (12, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pareto_k(torch.randn(24, 2)), "at least 25"),
        (lambda: pareto_k(torch.randn(24)), r"\(K, B\)"),
        (lambda: pareto_k(torch.full((30, 2), torch.nan)), "datum 0 has NaN"),
        (lambda: iwae_curve(torch.randn(24, 2), [1, 25]), "from 1 to 24"),
    ],
)
def test_what_is_no_set_of_weights_is_refused(call, said: str) -> None:
    with refused(said):
        call()
