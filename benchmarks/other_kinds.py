"""What a detection of anomalies is measured against: images of other kinds, and other methods."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM
from torch import Tensor
from torch.nn.functional import interpolate

from ppl_vae.data import MNIST, FreyFace
from ppl_vae.measures.ranking import ranking_scores

__all__ = ["METHODS", "MOST", "other_kinds", "other_methods"]

METHODS = ("IsolationForest", "one-class SVM", "PCA residual")
MOST = 1000  # images of a kind


def other_kinds(mnist: MNIST, data_root: Path) -> Iterator[tuple[str, Tensor]]:
    """Up to 1,000 images of each kind, bytes of 28 x 28 pixels.

    Args:
        mnist: Whose test images are turned, shifted and counted.
        data_root: The folder that holds FreyFace.
    """
    test = mnist.load("bytes", 0).test
    x, labels = test[:MOST].to(torch.uint8), test.labels[:MOST]
    noise = torch.Generator().manual_seed(0)
    small = torch.from_numpy(load_digits().images[:MOST, None]) * 255 / 16
    faces = FreyFace(data_root).load("bytes", 0).train[:MOST]
    yield "embedded-digits", _enlarged(small)
    yield "Frey-faces", _enlarged(faces)
    yield "upside-down", x.flip(2)
    turned = torch.isin(labels, torch.tensor([2, 4, 5, 6, 7, 9]))
    yield "upside-down-2-4-5-6-7-9", x[turned].flip(2)
    for pixels in (4, 7):
        yield f"shifted-by-{pixels}", x.roll(pixels, 3)
    yield "noise", torch.randint(256, x.shape, generator=noise, dtype=torch.uint8)
    grey = torch.randint(256, (len(x), 1, 1, 1), generator=noise, dtype=torch.uint8)
    yield "constant", grey.expand_as(x).contiguous()
    yield "black", torch.zeros_like(x)


def _enlarged(images: Tensor) -> Tensor:
    return interpolate(images.float(), (28, 28), mode="bilinear").round().to(torch.uint8)


def other_methods(data_root: Path, digit: int, components: int) -> dict[str, dict[str, float]]:
    """Three other methods, on the grey levels in [0, 1] of the images that a run of one digit has.

    Args:
        data_root: The folder that holds MNIST/raw.
        digit: The normal one.
        components: Of PCA.

    Returns:
        By the names of `METHODS`, AUROC and average precision over all test images.
    """
    data = MNIST(data_root, classes=[digit]).load("unit", 0)
    test = MNIST(data_root).load("unit", 0).test
    train, x = (split[:].flatten(1).numpy() for split in (data.train, test))
    anomalous = (test.labels != digit).numpy()
    forest = IsolationForest(random_state=0).fit(train)
    machine = OneClassSVM(nu=0.1).fit(train)
    pca = PCA(components, random_state=0).fit(train)
    residual = x - pca.inverse_transform(pca.transform(x))
    scores = (-forest.score_samples(x), -machine.score_samples(x), np.square(residual).sum(1))
    named = zip(METHODS, scores, strict=True)
    return {name: ranking_scores(anomalous, score) for name, score in named}
