"""Ways to describe an image by fewer numbers: k-means, PCA and the posterior means of runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.latents.baselines import cluster, linear_probe, principal_components
from ppl_vae.machine.progress import announced
from ppl_vae.measures.clustering import clustering_scores
from ppl_vae.measures.encoding import decoded_mean, posterior_mean
from ppl_vae.measures.scores import scored
from ppl_vae.runs.run import Run

__all__ = ["Code", "TwoSplits", "codes_of", "flat_input", "scores_of"]

TwoSplits = tuple[NDArray, NDArray]  # of training and of test images


@dataclass(frozen=True)
class Code:
    """One description of the images; each array has one row for each image.

    Attributes:
        name: The method, or the run.
        train: The features of the training images, (n, F), where it gives any.
        test: Those of the test images, (N, F).
        reconstruction: The test images decoded from them, (N, P).
        assigned: The cluster of each test image, (N,), where that is all it gives.
    """

    name: str
    train: NDArray | None = None
    test: NDArray | None = None
    reconstruction: NDArray | None = None
    assigned: NDArray | None = None


def flat_input(run: Run, x: Tensor) -> NDArray:
    """Images as networks see them, (N, C, H, W) to (N, P)."""
    return run.spec.network_input(x).flatten(1).numpy()


def codes_of(
    runs: tuple[Run, ...],
    x: tuple[Tensor, Tensor],
    flat: TwoSplits,
    dimensions: list[int],
    clusters: int,
    seed: int,
) -> Iterator[Code]:
    """The pixels themselves, k-means on them, PCA of each dimension, and the runs in their order.

    `x` are training and test images in the domain of the runs, `flat` the same as networks see
    them. PCA has at most as many dimensions as there are images and pixels.
    """
    yield Code("pixels", *flat)
    assigned, centroids = cluster(*flat, clusters, seed)
    yield Code(f"k-means-{clusters}", assigned=assigned, reconstruction=centroids)
    for dimension in dimensions:
        kept = min(dimension, *flat[0].shape)
        yield Code(f"PCA-{kept}", *principal_components(*flat, kept, seed))
    for run in runs:
        with torch.no_grad(), announced(f"encoding the images by {run.path}"):
            train, test = (
                posterior_mean(run.model, run.guide, images.to(run.device)) for images in x
            )
            rebuilt = flat_input(run, decoded_mean(run.model, test).cpu())
        yield Code(str(run.path), train.cpu().numpy(), test.cpu().numpy(), rebuilt)


def scores_of(
    code: Code,
    pixels: NDArray,
    labels: TwoSplits | None,
    clusters: int,
    seed: int,
) -> dict[str, Any]:
    """The scores of one code that it has, with their standard errors; `features` explains them.

    `pixels` are the test images as networks see them, (N, P). Images whose label is not known, -1,
    are left out of the scores that need it.
    """
    row: dict[str, Any] = {
        "name": code.name,
        "dimension": None if code.test is None else code.test.shape[1],
    }
    if code.reconstruction is not None:
        errors = np.square(code.reconstruction - pixels).mean(1)
        row |= scored("reconstruction_squared_error_per_pixel", errors)
    if labels is None:
        return row
    if code.assigned is not None:
        row |= clustering_scores(labels[1], code.assigned, seed)
    if code.train is None or code.test is None:
        return row
    if code.reconstruction is not None:  # on the pixels themselves it is k-means, with its own row
        assigned, _ = cluster(code.train, code.test, clusters, seed)
        row |= clustering_scores(labels[1], assigned, seed)
    (train, train_labels), (test, test_labels) = (
        (part[y >= 0], y[y >= 0]) for part, y in zip((code.train, code.test), labels, strict=True)
    )
    return row | linear_probe(train, train_labels, test, test_labels)
