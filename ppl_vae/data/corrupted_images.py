"""A user's corrupted images, in units of intensity."""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import Shape
from ppl_vae.data.conversion import standardised
from ppl_vae.data.folders import pictures_below
from ppl_vae.data.new_images import image_tensor, new_split
from ppl_vae.data.pictures import read_header, read_pixels, suffixes
from ppl_vae.data.split import Facts
from ppl_vae.errors import InputError, unreadable

__all__ = ["corrupted_images", "file_stems", "listed_images"]

_ARRAYS = (".npy", ".npz")


def listed_images(paths: Sequence[Path], skip_unreadable: bool = False) -> Any:
    """The images that a command line names: files of pictures, folders of them, or one array.

    Args:
        paths: Pictures and folders, or one `.npy`, or `.npz` with `images`.
        skip_unreadable: Whether pictures that cannot be read are left out, with a note.

    Returns:
        A list of paths, or an array.

    Raises:
        InputError: If there is nothing, or a file cannot be read.
    """
    arrays = [path for path in paths if path.suffix in _ARRAYS]
    if arrays:
        if len(paths) > 1:
            raise InputError(f"expected one array file, or pictures; got {len(paths)} files")
        return _array(arrays[0])
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            names, _ = pictures_below(path, suffixes(), "--images")
            files += [path / os.fsdecode(name) for name in names.tolist()]
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"expected a picture, a folder or an array at {path}; nothing there")
    if not skip_unreadable:
        return files
    good = []
    for path in files:
        try:
            read_pixels(path, 1, read_header(path).deep)
        except InputError as error:
            print(f"note: left out: {error}", file=sys.stderr)
        else:
            good.append(path)
    if not good:
        raise InputError(f"expected a picture that can be read; none of {len(files)} can")
    return good


def _array(path: Path) -> Any:
    try:
        stored = np.load(path, allow_pickle=False)
        return stored if path.suffix == ".npy" else stored["images"]
    except Exception as error:
        remedy = "save it with numpy.save, or numpy.savez(FILE, images=...), as plain numbers"
        raise unreadable(path, error, remedy) from error


def corrupted_images(
    images: Any, facts: Facts, shape: Shape, keeps_values: bool
) -> tuple[Tensor, list[str] | None]:
    """Corrupted images y as a corruption takes them.

    Pictures and whole numbers are grey levels, and so intensities of 0 to 1. Floating-point
    numbers are intensities as they are, of any size, and NaN where a pixel is missing. Where the
    pixels that are seen are those of x, they become what `new_split` makes of test images.

    Args:
        images: What `Run.split_of` takes.
        facts: Of the run's data.
        shape: Of one y, (C, H, W).
        keeps_values: Whether the pixels of y are values of the run's domain.

    Returns:
        y, (B, *shape), and the names of its files where it came from files.

    Raises:
        InputError: If the images are none that the run's data could have become.
    """
    floating = _floating(images, shape[0], facts.table)
    if keeps_values:
        missing = None
        if floating is not None:
            missing = floating.isnan()
            images = floating.masked_fill(missing, 0)
        split = new_split(images, facts)
        y = split[:]
        if facts.domain == "bytes":
            y = y / 255
        if missing is not None:
            y = y.masked_fill(missing, torch.nan)
    elif floating is not None:
        y = standardised(floating, *facts.moments) if facts.moments else floating
        split = None
    else:
        seen = {each.name: getattr(facts, each.name) for each in fields(Facts)} | {
            "domain": "unit",
            "image_shape": shape,
            "levels": facts.levels if (facts.levels or 0) > 2 else 256,
            "binarize": "none",
            "dequantize": "none",
            "scale": None,
            "moments": None,
        }
        split = new_split(images, Facts(**seen))
        y = split[:]
    if tuple(y.shape[1:]) != shape or not len(y):
        raise InputError(
            f"expected images of {' x '.join(map(str, shape))} (channels, height, width); got "
            f"{tuple(y.shape)}; crop or resize them"
        )
    return y, None if split is None or split.names is None else file_stems(split.names)


def file_stems(names: NDArray[np.bytes_]) -> list[str]:
    """The names of files, as a `Split` has them, without folders and suffixes."""
    return [Path(os.fsdecode(name)).stem for name in names.tolist()]


def _floating(images: Any, channels: int, table: bool) -> Tensor | None:
    """Images of a floating-point type, (N, C, H, W) on the CPU; None of any others."""
    each = images if isinstance(images, list) and images else [images]
    if not all(isinstance(image, np.ndarray | Tensor) for image in each):
        return None
    tensor = image_tensor(images, channels, table)
    return tensor if tensor.is_floating_point() else None
