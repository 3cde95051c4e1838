"""AUROC and average precision against their definitions and scikit-learn's."""

from math import sqrt

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ppl_vae.measures.ranking import ranking_scores


def test_they_are_those_of_the_definitions_and_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.3
    scores = (rng.normal(size=300) + truth).round(1)  # with ties
    result = ranking_scores(truth, scores)
    pairs = scores[truth][:, None] - scores[~truth]
    assert result["auroc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert result["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    assert result["average_precision"] == pytest.approx(average_precision_score(truth, scores))


def test_the_standard_errors_are_those_of_the_sampling() -> None:
    """Of 100 draws of the images, each scored; against the mean of what is reported."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) < 60
    results = [ranking_scores(truth, rng.normal(size=200) + truth) for _ in range(100)]
    for name in ("auroc", "average_precision"):
        spread = np.std([each[name] for each in results], ddof=1)
        reported = np.mean([each[f"{name}_standard_error"] for each in results])
        assert abs(reported / spread - 1) < 4 / sqrt(2 * 99)


def test_scores_may_be_infinite() -> None:
    result = ranking_scores([True, True, False, False], [np.inf, np.nan, 1.0, -np.inf])
    assert result["auroc"] == 1
