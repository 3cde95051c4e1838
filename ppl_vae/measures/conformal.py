"""Split-conformal p-values, and what follows from them whatever the model is.

n held-out normal images are the calibration. A further normal image is exchangeable with them, so
that its score is as likely to have any of the n + 1 ranks as any other.
"""

from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.errors import InputError
from ppl_vae.measures.ranking import nan_as_largest

__all__ = [
    "check_calibration",
    "conformal_p_values",
    "discoveries",
    "exact_false_alarm_rate",
    "rate_with_interval",
    "threshold_at",
]

_ROUNDING = 1e-9  # that alpha (n + 1) may be short of a whole number, as 0.29 * 100 is of 29


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """p = (1 + #{i : s_i >= s}) / (n + 1), for scores that are larger where more anomalous.

    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Bates, Candes, Lei,
    Romano and Sesia, Testing for Outliers with Conformal p-values, 2023, equation (2). For a normal
    image P(p <= alpha) <= alpha. Equal scores count against the anomaly, without randomness, so
    that ties only make the p-value larger. A score that is NaN is taken as the largest there is.

    Args:
        calibration: s_1, ..., s_n of normal images, (n,).
        scores: Of the images to judge, (N,).

    Returns:
        (N,), from 1 / (n + 1) to 1.
    """
    known = np.sort(nan_as_largest(calibration))
    given = nan_as_largest(scores)
    larger_or_equal = len(known) - np.searchsorted(known, given, side="left")
    return (1 + larger_or_equal) / (len(known) + 1)


def threshold_at(calibration: ArrayLike, p_value: float) -> float:
    """The score t for which p <= p_value where, and only where, s > t.

    Args:
        calibration: s_1, ..., s_n of normal images, (n,).
        p_value: From 1 / (n + 1) on; no score is above the threshold of a smaller one.
    """
    known = np.sort(nan_as_largest(calibration))
    rank = floor(p_value * (len(known) + 1) + _ROUNDING)
    return float([np.inf, *known[::-1], -np.inf][rank])


def exact_false_alarm_rate(alpha: float, calibration: int) -> float:
    """floor(alpha (n + 1)) / (n + 1): P(p <= alpha) of a normal image where no scores are equal.

    Args:
        alpha: The rate that is asked for.
        calibration: n, how many normal images the p-values are from.
    """
    return floor(alpha * (calibration + 1) + _ROUNDING) / (calibration + 1)


def check_calibration(option: str, rate: float, calibration: int) -> None:
    """Refuses a rate that no p-value of so few calibration images can reach.

    Raises:
        InputError: If the rate is not between 0 and 1, or 1 / (n + 1) is above it.
    """
    if not 0 < rate < 1:
        raise InputError(f"--{option}: expected a rate above 0 and below 1; got {rate:g}")
    needed = ceil(1 / rate - 1 - _ROUNDING)
    if calibration < needed:
        raise InputError(
            f"--{option} {rate:g} needs at least {needed:,} calibration images, 1 / {rate:g} - 1; "
            f"the validation split has {calibration:,}; ask for a larger rate, or train a run with "
            "more validation images"
        )


def discoveries(p_values: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """Which images to flag so that on average at most the share `rate` of the flags is false.

    Benjamini and Hochberg, Controlling the False Discovery Rate, 1995. Conformal p-values of one
    calibration depend on each other in a way that keeps the guarantee (Bates et al., 2023, theorem
    2).

    Args:
        p_values: (N,).
        rate: The false-discovery rate to keep.
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p_values, method="bh") <= rate + _ROUNDING)


def rate_with_interval(count: int, total: int) -> tuple[float, float, float]:
    """A share, and its interval of 95 % by Clopper and Pearson (1934)."""
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(0.95, method="exact")
    return count / total, float(interval.low), float(interval.high)
