"""How well clusters agree with labels."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["clustering_accuracy", "clustering_scores", "mean_and_error"]


Labels = NDArray[np.integer[Any]]


_RESAMPLES = 100


def clustering_accuracy(labels: Labels, assigned: Labels) -> float:
    """The share of data whose cluster stands for their label, at the best one-to-one matching.

    The matching is that of Kuhn (1955), as in Xie, Girshick and Farhadi (2016), equation (10).

    Args:
        labels: (N,).
        assigned: Clusters, (N,).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, assigned)
    return table[linear_sum_assignment(table, maximize=True)].sum() / len(labels)


def clustering_scores(labels: Labels, assigned: Labels, seed: int) -> dict[str, float]:
    """How well clusters agree with labels: accuracy, and two scores that need no matching.

    Normalised mutual information, by the arithmetic mean of the entropies, and the Rand index
    adjusted for chance (Hubert and Arabie, 1985). The standard errors are over bootstrap resamples
    of the data; the matching is made anew in each.

    Args:
        labels: (N,).
        assigned: Clusters, (N,).
        seed: What the resamples follow from.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    scores: dict[str, Callable[[Labels, Labels], float]] = {
        "clustering_accuracy": clustering_accuracy,
        "normalized_mutual_information": normalized_mutual_info_score,
        "adjusted_rand_index": adjusted_rand_score,
    }
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(labels), size=(_RESAMPLES, len(labels)))
    result = {}
    for name, score in scores.items():
        result[name] = float(score(labels, assigned))
        resampled = [score(labels[pick], assigned[pick]) for pick in picks]
        result[f"{name}_standard_error"] = float(np.std(resampled, ddof=1))
    return result


def mean_and_error(name: str, values: NDArray[Any]) -> dict[str, float]:
    """A mean over the data and its standard error; of accuracies that is the binomial one."""
    mean, spread = float(np.mean(values)), float(np.std(values))
    return {name: mean, f"{name}_standard_error": spread / sqrt(len(values))}
