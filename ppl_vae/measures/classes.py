"""How well the classes that a pair finds are those of the labels."""

from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guides import Guide
from models import Mixture, Model
from ppl_vae.data import Split

__all__ = ["class_scores", "clustering_scores"]

_BATCH = 1000
_DRAWS = 100  # of z for each image, for the average of p(y|z)
_RESAMPLES = 200


def class_scores(model: Model, guide: Guide, images: Split) -> dict[str, float | None]:
    """What the labels say about the classes of a model that has any; nothing without labels.

    - `classification_error_percent`: how often the most probable class of the guide's classifier
      q(y|x) is not the label, for a model of labelled images.
    - `clustering_accuracy_percent`, `normalized_mutual_information`, `adjusted_rand_index`: for
      `Mixture`, see `clustering_scores`. The cluster of an image is the largest of
      E_q(z|x) p(y|z), averaged over 100 draws of z (Jiang et al., 2017, equation 16).

    Each has its `..._standard_error`.

    Args:
        model: The model.
        guide: Its guide.
        images: What to measure on; images whose label is not known are left out.
    """
    if images.labels is None or not model.enumerated:
        return {}
    known = (images.labels >= 0).nonzero().flatten()
    if not len(known):
        return {}
    labels = images.labels[known]
    batches = [images[index] for index in known.split(_BATCH)]
    if model.labelled:
        try:
            guessed = torch.cat([guide.classify(x).logits.argmax(-1) for x in batches])
        except NotImplementedError:
            return {}
        wrong = (guessed != labels).double().mean().item()
        return _percent("classification_error_percent", wrong, _binomial_error(wrong, len(labels)))
    if not isinstance(model, Mixture):
        return {}
    clusters = torch.cat([_clusters(model, guide, x) for x in batches])
    return clustering_scores(clusters.cpu().numpy(), labels.cpu().numpy())


def clustering_scores(
    clusters: NDArray[np.int_], labels: NDArray[np.int_]
) -> dict[str, float | None]:
    """Compares clusters (N,) with labels (N,).

    The accuracy is that under the one-to-one assignment of clusters to labels that makes it
    largest, found by the Hungarian method (Jiang et al., 2017, equation 18); clusters that are
    left over count as wrong. Normalised mutual information and the adjusted Rand index are those of
    scikit-learn. The standard error of the accuracy is that of a mean with the assignment held
    fixed; the other two have it from bootstrap resamples of the images.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    counts = np.zeros((clusters.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (clusters, labels), 1)
    accuracy = counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels)
    scores = _percent(
        "clustering_accuracy_percent", accuracy, _binomial_error(accuracy, len(labels))
    )
    generator = np.random.default_rng(0)
    resamples = [generator.integers(len(labels), size=len(labels)) for _ in range(_RESAMPLES)]
    for name, score in (
        ("normalized_mutual_information", normalized_mutual_info_score),
        ("adjusted_rand_index", adjusted_rand_score),
    ):
        spread = np.std([score(labels[index], clusters[index]) for index in resamples], ddof=1)
        scores |= {
            name: float(score(labels, clusters)),
            f"{name}_standard_error": float(spread) if len(labels) > 1 else None,
        }
    return scores


def _clusters(model: Mixture, guide: Guide, x: Tensor) -> Tensor:
    """argmax_y E_q(z|x) p(y|z), (B,)."""
    total = torch.zeros(len(x), len(model.logits), device=x.device)
    for _ in range(_DRAWS):
        total += model.responsibilities(guide(x))
    return total.argmax(-1)


def _binomial_error(share: float, count: int) -> float | None:
    return sqrt(share * (1 - share) / (count - 1)) if count > 1 else None


def _percent(name: str, share: float, error: float | None) -> dict[str, float | None]:
    return {
        name: 100 * float(share),
        f"{name}_standard_error": None if error is None else 100 * error,
    }
