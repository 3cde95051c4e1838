"""How well a score ranks anomalous images above normal ones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["nan_as_largest", "ranking_scores"]

_RESAMPLES = 200

Counts = NDArray[np.int64]


def nan_as_largest(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores in which NaN, of an image that has no finite one, is infinite: the most anomalous."""
    values = np.asarray(scores, dtype=np.float64)
    return np.where(np.isnan(values), np.inf, values)


def ranking_scores(anomalous: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """AUROC and average precision of a score, with bootstrap standard errors over the images.

    - auroc: the probability that of an anomalous and a normal image the first has the larger
      score; of equal ones half of the pairs count.
    - average_precision: sum_k (R_k - R_{k-1}) P_k over the thresholds, with precision P and
      recall R. By chance it is the share of anomalous images.

    Args:
        anomalous: (N,) bool; both kinds occur.
        scores: (N,), larger where more anomalous; NaN counts as infinite.

    Returns:
        Each with its `..._standard_error`.
    """
    truth = np.asarray(anomalous, dtype=bool)
    largest_first = -nan_as_largest(scores)
    ranks = np.unique(largest_first, return_inverse=True)[1]
    found, alarms = (
        np.bincount(ranks[kind], minlength=ranks.max() + 1) for kind in (truth, ~truth)
    )
    generator = np.random.default_rng(_RESAMPLES)
    again = [
        _measures(
            *(generator.multinomial(kind.sum(), kind / kind.sum()) for kind in (found, alarms))
        )
        for _ in range(_RESAMPLES)
    ]
    result: dict[str, float] = {}
    for name, value, others in zip(
        ("auroc", "average_precision"),
        _measures(found, alarms),
        zip(*again, strict=True),
        strict=True,
    ):
        result |= {name: value, f"{name}_standard_error": float(np.std(others, ddof=1))}
    return result


def _measures(found: Counts, alarms: Counts) -> tuple[float, float]:
    """AUROC and average precision.

    Args:
        found: How many anomalous images have each score, from the largest score on.
        alarms: How many normal images.
    """
    total, normal = found.sum(), alarms.sum()
    below = normal - alarms.cumsum() + alarms / 2
    precision = found.cumsum() / np.maximum(1, (found + alarms).cumsum())
    return float(found @ below / (total * normal)), float(found @ precision / total)
