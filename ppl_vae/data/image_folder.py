"""A user's own pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.damage import unreadable
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, split_tenths
from ppl_vae.data.split import Data
from ppl_vae.errors import InputError

__all__ = ["ImageFolder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageFolder(DataSet):
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
        files = _image_files(folder)
        labels, classes = None, None
        if files[0].parent != folder:
            owners = [file.relative_to(folder).parts[0] for file in files]
            classes = tuple(sorted(set(owners)))
            numbers = {name: number for number, name in enumerate(classes)}
            labels = torch.tensor([numbers[owner] for owner in owners])
        images = Images(torch.from_numpy(_pixels(files)), labels)
        return conversion(split_tenths(images, classes), seed)


def _image_files(folder: Path) -> list[Path]:
    """The images in a folder, or in the folders in it, in the order of their names."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(
            f"expected a folder of images at {folder}; there is {found}; name one with "
            "--data.path DIR"
        )
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    if not files:
        raise InputError(
            f"expected images ({', '.join(_SUFFIXES)}) in {folder}; found none; name another "
            "folder with --data.path DIR"
        )
    flat = [file for file in files if file.parent == folder]
    if flat and len(flat) < len(files):
        raise InputError(
            f"expected the images of {folder} either all in it or all in folders that are their "
            f"labels; got both, {flat[0].name} among them; move one kind elsewhere"
        )
    return files


def _pixels(files: list[Path]) -> np.ndarray:
    """(N, C, H, W) bytes. The headers are read first, so that a misfit is found at once."""
    heads = [_open(file, _head) for file in files]
    (width, height), colour = heads[0][0], any(colour for _, colour in heads)
    for file, (size, _) in zip(files, heads, strict=True):
        if size != (width, height):
            raise InputError(
                f"expected images of one size; got {files[0]} of {width} x {height} and {file} of "
                f"{size[0]} x {size[1]} pixels; resize them"
            )
    pixels = np.empty((len(files), 3 if colour else 1, height, width), dtype=np.uint8)
    for index, file in enumerate(files):
        image = _open(file, lambda image: np.asarray(_flat(image, "RGB" if colour else "L")))
        pixels[index] = image.transpose(2, 0, 1) if colour else image
    return pixels


def _open(file: Path, read: Any) -> Any:
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
    if image.mode.startswith(("I", "F")):
        raise InputError(
            f"expected 8-bit images; {image.filename} has more bits (mode {image.mode}); convert "
            "it to 8 bits, or use --data Arrays"
        )
    palette = np.array(image.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
    grey = image.mode in ("1", "L", "LA") or (
        image.mode == "P" and bool((palette == palette[:, :1]).all())
    )
    turned = image.getexif().get(0x0112, 1) >= 5  # the orientations that swap the sides
    return (image.size[::-1] if turned else image.size), not grey


def _flat(image: Any, mode: str) -> Any:
    """The image turned upright and laid over white, in the mode."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)
