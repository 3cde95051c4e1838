"""Images of one's own for the tests: written to files, and read back from a data set."""

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tiny_runs import TINY, without_pictures

import ppl_vae.fit
from ppl_vae.data import DataSet, ImageFolder
from ppl_vae.data.source import fixed_order
from ppl_vae.evaluate import evaluate

COUNT = 40
MANY = 130
SPLITS = ("train", "validation", "test")
MASKS = np.random.default_rng(0).random((COUNT, 5, 4)) > 0.6


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes."""
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def bits(*shape: int) -> np.ndarray:
    """Random 0 and 1, bytes."""
    return np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)


def save_pictures(
    folder: Path, images: np.ndarray, mode: str | None = None, suffix: str = "png"
) -> ImageFolder:
    """Saves images as 000.png and so on, and gives the data set that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        (picture.convert(mode) if mode else picture).save(folder / f"{number:03}.{suffix}")
    return ImageFolder(path=folder)


def sane(data_set: DataSet) -> bool:
    """Whether a short training ends in an ELBO of at most 20 nats a pixel."""
    options = {"network": TINY, "latent_dim": 2, "epochs": 50}
    with TemporaryDirectory() as folder, without_pictures():
        path = Path(folder) / "run"
        run = ppl_vae.fit.fit(data_set, batch_size=10, learning_rate=0.01, run=path, **options)
        elbo = evaluate(run, particles=2)["elbo_nats_per_datum"]
    return abs(elbo) < 20 * prod(run.spec.image_shape)


def sizes(data) -> tuple[int, ...]:
    return tuple(len(getattr(data, split)) for split in SPLITS)


def joined(data, order: tuple[str, ...] = SPLITS) -> np.ndarray:
    """The images of all splits, (N, C, H, W)."""
    return np.concatenate([getattr(data, split)[:].numpy() for split in order])


def all_of(data) -> np.ndarray:
    """The images of an array in the order of the file, (N, C, H, W)."""
    images = joined(data, SPLITS[::-1])
    return images[fixed_order(len(images)).argsort()]


def sorted_rows(images: np.ndarray) -> np.ndarray:
    """As rows in an order that does not depend on how they stood."""
    rows = images.reshape(len(images), -1)
    return rows[np.lexsort(rows.T)]


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = (0x800 + array.ndim).to_bytes(4, "big")
    head += b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_mnist(root, name, training, test):
    for stem, (images, labels) in {"train": training, "t10k": test}.items():
        write_idx(root / name / "raw" / f"{stem}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{stem}-labels-idx1-ubyte", labels)


def grey(shape: tuple[int, ...] = (MANY, 5, 4)) -> np.ndarray:
    return noise(*shape)


def save_every_kind(folder: Path) -> Path:
    """The same kinds of images in every kind of file."""
    np.save(folder / "grey.npy", grey())
    np.save(folder / "colour.npy", grey((MANY, 3, 5, 4)))
    np.save(folder / "bits.npy", grey() > 99)
    np.save(folder / "real.npy", (grey() / 128).astype(">f8"))
    np.save(folder / "unit.npy", (grey() / 255).astype(np.float16))
    np.savez(folder / "labelled.npz", labels=np.arange(MANY) % 3, images=grey())
    for owner in ("cats", "dogs"):
        (folder / "pictures" / owner).mkdir(parents=True)
    for number, picture in enumerate(grey()):
        name = f"pictures/{('cats', 'dogs')[number % 2]}/{number}.bmp"
        Image.fromarray(picture).save(folder / name)
    return folder
