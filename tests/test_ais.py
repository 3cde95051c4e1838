"""Annealed importance sampling: log p(x) from below and from above, with intervals that cover."""

from math import log, sqrt

import pytest
import torch
from oracles import (
    Posterior,
    counts,
    counts_log_likelihood,
    counts_lognormal_guide,
    counts_model,
    curved_grid,
    curved_guide,
    curved_model,
    ppca,
    two_clusters,
    two_clusters_normal,
    two_clusters_terms,
)
from torch import Tensor

from ppl_vae.inference.ais import AIS, ais, bidirectional, interval


def covered(found: AIS, exact: Tensor) -> Tensor:
    return (found.lower <= exact) & (exact <= found.upper)


def test_the_interval_covers_log_p_in_95_of_100_runs() -> None:
    """A hundred runs side by side, on as many data; all chains are independent."""
    model = ppca()
    x = model(size=100)
    found = ais(model, Posterior(model), x, temperatures=60, leapfrog_steps=3)
    exact = model.log_likelihood(x)
    assert covered(found, exact).sum() >= 95
    error = (found.log_likelihood - exact) / found.standard_error
    assert (error.abs() < 3).sum() >= 95
    assert found.log_weights.shape == (16, 100)
    assert ((found.acceptance > 0.4) & (found.acceptance < 0.9)).all()


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_intervals_cover_as_often_as_they_say(start: str, level: float) -> None:
    """Ten times a hundred runs, repeated on the same data; short and long ones."""
    model = ppca()
    x = model(size=100)
    exact = model.log_likelihood(x)
    for temperatures in (20, 300):
        inside = 0
        for _ in range(10):
            found = ais(
                model, Posterior(model, 1.5), x, temperatures=temperatures, leapfrog_steps=3,
                start=start, level=level,
            )  # fmt: skip
            inside += int(covered(found, exact).sum())
        assert inside >= 1000 * level - 3 * sqrt(1000 * level * (1 - level))


def test_intervals_of_a_narrow_guide_cover_as_often_as_they_say() -> None:
    """Skewed weights, a short way and few chains; Student's t of C - 1 would cover 91 to 93 %."""
    model = ppca()
    x = model(size=100)
    exact = model.log_likelihood(x)
    inside = 0
    for _ in range(8):
        found = ais(
            model, Posterior(model, 0.5), x, temperatures=10, leapfrog_steps=3, start="guide"
        )
        inside += int(covered(found, exact).sum())
    assert inside >= 800 * 0.985 - 3 * sqrt(800 * 0.985 * 0.015)


def test_weights_have_the_expectation_p() -> None:
    """With two temperatures and poor steps too: the mean over many chains is p(x)."""
    model = ppca()
    x = model(size=2)
    for start, variance in (("prior", 1.0), ("guide", 2.0)):
        found = ais(
            model, Posterior(model, variance), x, chains=4000, temperatures=3, leapfrog_steps=2,
            start=start,
        )  # fmt: skip
        relative = (found.log_weights - model.log_likelihood(x)).exp()
        error = relative.std(0) / sqrt(4000)
        assert ((relative.mean(0) - 1).abs() < 4 * error).all()
        torch.testing.assert_close(found.standard_error, error / relative.mean(0))


def test_a_positive_latent_and_a_grid() -> None:
    x, pixels = counts(10), torch.rand(10, 6, dtype=torch.float64).bernoulli()
    for model, guide, data, exact in (
        (counts_model, counts_lognormal_guide, x, counts_log_likelihood(x)),
        (curved_model, curved_guide, pixels, curved_grid(pixels)[1].logsumexp(0)),
    ):
        found = ais(model, guide, data, temperatures=40, leapfrog_steps=3)
        assert covered(found, exact).all()


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_a_class_that_is_summed_out(start: str) -> None:
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    exact = two_clusters_terms(x).logsumexp(-1)
    found = ais(
        two_clusters, two_clusters_normal, x, temperatures=30, leapfrog_steps=3, start=start
    )
    assert covered(found, exact).sum() >= 19
    assert ((found.log_likelihood - exact).abs() < 5 * found.standard_error + 1e-3).all()
    both = bidirectional(
        two_clusters, two_clusters_normal, 60, temperatures=30, leapfrog_steps=3, start=start,
        like=x,
    )  # fmt: skip
    truth = two_clusters_terms(both.batch[0]).logsumexp(-1)
    error = both.gap.std() / sqrt(60)
    assert abs((both.above - truth).mean()) < 4 * error


def test_more_temperatures_bring_the_bounds_together() -> None:
    model = ppca()
    gaps = []
    for temperatures in (5, 50):
        found = bidirectional(
            model, Posterior(model), 50, chains=8, temperatures=temperatures, leapfrog_steps=3
        )
        exact = model.log_likelihood(found.batch[0])
        error = found.gap.std() / sqrt(50)
        assert (found.below.log_likelihood - exact).mean() < 3 * error
        assert (found.above - exact).mean() > -3 * error
        torch.testing.assert_close(found.gap, found.above - found.below.log_likelihood)
        gaps.append(found.gap.mean())
    assert gaps[0] > 2 * gaps[1] > 0
    assert found.latents["z"].shape == (50, 2)


def test_backwards_weights_have_the_expectation_one_over_p() -> None:
    """E[p(x) w'] = 1 over data, latents and chains together."""
    model = ppca()
    found = bidirectional(
        model, Posterior(model, 1.5), 3000, chains=2, temperatures=8, leapfrog_steps=2,
        start="guide",
    )  # fmt: skip
    relative = (model.log_likelihood(found.batch[0]) - found.above).exp()
    assert abs(relative.mean() - 1) < 4 * relative.std() / sqrt(3000)


def test_a_model_by_hand_goes_both_ways() -> None:
    like = torch.ones(1, 5, dtype=torch.float64)
    found = bidirectional(
        counts_model, counts_lognormal_guide, 60, chains=8, temperatures=30, leapfrog_steps=3,
        like=like,
    )  # fmt: skip
    exact = counts_log_likelihood(found.batch[0])
    error = found.gap.std() / sqrt(60)
    assert abs((found.below.log_likelihood - exact).mean()) < 4 * error
    assert abs((found.above - exact).mean()) < 4 * error


@pytest.mark.parametrize("spread", [0.01, 0.5, 2.0])
def test_the_interval_of_log_normal_weights(spread: float) -> None:
    log_weights = spread * torch.randn(16, 4000, dtype=torch.float64) - 50
    _, lower, upper = interval(log_weights, 0.95)
    exact = -50 + spread**2 / 2
    assert ((lower < exact) & (exact < upper)).double().mean() > 0.93
    error, lower, upper = interval(torch.zeros(16, 3), 0.95, rounding=1e-6)
    assert (error == 0).all()
    assert (lower == upper).all()


def test_stuck_chains_do_not_stretch_the_interval() -> None:
    """Half of the chains stay in a mode without mass: the interval covers, and is of use."""
    stuck = torch.rand(16, 4000, dtype=torch.float64) < 0.5
    free = 0.5 * torch.randn(16, 4000, dtype=torch.float64)
    log_weights = torch.where(stuck, -40.0, free) - 100
    _, lower, upper = interval(log_weights, 0.95)
    exact = -100 + log(0.5) + 0.5**2 / 2
    assert ((lower < exact) & (exact < upper)).double().mean() > 0.94
    assert (upper - lower).median() < 20
    assert (lower >= log_weights.logsumexp(0) - log(16) - log(40) - 1e-9).all()


def test_it_fits_into_pieces() -> None:
    model = ppca()
    x = model(size=7)
    told: list[int] = []
    found = ais(
        model, Posterior(model), x, chains=4, temperatures=10, leapfrog_steps=2,
        memory_bytes=30_000, advance=told.append,
    )  # fmt: skip
    assert sum(told) % 10 == 0
    assert sum(told) > 10
    assert found.lower.shape == (7,)
    assert (found.log_likelihood - model.log_likelihood(x)).abs().max() < 5


@pytest.mark.parametrize(
    "options",
    [{"chains": 1}, {"temperatures": 0}, {"leapfrog_steps": 0}, {"level": 1.0}, {"start": "data"}],
    ids=str,
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    model = ppca()
    with pytest.raises(ValueError, match="expected"):
        ais(model, Posterior(model), model(size=2), **options)
    with pytest.raises(ValueError, match="expected"):
        bidirectional(model, Posterior(model), 2, **options)
