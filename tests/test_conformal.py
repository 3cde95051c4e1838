"""Conformal p-values: their arithmetic, and the guarantee, which needs no good model."""

from math import ceil, sqrt

import numpy as np
import pytest
from scipy.stats import beta, multivariate_normal

from ppl_vae.errors import InputError
from ppl_vae.measures.conformal import (
    check_calibration,
    conformal_p_values,
    discoveries,
    exact_false_alarm_rate,
    rate_with_interval,
    threshold_at,
)
from ppl_vae.measures.detection import Detection

RNG = np.random.default_rng(0)


def test_a_p_value_counts_the_calibration_scores_that_are_as_large() -> None:
    calibration = RNG.integers(10, size=30).astype(float)  # with many ties
    scores = np.array([*RNG.integers(-2, 12, size=40), 4.5, np.inf, -np.inf])
    expected = [(1 + sum(each >= score for each in calibration)) / 31 for score in scores]
    assert conformal_p_values(calibration, scores).tolist() == expected
    assert conformal_p_values(calibration, [np.nan]) == conformal_p_values(calibration, [np.inf])
    assert conformal_p_values([*calibration, np.nan], [np.inf]) == 2 / 32


def test_a_score_that_is_nan_is_a_false_alarm_as_it_is_a_flag() -> None:
    calibration, judged = RNG.normal(size=39), np.array([-1.0, np.nan, 0.0, np.inf])
    p_values = conformal_p_values(calibration, judged)
    flagged = p_values <= 0.05
    normal = np.zeros(4, bool)
    found = Detection(
        {"elbo": judged}, {"elbo": p_values}, flagged, threshold_at(calibration, 0.05), normal,
        {"elbo": calibration}, {"elbo": judged}, np.zeros(0, int), np.zeros(0, np.float32), {},
    )  # fmt: skip
    assert flagged.sum() == 2
    assert found.rates()["false_alarm_rate"] == 0.5


@pytest.mark.parametrize("alpha", [0.05, 0.29])
@pytest.mark.parametrize("trained", [True, False])
def test_the_false_alarm_rate_is_exact_over_calibration_sets(alpha: float, trained: bool) -> None:
    """200 sets of n normal data, judged by -log p of the true density and of a poor one."""
    n, fresh, sets = 99, 200, 200
    covariance = np.array([[2.0, 1.5], [1.5, 2.0]])
    model = multivariate_normal(np.zeros(2), covariance if trained else np.diag([0.1, 30.0]))
    x = RNG.multivariate_normal(np.zeros(2), covariance, size=(sets, n + fresh))
    scores = -model.logpdf(x)
    rates = [np.mean(conformal_p_values(each[:n], each[n:]) <= alpha) for each in scores]
    standard_error = np.std(rates, ddof=1) / sqrt(sets)
    assert exact_false_alarm_rate(alpha, n) == pytest.approx(alpha)  # alpha (n + 1) is whole
    assert abs(np.mean(rates) - exact_false_alarm_rate(alpha, n)) < 3 * standard_error


def test_the_exact_rate_is_the_largest_share_of_ranks_below_alpha() -> None:
    for n in (19, 20, 57, 99, 1000):
        for alpha in (0.01, 0.05, 0.29, 0.5, 0.99):
            ranks = np.arange(1, n + 2) / (n + 1)
            assert exact_false_alarm_rate(alpha, n) == ranks[ranks <= alpha].max(initial=0)


def test_scores_above_the_threshold_are_those_with_a_small_p_value() -> None:
    calibration = RNG.normal(size=40).round(1)
    scores = RNG.normal(size=200).round(1)
    p_values = conformal_p_values(calibration, scores)
    for p_value in (0.0, *np.arange(1, 42) / 41):
        above = scores > threshold_at(calibration, p_value)
        assert np.array_equal(above, p_values <= p_value)


@pytest.mark.parametrize("rate", [0.05, 0.1, 1 / 3, 0.009])
def test_too_few_calibration_images_are_refused_with_the_number_needed(rate: float) -> None:
    needed = ceil(1 / rate) - 1
    assert 1 / (needed + 1) <= rate < 1 / needed
    check_calibration("false_alarms", rate, needed)
    with pytest.raises(InputError, match=f"at least {needed} calibration images") as refused:
        check_calibration("false_alarms", rate, needed - 1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(InputError, match="above 0 and below 1"):
        check_calibration("false_alarms", rate, 1000)


def test_discoveries_are_those_of_the_step_up_procedure() -> None:
    """Benjamini and Hochberg as they wrote it: all up to the largest k with p_(k) <= q k / N."""
    for _ in range(50):
        p_values = np.concatenate([RNG.uniform(size=30), RNG.uniform(0, 0.02, size=8)])
        for rate in (0.05, 0.2):
            ordered = np.sort(p_values)
            below = np.flatnonzero(ordered <= rate * np.arange(1, 39) / 38)
            largest = ordered[below[-1]] if len(below) else -1
            assert np.array_equal(discoveries(p_values, rate), p_values <= largest)


def test_the_share_of_false_discoveries_is_kept() -> None:
    """On conformal p-values, which share one calibration set: on average over the sets."""
    shares = []
    for _ in range(200):
        calibration, normal = RNG.normal(size=200), RNG.normal(size=90)
        p_values = conformal_p_values(calibration, np.concatenate([normal, RNG.normal(4, 1, 10)]))
        flagged = discoveries(p_values, 0.2)
        shares.append(flagged[:90].sum() / max(1, flagged.sum()))
    assert 0.05 < np.mean(shares) < 0.2 * 90 / 100 + 3 * np.std(shares) / sqrt(200)


def test_the_interval_of_a_rate_is_that_of_clopper_and_pearson() -> None:
    share, low, high = rate_with_interval(7, 120)
    assert share == 7 / 120
    assert low == pytest.approx(beta.ppf(0.025, 7, 114))
    assert high == pytest.approx(beta.ppf(0.975, 8, 113))
    assert rate_with_interval(0, 10)[1] == 0
