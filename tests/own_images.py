"""Images of one's own for the tests: written to files, and read back from a data set."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ppl_vae.data import ImageFolder
from ppl_vae.data.source import fixed_order

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


def sorted_rows(images: np.ndarray) -> np.ndarray:
    """As rows in an order that does not depend on how they stood."""
    rows = images.reshape(len(images), -1)
    return rows[np.lexsort(rows.T)]
