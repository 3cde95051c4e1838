"""Trains runs on MNIST, finds images of other kinds with them, and writes a table.

    python benchmarks/detection.py --data_root DIR --runs DIR

A run that is there already is measured and not trained again; a measurement that is there already
is read and not made again. The table goes to benchmarks/detection.md.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM
from tables import table_row, trained, write
from torch import Tensor
from torch.nn.functional import interpolate

from ppl_vae import load
from ppl_vae.data import MNIST, FreyFace
from ppl_vae.detect import NUMBERS, detect
from ppl_vae.measures.ranking import ranking_scores

TABLE = Path(__file__).with_suffix(".md")
SCORES = (
    "complexity",
    "zlib_complexity",
    "log_likelihood",
    "elbo",
    "distortion",
    "rate",
    "typicality",
)
OTHERS = "others.json"
LATENT_DIM = 20
ONE_EPOCHS, OUT_EPOCHS, ALL_EPOCHS = 40, 5, 12
PARTICLES = 10
KINDS_POINTS = 1000


def main(data_root: Path, runs: Path, only: str = "") -> None:
    """Fills what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw and FreyFace.
        runs: Where the runs are kept.
        only: Of `out`, `one` and `all` those to train and measure, separated by commas.
    """
    tasks = only.split(",") if only else ["all", "one", "out"]
    digits = range(10)
    if "all" in tasks:
        _kinds(trained(runs / "all", **_options(ALL_EPOCHS), data=MNIST(data_root)), data_root)
    for digit in digits if "one" in tasks else ():
        data = MNIST(data_root, classes=[digit])
        path = trained(runs / f"one-{digit}", **_options(ONE_EPOCHS), data=data)
        _judge(path, data_root, [digit])
        if not (path / OTHERS).exists():
            write(path / OTHERS, [json.dumps(_others(data_root, digit))])
    for digit in digits if "out" in tasks else ():
        data = MNIST(data_root, without_classes=[digit])
        path = trained(runs / f"out-{digit}", **_options(OUT_EPOCHS), data=data)
        _judge(path, data_root, [each for each in digits if each != digit])
    write(TABLE, _page(runs))
    print(TABLE.read_text())


def _options(epochs: int) -> dict[str, Any]:
    return {"latent_dim": LATENT_DIM, "epochs": epochs, "engine": "compiled"}


def _judge(path: Path, data_root: Path, normal: list[int]) -> None:
    """Judges all 10,000 test images."""
    if not (path / "detection" / NUMBERS).exists():
        detect(
            load(path),
            data=MNIST(data_root),
            split="test",
            scores=SCORES,
            normal_classes=normal,
            particles=PARTICLES,
        )


def _kinds(path: Path, data_root: Path) -> None:
    """Judges images of other kinds than MNIST beside its test images."""
    run = load(path)
    for name, images in _other_kinds(run.pieces["data"], data_root):
        if not (path / f"detection-{name}" / NUMBERS).exists():
            detect(
                run,
                data=images,
                scores=SCORES,
                normal_classes=[],
                particles=PARTICLES,
                data_points=len(images),
                calibration_points=KINDS_POINTS,
                out=path / f"detection-{name}",
            )


def _other_kinds(mnist: MNIST, data_root: Path) -> Iterator[tuple[str, Tensor]]:
    """Up to 1,000 images of each kind, bytes of 28 x 28 pixels."""
    test = mnist.load("bytes", 0).test
    x, labels = test[:KINDS_POINTS].to(torch.uint8), test.labels[:KINDS_POINTS]
    noise = torch.Generator().manual_seed(0)
    small = torch.from_numpy(load_digits().images[:KINDS_POINTS, None]) * 255 / 16
    faces = FreyFace(data_root).load("bytes", 0).train[:KINDS_POINTS]
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


def _others(data_root: Path, digit: int) -> dict[str, dict[str, float]]:
    """Three other methods, on the grey levels in [0, 1] of the same images."""
    data = MNIST(data_root, classes=[digit]).load("unit", 0)
    test = MNIST(data_root).load("unit", 0).test
    train, x = (split[:].flatten(1).numpy() for split in (data.train, test))
    anomalous = (test.labels != digit).numpy()
    forest = IsolationForest(random_state=0).fit(train)
    machine = OneClassSVM(nu=0.1).fit(train)
    pca = PCA(LATENT_DIM, random_state=0).fit(train)
    scores: dict[str, Callable[[], NDArray]] = {
        "IsolationForest": lambda: -forest.score_samples(x),
        "one-class SVM": lambda: -machine.score_samples(x),
        "PCA residual": lambda: (
            np.square(x - pca.inverse_transform(pca.transform(x))).sum(1)
        ),
    }
    return {name: ranking_scores(anomalous, score()) for name, score in scores.items()}


def _page(runs):
    return []
