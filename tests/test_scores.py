"""Means and their errors, active units, clusters against labels: each in one definition."""

from itertools import permutations
from math import sqrt

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from ppl_vae.measures.clustering import clustering_accuracy, clustering_scores
from ppl_vae.measures.scores import (
    active_latents,
    active_units,
    collapse,
    has_collapsed,
    mean_and_error,
    scored,
)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
def test_a_standard_error_is_that_of_an_unbiased_variance(kind) -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    mean, error = mean_and_error(kind(values))
    assert mean == 4
    assert error == pytest.approx(sqrt((9 + 4 + 0 + 25) / 3 / 4))
    assert scored("a", kind([5.0])) == {"a": 5, "a_standard_error": None}
    hits = kind([True] * 3 + [False])
    assert mean_and_error(hits)[1] == pytest.approx(sqrt(0.75 * 0.25 / 3))


def test_active_units() -> None:
    """Variances of 0.02, 0.005, 0 and 4: two of the four are used."""
    rng = np.random.default_rng(1)
    means = rng.normal(size=(4000, 4)) * np.sqrt([0.02, 0.005, 0, 4]) + [0, 5, 7, -3]
    result = active_units(torch.from_numpy(means))
    assert result == {"active_units": 2, "active_units_standard_error": 0.0}
    # A unit on the edge is counted in about half of the resamples.
    edge = rng.normal(size=(400, 1))
    edge *= np.sqrt(0.01 / edge.var(ddof=1))
    both = active_units(torch.from_numpy(np.hstack([edge * (1 + 1e-9), 3 * edge])))
    assert both["active_units"] == 2
    assert both["active_units_standard_error"] == pytest.approx(0.5, abs=0.05)


def test_active_units_of_means_that_are_estimates() -> None:
    """Their noise counts in each of two, and not in the product of both."""
    rng = np.random.default_rng(2)
    means = rng.normal(size=(4000, 1, 3)) * np.sqrt([0.02, 0.005, 0])
    both = means + rng.normal(size=(4000, 2, 3)) * np.sqrt(0.03)
    # The error of a covariance of 0 is 0.03 / sqrt(4000), 0.0005: a tenth of what is at stake.
    assert active_latents(torch.from_numpy(both)) == [0]
    assert len(active_latents(torch.from_numpy(both[:, 0]))) == 3
    same = torch.from_numpy(means)
    assert active_units(same.expand(-1, 2, -1)) == active_units(same) == active_units(same[:, 0])


def test_a_collapse_is_a_rate_of_nothing_or_no_active_latent() -> None:
    for rate, active in ((0.004, None), (0.05, 3), (2.0, 0)):
        said = collapse(rate, active)
        assert said is not None
        assert f"{rate:.2f} nats" in said
        for remedy in ("warmup_epochs", "free_bits", "--network"):
            assert remedy in said
        assert ("more --epochs" in said) == (rate > 1)
        assert "nothing" in said
    nearly = collapse(0.69, 9)
    assert nearly is not None
    assert "almost nothing" in nearly
    assert collapse(0.70, 9) is None
    assert has_collapsed(0.05, 3)
    assert has_collapsed(2.0, 0)
    assert not has_collapsed(0.11, 9)
    assert collapse(1.5, 1) is collapse(8.0) is collapse(None, 0) is None
    assert collapse(0.01, 0, images=99) is None  # too few to tell
    assert collapse(0.01, 0, images=100) is not None


def test_the_accuracy_is_the_best_over_all_matchings() -> None:
    rng = np.random.default_rng(0)
    for clusters in (2, 3, 5):  # as many clusters as labels, fewer, more
        labels, assigned = rng.integers(3, size=40), rng.integers(clusters, size=40)
        size = max(3, clusters)
        best = max(
            accuracy_score(labels, np.array(order)[assigned]) for order in permutations(range(size))
        )
        assert clustering_accuracy(labels, assigned) == pytest.approx(best)


def test_clusters_that_are_the_labels_by_other_names_are_perfect() -> None:
    labels = np.repeat([0, 1, 2], 20)
    scores = clustering_scores(labels, (labels + 1) % 3)
    for name in ("clustering_accuracy", "normalized_mutual_information", "adjusted_rand_index"):
        assert scores[name] == pytest.approx(1)
        assert scores[f"{name}_standard_error"] == pytest.approx(0, abs=1e-12)


def test_the_bootstrap_error_of_an_accuracy_is_the_binomial_one() -> None:
    labels = np.repeat([0, 1], 300)
    clusters = np.where(np.random.default_rng(1).random(600) < 0.2, 1 - labels, labels)
    scores = clustering_scores(labels, clusters)
    p = scores["clustering_accuracy"]
    assert p is not None
    # 200 resamples know a standard deviation to five percent.
    error = scores["clustering_accuracy_standard_error"]
    assert error == pytest.approx(sqrt(p * (1 - p) / 600), rel=0.2)


def test_an_unknown_label_is_no_class() -> None:
    """Twice as many images without a label, which their clusters would confuse."""
    rng = np.random.default_rng(2)
    labels, clusters = rng.integers(4, size=90), rng.integers(5, size=90)
    known = clustering_scores(labels, clusters)
    labels, clusters = np.append(labels, [-1] * 180), np.append(clusters, rng.integers(5, size=180))
    assert clustering_scores(labels, clusters) == known
