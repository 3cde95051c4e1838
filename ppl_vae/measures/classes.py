"""How well the classes that a pair finds are those of the labels."""

import torch
from torch import Tensor

from guides import Guide
from models import Mixture, Model
from ppl_vae.data import Split
from ppl_vae.measures.clustering import clustering_scores
from ppl_vae.measures.scores import scored

__all__ = ["class_scores"]

_BATCH = 1000
_DRAWS = 100  # of z for each image, for the average of p(y|z)


def class_scores(model: Model, guide: Guide, images: Split) -> dict[str, float | None]:
    """Compares the classes of a model with the labels; empty where either has none.

    - `classification_error_percent`: how often the most probable class of the guide's classifier
      q(y|x) is not the label, for a model of labelled images.
    - `clustering_accuracy_percent`, `normalized_mutual_information`, `adjusted_rand_index`: for
      `Mixture`, see `ppl_vae.measures.clustering`. The cluster of an image is the largest of
      E_q(z|x) p(y|z), averaged over 100 draws of z (Jiang et al., 2017, equation 16).

    Each has its `..._standard_error`. Images whose label is not known are left out.
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
        return scored("classification_error_percent", 100.0 * (guessed != labels))
    if not isinstance(model, Mixture):
        return {}
    clusters = torch.cat([_clusters(model, guide, x) for x in batches])
    scores = clustering_scores(labels.cpu().numpy(), clusters.cpu().numpy())
    for end in ("", "_standard_error"):
        share = scores.pop(f"clustering_accuracy{end}")
        scores[f"clustering_accuracy_percent{end}"] = None if share is None else 100 * share
    return scores


def _clusters(model: Mixture, guide: Guide, x: Tensor) -> Tensor:
    """argmax_y E_q(z|x) p(y|z), (B,)."""
    total = torch.zeros(len(x), len(model.logits), device=x.device)
    for _ in range(_DRAWS):
        total += model.responsibilities(guide(x))
    return total.argmax(-1)
