"""Reading picture files: their headers, and their pixels as they are to be seen."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.levels import DEEPEST
from ppl_vae.errors import InputError, unreadable

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "Header", "read_header", "read_pixels"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".tif", ".tiff")

_WHITE = DEEPEST - 1
_OTHER_BYTE = {
    ";16B": ";16L",
    ";16L": ";16B",
    ";16N": ";16B" if sys.byteorder == "little" else ";16L",
}


@dataclass(frozen=True)
class Header:
    """The header of a picture.

    Args:
        size: Width and height, as the picture is to be seen.
        colour: Whether it has colour.
        deep: Whether it has 16 bits.
        pages: How many pages or frames it has.
    """

    size: tuple[int, int]
    colour: bool
    deep: bool
    pages: int


def read_header(file: "Path | Image.Image") -> Header:
    """Reads a header. Metadata such as Exif may be damaged.

    Args:
        file: The picture, or one that Pillow has opened.

    Raises:
        InputError: If it cannot be read, or the pixels are floating-point numbers.
    """
    return _open(file, _header)


def read_pixels(file: "Path | Image.Image", channels: int, deep: bool) -> NDArray[Any]:
    """The pixels of the first page, upright and laid over white: (C, H, W), uint8 or int32.

    Args:
        file: The picture, or one that Pillow has opened, of which the present page is taken.
        channels: 1 or 3; grey becomes colour where it has to.
        deep: Whether it has 16 bits.

    Raises:
        InputError: If they cannot be read.
    """
    orientation, pixels = _open(
        file, lambda image: (_orientation(image), _deep(image) if deep else _flat(image, channels))
    )
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (slice(None, None, -1 if orientation in o else 1) for o in _FLIPPED)
    upright = pixels[rows, columns].reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return np.broadcast_to(upright, (channels, *upright.shape[1:]))


_FLIPPED = (3, 4, 7, 8), (2, 3, 6, 7)  # the orientations with rows, columns from the other end


def _open(file: "Path | Image.Image", read: Callable[[Any], Any]) -> Any:
    """What `read` makes of a picture, or the line that names the file."""
    from PIL import Image

    try:
        with catch_warnings():
            simplefilter("ignore")  # Pillow warns of what is damaged in Exif data
            if isinstance(file, Image.Image):
                return read(file)
            with Image.open(file) as image:
                return read(image)
    except InputError:
        raise
    except Exception as error:
        remedy = "it is damaged or no image; replace or remove it"
        raise unreadable(file, error, remedy) from error


def _header(image: Any) -> Header:
    if image.mode.startswith("F"):
        raise InputError(
            f"expected whole grey levels; {getattr(image, 'filename', 'a picture')} has "
            "floating-point numbers; save the images as one float32 array with numpy.save, "
            "for --data Arrays"
        )
    if image.mode == "P":
        palette = np.array(image.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
        grey = bool((palette == palette[:, :1]).all())
    else:
        grey = image.mode in ("1", "L", "LA") or image.mode[0] == "I"
        grey = grey or _raw_mode(image).startswith("LA;")
    pages = 1
    with suppress(Exception):
        pages = getattr(image, "n_frames", 1)
    size = image.size[::-1] if _orientation(image) >= 5 else image.size
    return Header(size, not grey, image.mode[0] == "I" or ";16" in _raw_mode(image), pages)


def _orientation(image: Any) -> int:
    """How the picture lies, 1 to 8 as in Exif: upright, 1, where that cannot be read."""
    from PIL import Image

    with suppress(Exception):
        # PNG's own `getexif` would decode the pixels, to look behind them too.
        orientation = Image.Image.getexif(image).get(0x0112, 1)
        if orientation in range(1, 9):
            return int(orientation)
    return 1


def _raw_mode(image: Any) -> str:
    """How the pixels lie in the file, in Pillow's words; empty where there is no file."""
    tiles = getattr(image, "tile", None)
    parameters = tiles[0].args if tiles else ""
    return str(parameters if isinstance(parameters, str) else (*(parameters or ()), "")[0])


def _flat(image: Any, channels: int) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3)."""
    from PIL import Image

    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))


def _deep(image: Any) -> NDArray[np.int32]:
    """(H, W) or (H, W, 3) of 16 bits; of colours Pillow gives the high byte alone."""
    from PIL import Image

    if image.mode[0] == "I":
        return np.asarray(image).clip(-DEEPEST, DEEPEST).astype(np.int32)
    raw = _raw_mode(image)
    if raw.startswith("LA"):
        both = _read_as(image, "RGBA").reshape(*image.size[::-1], 2, 2)  # two bytes for each
        pixels = both[..., 0] * 256 + both[..., 1]
    else:
        name, order = raw[:-4], raw[-4:]
        with Image.open(image.filename) as again:
            low = _read_as(again, name + _OTHER_BYTE[order])
        pixels = _read_as(image, raw) * 256 + low
    if pixels.shape[-1] in (2, 4):
        opaque = pixels[..., -1:] / _WHITE
        pixels = (pixels[..., :-1] * opaque + _WHITE * (1 - opaque)).round().astype(np.int32)
    return pixels


def _read_as(image: Any, raw: str) -> NDArray[np.int32]:
    """The bytes of an open picture, were they laid out so: (H, W, C)."""
    image.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))
        for tile in image.tile
    ]
    return np.asarray(image).astype(np.int32)
