"""Reading `.npy` and `.npz` files, mapped where they are large. Nothing pickled is ever read."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ppl_vae.data.array_part import Part
from ppl_vae.errors import InputError, unreadable

__all__ = ["read_groups", "read_part"]

_RESAVE = "save it again with numpy.save or numpy.savez, as plain numbers"

Fits = Callable[[int], bool]


def read_part(path: Path, option: str, fits: Fits) -> Part:
    """The images in a file, and its labels.

    Args:
        path: The file.
        option: The one that names it.
        fits: Whether so many bytes of images are to be held in memory.

    Raises:
        InputError: If it cannot be read, or has no images.
    """
    _check_file(path, option, (".npy", ".npz"), "save the images with numpy.save")
    array, others = _read(path, fits, ("images", "labels"))
    if isinstance(array, np.ndarray):
        return Part(array, None, str(path), path)
    if "images" not in array:
        raise InputError(
            f"expected an array named images in {path}; got {', '.join(others) or 'none'}; "
            "save it with numpy.savez(FILE, images=...)"
        )
    remark = f"left out {', '.join(others)}" if others else ""
    return Part(array["images"], array.get("labels"), str(path), path, remark)


def read_groups(path: Path, count: int) -> list[bytes]:
    """The name of the group of each image.

    Args:
        path: A `.npy` file of N whole numbers or texts.
        count: N.

    Raises:
        InputError: If it cannot be read, or is none.
    """
    _check_file(path, "--data.groups", (".npy",), "save the groups with numpy.save")
    groups, _ = _read(path, lambda size: True, ())
    if not isinstance(groups, np.ndarray) or groups.ndim != 1 or groups.dtype.kind not in "iuU":
        found = f"{groups.dtype} of shape {groups.shape}" if isinstance(groups, np.ndarray) else ""
        raise InputError(
            f"expected groups of shape (N,), whole numbers or text; got {found or 'an archive'} in "
            f"{path}; save them with numpy.save"
        )
    if len(groups) != count:
        raise InputError(
            f"expected a group for each of {count:,} images; got {len(groups):,} in {path}; save "
            "one for each"
        )
    return [str(group).encode() for group in groups]


def _check_file(path: Path, option: str, suffixes: tuple[str, ...], remedy: str) -> None:
    if path.suffix not in suffixes:
        raise InputError(f"expected a {' or '.join(suffixes)} file; got {path}; {remedy}")
    if not path.is_file():
        raise InputError(f"expected a file at {path}; there is none; name one with {option} FILE")


def _read(path: Path, fits: Fits, names: tuple[str, ...]) -> tuple[Any, list[str]]:
    """The array in a file, or those of an archive that have these names; the names of others."""
    try:
        with open(path, "rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                return npy.open_memmap(path, mode="r"), []
            file.seek(0)
            stored = np.load(file, allow_pickle=False)
            read = {name: _member(path, stored, name, fits) for name in names if name in stored}
            return read, [name for name in stored.files if name not in names]
    except InputError:
        raise
    except Exception as error:
        if "allow_pickle" in str(error):  # numpy's advice would let a file run code
            error = ValueError("it is no array of numbers")
        raise unreadable(path, error, _RESAVE) from error


def _member(path: Path, stored: Any, name: str, fits: Fits) -> np.ndarray:
    """An array of an archive, held where it fits (its sum is checked), or mapped."""
    entry = stored.zip.getinfo(f"{name}.npy")
    if name != "images" or fits(entry.file_size):
        return stored[name]
    if entry.compress_type != zipfile.ZIP_STORED:
        raise InputError(
            f"the images of {path} take {entry.file_size / 2**30:.3g} GiB, more than is "
            "held in memory, and a compressed archive cannot be read in pieces; save them with "
            "numpy.save or numpy.savez"
        )
    with open(path, "rb") as file:
        file.seek(entry.header_offset + 26)
        length, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        file.seek(entry.header_offset + 30 + length + extra)
        shape, columns_first, dtype = _header(file)
        at = file.tell()
    return np.memmap(path, dtype, "r", at, shape, "F" if columns_first else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of the array that begins here."""
    if npy.read_magic(file) == (1, 0):
        return npy.read_array_header_1_0(file)
    return npy.read_array_header_2_0(file)
