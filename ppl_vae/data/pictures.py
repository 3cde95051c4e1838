"""Reading picture files: their headers, and their pixels as they are to be seen."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.levels import DEEPEST
from ppl_vae.errors import InputError, unreadable

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FIRST_SUFFIXES",
    "Header",
    "read_header",
    "read_headers",
    "read_pages",
    "read_pixels",
    "suffixes",
]

FIRST_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".tif", ".tiff")
"""Those of pictures by the rules of earlier releases."""

# EPS runs Ghostscript, WMF the drawing of the system; of the others Pillow knows but the header.
_LEFT_OUT = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}

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


@cache
def _formats() -> tuple[str, ...]:
    """The formats that the installed Pillow reads, without running any program."""
    from PIL import Image

    Image.init()
    return tuple(sorted(set(Image.OPEN) - _LEFT_OUT))


@cache
def suffixes() -> tuple[str, ...]:
    """The suffixes of picture files that can be read."""
    from PIL import Image

    known, readable = Image.registered_extensions(), {*_formats(), "MPO"}  # which JPEG opens
    return tuple(sorted(suffix for suffix, name in known.items() if name in readable))


def read_header(file: "Path | Image.Image") -> Header:
    """Reads a header. Metadata such as Exif may be damaged.

    Args:
        file: The picture, or one that Pillow has opened.

    Raises:
        InputError: If it cannot be read, or the pixels are floating-point numbers.
    """
    return _open(file, _header)


def read_headers(file: Path) -> list[Header]:
    """The headers of all pages or frames, as `read_header` reads the first.

    Raises:
        InputError: If one cannot be read, or the pixels are floating-point numbers.
    """

    def read(image: Any) -> list[Header]:
        headers = [_header(image)]
        for page in range(1, headers[0].pages):
            image.seek(page)
            headers.append(_header(image))
        return headers

    return _open(file, read)


def read_pixels(file: "Path | Image.Image", channels: int, deep: bool) -> NDArray[Any]:
    """The pixels of the first page, upright and laid over white: (C, H, W), uint8 or int32.

    Args:
        file: The picture, or one that Pillow has opened, of which the present page is taken.
        channels: 1 or 3; grey becomes colour where it has to.
        deep: Whether it has 16 bits.

    Raises:
        InputError: If they cannot be read.
    """
    return _open(file, partial(_upright, channels=channels, deep=deep))


def read_pages(file: Path, pages: Sequence[int], channels: int, deep: bool) -> list[NDArray[Any]]:
    """The pixels of some pages or frames, as `read_pixels` reads those of the first.

    Raises:
        InputError: If they cannot be read.
    """

    def read(image: Any) -> list[NDArray[Any]]:
        found = []
        for page in pages:
            image.seek(page)
            found.append(_upright(image, channels, deep))
        return found

    return _open(file, read)


def _upright(image: Any, channels: int, deep: bool) -> NDArray[Any]:
    """(C, H, W)."""
    orientation = _orientation(image)
    pixels = _deep(image) if deep else _flat(image, channels)
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (slice(None, None, -1 if orientation in o else 1) for o in _FLIPPED)
    upright = pixels[rows, columns].reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    if len(upright) > channels:
        upright = (upright * _LUMINANCE[:, None, None]).sum(0, keepdims=True) >> 16
        upright = upright.astype(np.int32)
    return np.broadcast_to(upright, (channels, *upright.shape[1:]))


_LUMINANCE = np.array([19595, 38470, 7471])  # ITU-R 601, in 2^-16, as Pillow's convert has it
_FLIPPED = (3, 4, 7, 8), (2, 3, 6, 7)  # the orientations with rows, columns from the other end


def _open(file: "Path | Image.Image", read: Callable[[Any], Any]) -> Any:
    """What `read` makes of a picture, or the line that names the file."""
    from PIL import Image

    try:
        with catch_warnings():
            simplefilter("ignore")  # Pillow warns of what is damaged in Exif data
            if isinstance(file, Image.Image):
                return read(file)
            with Image.open(file, formats=_formats()) as image:
                return read(image)
    except InputError:
        raise
    except Exception as error:
        remedy = (
            "it is damaged or no image; replace or remove it, or leave such files of a folder out "
            "with --data.skip_unreadable true (detect, restore: --skip_unreadable true)"
        )
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
        with Image.open(image.filename, formats=_formats()) as again:
            again.seek(image.tell())
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
