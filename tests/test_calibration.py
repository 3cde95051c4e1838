"""Ranks are uniform for an exact guide, and only for one."""

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import Posterior, counts_guide, counts_lognormal_guide, counts_model, ppca

from ppl_vae.inference.calibration import simulation_based_calibration


def test_the_exact_posterior_is_calibrated() -> None:
    model = ppca()
    found = simulation_based_calibration(model, Posterior(model), data_points=2000)
    ranks = found.ranks["z"]
    assert ranks.shape == (2000, 2)
    assert ranks.min() >= 0
    assert ranks.max() <= 99
    assert (found.p_value["z"] > 0.001).all()
    assert (found.counts["z"].sum(0) == 2000).all()
    low, high = found.band
    assert ((found.counts["z"] >= low) & (found.counts["z"] <= high)).all()
    for column in ranks.T:
        assert scipy.stats.kstest((column + 0.5) / 100, "uniform").pvalue > 0.001


@pytest.mark.parametrize(("variance", "ends"), [(0.5, True), (2.0, False)])
def test_a_wrong_variance_shows(variance: float, ends: bool) -> None:
    model = ppca()
    found = simulation_based_calibration(model, Posterior(model, variance), data_points=2000)
    assert (found.p_value["z"] < 1e-6).all()
    counts, (low, high) = found.counts["z"], found.band
    outside, inside = counts[[0, -1]], counts[9:11]
    if ends:  # too narrow: the truth is often beyond all draws
        assert (outside > high).all()
        assert (inside < low + 20).all()
    else:
        assert (outside < low).all()
    # Ranks of a normal of variance 1 among draws of variance v: in closed form.
    edges = scipy.stats.norm.ppf(np.arange(21) / 20, scale=variance**0.5)
    expected = 2000 * np.diff(scipy.stats.norm.cdf(edges))
    error = np.sqrt(expected) + 2  # a rank among 99 draws is not quite a quantile
    assert (np.abs(counts.numpy() - expected[:, None]) < 4 * error[:, None]).mean() > 0.9


def test_pairs_by_hand() -> None:
    like = torch.ones(1, 5, dtype=torch.float64)
    exact = simulation_based_calibration(counts_model, counts_guide, like=like)
    assert exact.p_value["rate"].shape == ()
    assert exact.p_value["rate"] > 0.001
    wide = simulation_based_calibration(
        counts_model, counts_lognormal_guide, like=like, data_points=3000
    )
    assert wide.p_value["rate"] < 1e-3


def test_pieces_have_all_the_data() -> None:
    model = ppca()
    told: list[int] = []
    found = simulation_based_calibration(
        model, Posterior(model), data_points=105, draws=9, bins=5, memory_bytes=20_000,
        advance=told.append,
    )  # fmt: skip
    assert sum(told) == len(found.ranks["z"]) == 105
    assert len(told) > 1


def test_the_band_holds_whole_histograms() -> None:
    """Of uniform ranks: simulated; Bonferroni's is at least as wide as it says."""
    model = ppca()
    band = simulation_based_calibration(model, Posterior(model), data_points=1000, draws=19).band
    counts = np.random.default_rng(0).multinomial(1000, np.full(20, 1 / 20), size=5000)
    inside = ((counts >= band[0]) & (counts <= band[1])).all(1).mean()
    assert 0.94 < inside < 0.99


@pytest.mark.parametrize(
    "options", [{"bins": 1}, {"draws": 98}, {"data_points": 99}, {"level": 0.0}], ids=str
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    model = ppca()
    with pytest.raises(ValueError, match="expected"):
        simulation_based_calibration(model, Posterior(model), **options)
