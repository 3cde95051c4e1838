"""How well clusters agree with labels; scikit-learn is imported where it is used."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["clustering_accuracy", "clustering_scores"]

Labels = NDArray[np.integer[Any]]

_RESAMPLES = 200


def clustering_accuracy(labels: Labels, clusters: Labels) -> float:
    """The share of data whose cluster stands for their label, at the best one-to-one matching.

    The matching is that of Kuhn (1955), as in Xie, Girshick and Farhadi (2016), equation (10);
    data of clusters that are left over count as wrong.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, clusters)
    return table[linear_sum_assignment(table, maximize=True)].sum() / len(labels)


def clustering_scores(labels: Labels, clusters: Labels, seed: int = 0) -> dict[str, float | None]:
    """The accuracy, and two scores that need no matching; of data whose label is known.

    Normalised mutual information, by the arithmetic mean of the entropies, and the Rand index
    adjusted for chance (Hubert and Arabie, 1985). The standard errors are over bootstrap resamples
    of the data, each with a matching of its own.

    Args:
        labels: (N,), -1 where a label is not known.
        clusters: (N,).
        seed: The seed of the resamples.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    labels, clusters = labels[labels >= 0], clusters[labels >= 0]
    scores: dict[str, Callable[[Labels, Labels], float]] = {
        "clustering_accuracy": clustering_accuracy,
        "normalized_mutual_information": normalized_mutual_info_score,
        "adjusted_rand_index": adjusted_rand_score,
    }
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(labels), size=(_RESAMPLES, len(labels)))
    result: dict[str, float | None] = {}
    for name, score in scores.items():
        result[name] = float(score(labels, clusters))
        resampled = [score(labels[pick], clusters[pick]) for pick in picks]
        error = float(np.std(resampled, ddof=1)) if len(labels) > 1 else None
        result[f"{name}_standard_error"] = error
    return result
