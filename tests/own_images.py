"""Images of one's own for the tests: written to files, and read back from a data set."""

from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from PIL import Image

import ppl_vae.fit
from models import MLP
from ppl_vae.data import DataSet, ImageFolder
from ppl_vae.data.source import fixed_order
from ppl_vae.evaluate import evaluate

COUNT = 40
SPLITS = ("train", "validation", "test")
MASKS = np.random.default_rng(0).random((COUNT, 5, 4)) > 0.6


def all_of(data) -> np.ndarray:
    """The images of an array in the order of the file, (N, C, H, W)."""
    images = torch.cat([getattr(data, split)[:] for split in ("test", "validation", "train")])
    return images[fixed_order(len(images)).argsort()].numpy()


def save_pictures(folder: Path, images: np.ndarray, mode: str | None = None) -> ImageFolder:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(folder / f"{number:03}.png")
    return ImageFolder(path=folder)


def sane(data_set: DataSet) -> bool:
    """Whether a short training ends in an ELBO of at most 20 nats a pixel."""
    options = {"network": partial(MLP, hidden=(8,)), "latent_dim": 2, "epochs": 50}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
        path = Path(folder) / "run"
        run = ppl_vae.fit.fit(data_set, batch_size=10, learning_rate=0.01, run=path, **options)
        elbo = evaluate(run, particles=2)["elbo_nats_per_datum"]
    return abs(elbo) < 20 * prod(run.spec.image_shape)


def sorted_rows(images: np.ndarray) -> np.ndarray:
    """As rows in an order that does not depend on how they stood."""
    rows = images.reshape(len(images), -1)
    return rows[np.lexsort(rows.T)]
