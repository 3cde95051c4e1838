"""How well a score ranks anomalous images above normal ones."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ranking_scores"]

_RESAMPLES = 200


def ranking_scores(anomalous: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """AUROC and average precision of a score, with bootstrap standard errors over the images.

    - auroc: the probability that an anomalous image has the larger score of two, ties half.
    - average_precision: sum_k (R_k - R_{k-1}) P_k over the thresholds, with precision P and
      recall R. By chance it is the share of anomalous images.

    Args:
        anomalous: (N,) bool; both kinds occur.
        scores: (N,), larger where more anomalous.

    Returns:
        Each with its `..._standard_error`.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = np.asarray(anomalous, dtype=bool)
    values = np.nan_to_num(scores, nan=np.inf)
    ranks = np.unique(values, return_inverse=True)[1]  # infinite scores have a rank too
    kinds = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    measures: dict[str, Callable[[NDArray, NDArray], float]] = {
        "auroc": roc_auc_score,
        "average_precision": average_precision_score,
    }
    generator = np.random.default_rng(_RESAMPLES)
    picks = [
        np.concatenate([generator.choice(kind, len(kind)) for kind in kinds])
        for _ in range(_RESAMPLES)
    ]
    result = {}
    for name, measure in measures.items():
        result[name] = float(measure(truth, ranks))
        again = [measure(truth[pick], ranks[pick]) for pick in picks]
        result[f"{name}_standard_error"] = float(np.std(again, ddof=1))
    return result
