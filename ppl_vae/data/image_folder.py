"""A user's own pictures."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.fingerprint import mark_of
from ppl_vae.data.folders import Layout, pictures_below
from ppl_vae.data.levels import grey_levels
from ppl_vae.data.own_files import OwnFiles
from ppl_vae.data.pictures import Header, read_header, read_pixels
from ppl_vae.data.source import Images, Source, classes_remark, split_by_name, split_tenths
from ppl_vae.data.split import Data
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError
from ppl_vae.machine.progress import Progress

__all__ = ["ImageFolder"]

_MANY = 20_000  # images whose headers take long enough to say so


@dataclass(frozen=True)
class ImageFolder(OwnFiles):
    """The images in a folder, all of one size; the folders in it, if any, are the labels.

    PNG, JPEG, BMP, GIF, WebP, PGM and TIFF, of 8 or 16 bits, of which the first page or frame is
    read. If all are grey they have one channel, else three. Transparency is laid over white. Images
    of two values are binary.

    The label is the folder's place in natural order (2 before 10); images in `unlabeled` have none.
    Eight tenths are to train on, one is for validation and one for the test, each image by a hash
    of its name. Folders named `train`, `val` and `test` are the splits instead, and the folders in
    them the labels; where `val` or `test` is missing it is cut from `train`.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def default_domain(self) -> Domain:
        if self.rules == 1:
            return "real"
        values: NDArray[Any] = np.empty(0)
        for name in pictures_below(self._folder)[0]:
            file = self._folder / os.fsdecode(name)
            header = read_header(file)
            pixels = read_pixels(file, 3 if header.colour else 1, header.deep)
            values = np.union1d(values, pixels)
            if len(values) > 2:
                break
        return "binary" if len(values) == 2 else "real"

    def load(self, domain: Domain, seed: int) -> Data:
        names, left_out = pictures_below(self._folder)
        layout = Layout.of_earlier_releases(names) if self.rules == 1 else Layout.of(names)
        image_shape, deep, marks, pages = _look(self._folder, names)
        deep = deep and self.rules > 1
        read = _Files(self._folder, names, image_shape, deep)
        dtype = torch.int32 if deep else torch.uint8
        rows = torch.arange(len(names))
        pixels = self._held(Stored(read, rows, image_shape, dtype, self._workers()))
        if self.rules == 1:
            conversion = Conversion.choose(self, domain, 256)
            source = split_tenths(Images(pixels, layout.labels, marks, names), layout.classes)
            return conversion(source, seed)
        pixels, levels, found = grey_levels(pixels, str(self._folder))
        conversion = Conversion.choose(self, domain, levels)
        images = Images(pixels, layout.labels, marks, names)
        train, validation, test = (
            images[places] for places in split_by_name(names.tolist(), layout.splits)
        )
        remarks = found, classes_remark(layout.labels, layout.classes), left_out, pages
        return conversion(Source(train, validation, test, layout.classes, remarks), seed)

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()


def _look(
    folder: Path, names: NDArray[np.bytes_]
) -> tuple[tuple[int, int, int], bool, Tensor, str]:
    """(C, H, W), whether there are 16 bits, the marks of all files, and a remark on their pages.

    The headers of all images are read, so that a misfit is found at once.
    """
    many = len(names) >= _MANY
    progress = Progress(f"looking at {folder}", len(names), "images") if many else None
    marks = torch.empty(len(names), dtype=torch.int64)
    first: tuple[Path, Header] | None = None
    colour, pages, of = False, 0, ""
    with progress or nullcontext():
        for place, name in enumerate(names):
            file = folder / os.fsdecode(name)
            header = read_header(file)
            marks[place] = mark_of(name, file)
            colour = colour or header.colour
            first = first or (file, header)
            _check_alike(*first, file, header)
            if header.pages > 1:
                pages, of = pages + header.pages - 1, of or os.fsdecode(name)
            if progress:
                progress.advance(1)
    assert first is not None
    width, height = first[1].size
    remark = f"left out {pages:,} further pages or frames ({of})" if pages else ""
    return (3 if colour else 1, height, width), first[1].deep, marks, remark


def _check_alike(first: Path, one: Header, file: Path, other: Header) -> None:
    if one.size != other.size:
        raise InputError(
            f"expected images of one size; got {first} of {one.size[0]} x {one.size[1]} and {file} "
            f"of {other.size[0]} x {other.size[1]} pixels; resize them"
        )
    if one.deep != other.deep:
        eight, sixteen = (file, first) if one.deep else (first, file)
        raise InputError(
            f"expected images all of 8 bits or all of 16; got {eight} of 8 and {sixteen} of 16; "
            "save them alike"
        )


@dataclass(frozen=True, eq=False)
class _Files:
    """Reads images from their files."""

    folder: Path
    names: NDArray[np.bytes_]
    image_shape: tuple[int, int, int]
    deep: bool

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        channels, height, width = self.image_shape
        dtype = np.int32 if self.deep else np.uint8
        pixels = np.empty((len(rows), *self.image_shape), dtype=dtype)
        for place, row in enumerate(rows):
            file = self.folder / os.fsdecode(self.names[row])
            image = read_pixels(file, channels, self.deep)
            if image.shape[1:] != (height, width):
                raise InputError(
                    f"expected {file} of {width} x {height} pixels, as its header said; got "
                    f"{image.shape[2]} x {image.shape[1]}; restore it, or save it again"
                )
            pixels[place] = image
        return pixels
