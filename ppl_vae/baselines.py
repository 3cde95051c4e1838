"""Baselines and scores from scikit-learn, which is imported where it is used."""

import warnings
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "cluster",
    "clustering_accuracy",
    "clustering_scores",
    "linear_probe",
    "mean_and_error",
    "principal_components",
]

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

_RESTARTS = 10  # of k-means; the best is kept
_RESAMPLES = 100
_ITERATIONS = 1000  # of the classifier's optimizer


def principal_components(
    train: Floats, test: Floats, dimension: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Principal component analysis: the linear code with the least squared error on `train`.

    Args:
        train: What it is fitted to, (n, P).
        test: What it is applied to, (N, P).
        dimension: How many components, at most min(n, P).
        seed: What scikit-learn's randomised solver follows from.

    Returns:
        The codes (n, D) and (N, D), and the reconstruction of `test` (N, P).
    """
    from sklearn.decomposition import PCA

    fitted = PCA(dimension, random_state=seed).fit(train)
    codes = fitted.transform(test)
    return fitted.transform(train), codes, fitted.inverse_transform(codes)


def cluster(train: Floats, test: Floats, clusters: int, seed: int) -> tuple[Labels, Floats]:
    """k-means, the best of ten beginnings (Lloyd, 1982; Arthur and Vassilvitskii, 2007).

    Args:
        train: What it is fitted to, (n, F).
        test: What is assigned to the clusters, (N, F).
        clusters: How many, at most n.
        seed: What the beginnings follow from.

    Returns:
        The cluster of each of `test`, (N,), and its centroid, (N, F).
    """
    from sklearn.cluster import KMeans

    fitted = KMeans(clusters, n_init=_RESTARTS, random_state=seed).fit(train)
    assigned = fitted.predict(test)
    return assigned, fitted.cluster_centers_[assigned]


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


def linear_probe(
    train: Floats, train_labels: Labels, test: Floats, test_labels: Labels
) -> dict[str, Any]:
    """The accuracy of logistic regression on standardised features, and whether it converged.

    Args:
        train: (n, F).
        train_labels: (n,).
        test: (N, F).
        test_labels: (N,).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    with warnings.catch_warnings():  # that it stopped early is in the result
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train, train_labels)
    right = classifier.predict(test) == test_labels
    steps = int(classifier[-1].n_iter_.max())
    return {
        **mean_and_error("linear_probe_accuracy", right),
        "linear_probe_converged": steps < _ITERATIONS,
    }


def mean_and_error(name: str, values: NDArray[Any]) -> dict[str, float]:
    """A mean over the data and its standard error; of accuracies that is the binomial one."""
    mean, spread = float(np.mean(values)), float(np.std(values))
    return {name: mean, f"{name}_standard_error": spread / sqrt(len(values))}
