"""Baselines from scikit-learn, which is imported where it is used."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.measures.clustering import Labels
from ppl_vae.measures.scores import scored

__all__ = ["cluster", "linear_probe", "principal_components"]

Floats = NDArray[np.floating[Any]]

_RESTARTS = 10  # of k-means; the best is kept
_ITERATIONS = 1000  # of the classifier's optimizer


def principal_components(
    train: Floats, test: Floats, dimension: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Principal component analysis: the linear code with the least squared error on `train`.

    Gives the codes (n, D) and (N, D) of both, and the reconstruction of `test` (N, P); D is at most
    min(n, P).
    """
    from sklearn.decomposition import PCA

    fitted = PCA(dimension, random_state=seed).fit(train)
    codes = fitted.transform(test)
    return fitted.transform(train), codes, fitted.inverse_transform(codes)


def cluster(train: Floats, test: Floats, clusters: int, seed: int) -> tuple[Labels, Floats]:
    """k-means, the best of ten initialisations (Lloyd, 1982; Arthur and Vassilvitskii, 2007).

    Gives the cluster of each of `test`, (N,), and its centroid, (N, F).
    """
    from sklearn.cluster import KMeans

    fitted = KMeans(clusters, n_init=_RESTARTS, random_state=seed).fit(train)
    assigned = fitted.predict(test)
    return assigned, fitted.cluster_centers_[assigned]


def linear_probe(
    train: Floats, train_labels: Labels, test: Floats, test_labels: Labels
) -> dict[str, Any]:
    """The accuracy of logistic regression on standardised features, and whether it converged."""
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
        **scored("linear_probe_accuracy", right),
        "linear_probe_converged": steps < _ITERATIONS,
    }
