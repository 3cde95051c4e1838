"""The picture files of a data set: looked at one after the other, and read as images."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data.fingerprint import mark_of
from ppl_vae.data.pictures import Header, read_pages
from ppl_vae.data.resizing import Resizing
from ppl_vae.errors import InputError
from ppl_vae.machine.progress import Progress

__all__ = ["Files", "Looks", "PictureReader", "pages_before", "pages_of"]

_MANY = 20_000  # images whose headers take long enough to say so


@dataclass(frozen=True, eq=False)
class Files:
    """Picture files in one or several folders.

    Args:
        folders: By the split that they are for; 0 is the folder of all that is in no other.
        names: (N,), the files as seen from their folders.
        owners: (N,), the key of the folder of each.
    """

    folders: Mapping[int, Path]
    names: NDArray[np.bytes_]
    owners: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Path:
        return self.folders[self.owners[number]] / os.fsdecode(self.names[number])


@dataclass(frozen=True, eq=False)
class Looks:
    """What the headers of all files say.

    Args:
        first: The first header.
        colour: Whether one has colour.
        pages: (N,), how many images each file has.
        marks: (N,), of each file.
        remark: On pages that are left out.
    """

    first: Header
    colour: bool
    pages: NDArray[np.int64]
    marks: Tensor
    remark: str

    @classmethod
    def at(cls, files: Files, read: Callable[[Path], list[Header]], any_size: bool) -> "Looks":
        """Reads all headers, so that a misfit is found at once.

        Args:
            files: The files.
            read: Gives the headers of the pages of a file that are images.
            any_size: Whether the images may have different sizes.

        Raises:
            InputError: If a header cannot be read, or the images differ in size or depth.
        """
        count = len(files)
        many = count >= _MANY
        progress = Progress(f"looking at {files.folders[0]}", count, "images") if many else None
        marks, pages = torch.empty(count, dtype=torch.int64), np.ones(count, np.int64)
        first: tuple[Path, Header] | None = None
        colour, left, of = False, 0, ""
        with progress or nullcontext():
            for number, name in enumerate(files.names):
                file = files[number]
                headers = read(file)
                marks[number] = mark_of(name, file)
                pages[number] = len(headers)
                for header in headers:
                    colour = colour or header.colour
                    first = first or (file, header)
                    _check_alike(*first, file, header, any_size)
                if headers[0].pages > len(headers):
                    left, of = left + headers[0].pages - len(headers), of or os.fsdecode(name)
                if progress:
                    progress.advance(1)
        assert first is not None
        remark = f"left out {left:,} further pages or frames ({of})" if left else ""
        return cls(first[1], colour, pages, marks, remark)


def pages_before(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many images there are before those of each file, given the number in each."""
    return pages.cumsum() - pages


def pages_of(files: NDArray[np.int64], pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """The images in some files, one file after the other.

    Args:
        files: The numbers of the files.
        pages: (N,), how many images each of all files has.
    """
    counts = pages[files]
    starts = pages_before(pages)[files] - pages_before(counts)
    return np.repeat(starts, counts) + np.arange(counts.sum())


def _check_alike(first: Path, one: Header, file: Path, other: Header, any_size: bool) -> None:
    if one.size != other.size and not any_size:
        raise InputError(
            f"expected images of one size; got {first} of {one.size[0]} x {one.size[1]} and {file} "
            f"of {other.size[0]} x {other.size[1]} pixels; resize them, as with --data.size "
            f"'[{one.size[1]}, {one.size[0]}]' (height and width)"
        )
    if one.deep != other.deep:
        eight, sixteen = (file, first) if one.deep else (first, file)
        raise InputError(
            f"expected images all of 8 bits or all of 16; got {eight} of 8 and {sixteen} of 16; "
            "save them alike"
        )


@dataclass(frozen=True, eq=False)
class PictureReader:
    """Reads images from their files.

    Args:
        files: The files.
        image_shape: (C, H, W).
        deep: Whether they have 16 bits.
        resizing: How they get to that height and width, if they have others.
        rows: The file and the page of each image, (N, 2), where files have several; else images
            are files.
    """

    files: Files
    image_shape: tuple[int, int, int]
    deep: bool
    resizing: Resizing | None = None
    rows: NDArray[np.int64] | None = None

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        dtype = np.int32 if self.deep else np.uint8
        pixels = np.empty((len(rows), *self.image_shape), dtype=dtype)
        wanted = ((row, 0) for row in rows) if self.rows is None else self.rows[rows].tolist()
        start = 0
        for number, group in groupby(wanted, lambda each: each[0]):  # a file is opened once
            images = self._read(number, [page for _, page in group])
            pixels[start : start + len(images)] = images
            start += len(images)
        return pixels

    def page(self, number: int, page: int) -> NDArray[Any]:
        """One page of a file, (C, H, W)."""
        return self._read(number, [page])[0]

    def _read(self, number: int, pages: Sequence[int]) -> list[NDArray[Any]]:
        file = self.files[number]
        channels, height, width = self.image_shape
        images = read_pages(file, pages, channels, self.deep)
        if self.resizing is not None:
            images = [self.resizing(image) for image in images]
        for image in images:
            if image.shape[1:] != (height, width):
                raise InputError(
                    f"expected {file} of {width} x {height} pixels, as its header said; got "
                    f"{image.shape[2]} x {image.shape[1]}; restore it, or save it again"
                )
        return images
