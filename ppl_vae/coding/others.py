"""How other lossless compressors do on the same images."""

import bz2
import gzip
import lzma
from contextlib import suppress
from importlib import import_module
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["bits_of_others"]


def bits_of_others(images: NDArray[np.uint8], levels: int) -> dict[str, float]:
    """Bits per dim of gzip, bz2 and lzma over one stream, and of picture formats.

    Binary images are given to the former as bytes and as bits. Picture formats get the first 1,000
    images, each by itself and as sheets of many, below each other. The shorter counts. JPEG XL is
    there where the package pillow-jxl-plugin is installed.

    Args:
        images: (N, C, H, W), of 0 and 1 or of bytes.
        levels: 2 or 256.
    """
    streams = [images.tobytes(), *([np.packbits(images).tobytes()] if levels == 2 else [])]
    found = {
        "gzip": min(len(gzip.compress(each, 9)) for each in streams),
        "bz2": min(len(bz2.compress(each, 9)) for each in streams),
        "lzma": min(len(lzma.compress(each, preset=9 | lzma.PRESET_EXTREME)) for each in streams),
    }
    bits = {name: 8 * size / images.size for name, size in found.items()}
    some = images[:_PICTURES]
    for name, options in _formats().items():
        sizes = [
            sum(_size(image, levels, name, options) for image in pictures)
            for pictures in (some, _sheets(some))
        ]
        bits[name] = 8 * min(sizes) / some.size
    return bits


_PICTURES = 1000
_MOST_ROWS = 16_000  # of WebP


def _sheets(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Images (C, H, W) below each other, as few as the formats allow."""
    step = max(1, _MOST_ROWS // images.shape[2])
    pieces = (images[start : start + step] for start in range(0, len(images), step))
    return [np.concatenate([*piece], axis=1) for piece in pieces]


def _formats() -> dict[str, dict[str, object]]:
    from PIL import Image, features

    formats: dict[str, dict[str, object]] = {"PNG": {"optimize": True}}
    if features.check("webp"):
        formats["WebP"] = {"lossless": True, "quality": 100, "method": 6}
    Image.init()
    with suppress(ImportError):
        import_module("pillow_jxl")  # Pillow does not look for it by itself
    if "JXL" in Image.SAVE:
        formats["JXL"] = {"lossless": True, "effort": 9}
    return formats


def _size(image: NDArray[np.uint8], levels: int, name: str, options: dict[str, object]) -> int:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    if levels == 2:
        pixels = pixels.astype(bool) if name == "PNG" else pixels * np.uint8(255)
    file = BytesIO()
    Image.fromarray(pixels).save(file, name, **options)
    return len(file.getvalue())
