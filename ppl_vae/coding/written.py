"""Images written again, as they were in their files."""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from ppl_vae.errors import InputError

__all__ = ["Write", "check_name", "writer"]

Write = Callable[[int, NDArray[np.uint8]], None]  # the images from a number on, (N, C, H, W)


def check_name(name: str) -> None:
    """Refuses the name of a file that would lie outside of the folder, or that no system takes.

    Raises:
        InputError: If it is one.
    """
    parts = str(name).split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in name for c in "\\:\0"):
        raise InputError(f"expected names of files inside of a folder; got {name!r}; rename it")


def writer(originals: dict[str, Any], count: int, levels: int, folder: Path) -> Write:
    """A function that writes images into a folder; those that it never gets are left out or black.

    Args:
        originals: What `Originals.description` said.
        count: How many images there are.
        levels: 2 or 256.
        folder: Where to; it is empty.

    Raises:
        InputError: If there are not so many, or names lie outside of the folder.
    """
    try:
        if originals["kind"] == "array":
            return _array(originals, count, folder)
        names, modes = originals["names"], originals["modes"]
        modes = [modes] * count if isinstance(modes, str) else modes
        if not len(names) == len(modes) == count or not {*modes} <= {"1", "L", "RGB"}:
            raise ValueError("as many names and modes as images")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError("the names in the archive are not those that compress writes") from error
    for name in names:
        check_name(name)

    def write(start: int, images: NDArray[np.uint8]) -> None:
        for number, image in enumerate(images, start):
            path = folder / names[number]
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, image, modes[number], levels)

    return write


def _array(originals: dict[str, Any], count: int, folder: Path) -> Write:
    name, kind, shape = originals["name"], originals["type"], tuple(originals["shape"])
    check_name(name)
    if shape[0] != count or kind not in ("|u1", "|b1"):
        raise ValueError("an array of so many images")

    path, described = folder / name, {"descr": kind, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        write_array_header_1_0(file, described)
        begin = file.tell()
        file.truncate(begin + prod(shape))

    def write(start: int, images: NDArray[np.uint8]) -> None:
        with path.open("r+b") as file:  # not a memory map: a full disk would kill the process
            file.seek(begin + start * prod(shape[1:]))
            file.write(images.tobytes())

    return write


def _save(path: Path, image: NDArray[np.uint8], mode: str, levels: int) -> None:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    if mode == "1":
        pixels = pixels.astype(bool)
    elif levels == 2:
        pixels = pixels * np.uint8(255)
    Image.fromarray(pixels).save(path)
