"""A user's own pictures."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.own_files import OwnFiles
from ppl_vae.data.source import Images, split_tenths
from ppl_vae.data.split import Data
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError, unreadable
from ppl_vae.machine.progress import Progress

__all__ = ["ImageFolder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".tif", ".tiff")
_MANY = 20_000  # images whose headers take long enough to say so


@dataclass(frozen=True)
class ImageFolder(OwnFiles):
    """The images in a folder, all of one size; the folders in it, if any, are the labels.

    PNG, JPEG, BMP, GIF (its first frame), WebP, PGM and TIFF, of 8 bits. If all are grey they have
    one channel, else three. Transparency is laid over white. In a fixed order, eight tenths are to
    train on, one for validation and one for the test.

    Args:
        path: The folder.
    """

    path: Path
    default_domain: ClassVar[Domain] = "real"

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        folder = Path(self.path).expanduser()
        names = _image_files(folder)
        labels, classes = None, None
        if b"/" in names[0]:
            owners = [os.fsdecode(name).partition("/")[0] for name in names]
            classes = tuple(sorted(set(owners)))
            numbers = {name: number for number, name in enumerate(classes)}
            labels = torch.tensor([numbers[owner] for owner in owners])
        image_shape = _image_shape(folder, names)
        read = _Files(folder, names, image_shape)
        rows = torch.arange(len(names))
        images = Images(Stored(read, rows, image_shape, torch.uint8, self._workers()), labels)
        return conversion(self._hold(split_tenths(images, classes), 1), seed)


def _image_files(folder: Path) -> NDArray[np.bytes_]:
    """The images in a folder, or in the folders in it, in the order of their names: (N,)."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(
            f"expected a folder of images at {folder}; there is {found}; name one with "
            "--data.path DIR"
        )
    # Bytes of one length: Python's own text would take several times as much, in each process.
    names = np.array([os.fsencode(name) for name in _below(folder, "")], dtype=np.bytes_)
    if not len(names):
        raise InputError(
            f"expected images ({', '.join(_SUFFIXES)}) in {folder}; found none; name another "
            "folder with --data.path DIR"
        )
    flat = names[np.char.find(names, b"/") < 0]
    if 0 < len(flat) < len(names):
        raise InputError(
            f"expected the images of {folder} either all in it or all in folders that are their "
            f"labels; got both, {os.fsdecode(flat[0])} among them; move one kind elsewhere"
        )
    return names


def _below(folder: Path, prefix: str) -> Iterator[str]:
    """The paths of the images below a folder, seen from the first one."""
    try:
        with os.scandir(folder / prefix) as entries:
            found = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False))
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir(follow_symlinks=False) or entry.is_file())
            )
    except OSError as error:
        raise unreadable(folder / prefix, error, "allow reading it, or move it away") from error
    for name, is_folder in found:
        if is_folder:
            yield from _below(folder, f"{prefix}{name}/")
        elif name.lower().endswith(_SUFFIXES):
            yield prefix + name


def _image_shape(folder: Path, names: NDArray[np.bytes_]) -> tuple[int, int, int]:
    """(C, H, W) of all images, from their headers, so that a misfit is found at once."""
    many = len(names) >= _MANY
    progress = Progress(f"looking at {folder}", len(names), "images") if many else None
    first, colour = None, False
    with progress or nullcontext():
        for name in names:
            file = folder / os.fsdecode(name)
            size, coloured = _open(file, _head)
            first, colour = first or (file, size), colour or coloured
            if size != first[1]:
                width, height = first[1]
                raise InputError(
                    f"expected images of one size; got {first[0]} of {width} x {height} and {file} "
                    f"of {size[0]} x {size[1]} pixels; resize them"
                )
            if progress:
                progress.advance(1)
    return (3 if colour else 1, size[1], size[0])


@dataclass(frozen=True, eq=False)
class _Files:
    """Reads images from their files."""

    folder: Path
    names: NDArray[np.bytes_]
    image_shape: tuple[int, int, int]

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        channels, height, width = self.image_shape
        pixels = np.empty((len(rows), *self.image_shape), dtype=np.uint8)
        for place, row in enumerate(rows):
            file = self.folder / os.fsdecode(self.names[row])
            image = _open(
                file, lambda image: np.asarray(_flat(image, "L" if channels == 1 else "RGB"))
            )
            if image.shape[:2] != (height, width):
                raise InputError(
                    f"expected {file} of {width} x {height} pixels, as its header said; got "
                    f"{image.shape[1]} x {image.shape[0]}; restore it, or save it again"
                )
            pixels[place] = image if channels == 1 else image.transpose(2, 0, 1)
        return pixels


def _open(file: Path, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of an image file, or the line that names the file."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return read(image)
    except InputError:
        raise
    except Exception as error:
        remedy = "it is damaged or no image; replace or remove it"
        raise unreadable(file, error, remedy) from error


def _head(image: Any) -> tuple[tuple[int, int], bool]:
    """Width and height as the image is to be seen, and whether it has colour."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"expected 8-bit images; {image.filename} has more bits (mode {image.mode}); convert "
            "it to 8 bits, or use --data Arrays"
        )
    if image.mode == "P":
        palette = np.array(image.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
        grey = bool((palette == palette[:, :1]).all())
    else:
        grey = image.mode in ("1", "L", "LA")
    # PNG's own `getexif` would decode the pixels, to look behind them too.
    turned = Image.Image.getexif(image).get(0x0112, 1) >= 5  # the orientations that swap the sides
    return (image.size[::-1] if turned else image.size), not grey


def _flat(image: Any, mode: str) -> Any:
    """The image turned upright and laid over white, in the mode."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)
