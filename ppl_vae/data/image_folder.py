"""A user's own pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.ranges import check_choice, check_sizes
from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.folders import Layout, pictures_below
from ppl_vae.data.groups import groups_of_files
from ppl_vae.data.levels import grey_levels
from ppl_vae.data.own_files import OwnFiles, Splits
from ppl_vae.data.picture_files import Files, Looks, PictureReader, pages_before, pages_of
from ppl_vae.data.pictures import FIRST_SUFFIXES, Header, read_header, read_headers, suffixes
from ppl_vae.data.readable import readable_files
from ppl_vae.data.resizing import Resizing
from ppl_vae.data.source import (
    Images,
    Source,
    shares_of,
    split_by_name,
    split_tenths,
)
from ppl_vae.data.split import Data
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError

__all__ = ["ImageFolder"]

_CHANNELS = {"grey": 1, "rgb": 3}
_OPTIONS = ("path", "validation", "test")


@dataclass(frozen=True)
class ImageFolder(OwnFiles):
    """The images in a folder; the folders in it, if any, are the labels.

    Every format that Pillow reads, of 8 or 16 bits: PNG, JPEG, TIFF, WebP, BMP, GIF, PGM and many
    more. If all are grey they have one channel, else three. Transparency is laid over white. Images
    of two values are binary. Without `size` all have to be of one size.

    The label is the folder's place in natural order (2 before 10); images in `unlabeled` have none.
    Eight tenths are to train on, one is for validation and one for the test, each file by a hash of
    its name. Folders named `train`, `val` and `test` are the splits instead, and the folders in
    them the labels; where `val` or `test` is missing it is cut from `train`. `validation` and
    `test` name folders elsewhere for these splits. `groups` is a CSV file with a line `file
    name,group` for each file, its name as seen from the folder.

    Args:
        path: The folder.
        size: Height and width that images are brought to, by Pillow's bilinear filter, which takes
            all pixels into account where an image is made smaller.
        crop: `center` takes the middle part of the proportions of `size` before, `none` stretches
            an image of other proportions.
        colour: `grey` makes one channel of all images, `rgb` three; `auto` one if all are grey.
        pages: `first` takes the first page or frame of a file, `all` each of them as an image with
            the file's label; those of one file are always in one split.
        skip_unreadable: Whether damaged files are left out, with a remark. Otherwise the first one
            is refused.
    """

    path: Path
    size: Sequence[int] | None = None
    crop: Literal["none", "center"] = "none"
    colour: Literal["auto", "grey", "rgb"] = "auto"
    pages: Literal["first", "all"] = "first"
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--data.crop", self.crop, ("none", "center"))
        check_choice("--data.colour", self.colour, ("auto", *_CHANNELS))
        check_choice("--data.pages", self.pages, ("first", "all"))
        if self.size is not None:
            check_sizes("--data.size", self.size)
            if len(self.size) != 2:
                raise ValueError(
                    f"expected --data.size as height and width, as '[64, 64]'; got {[*self.size]}"
                )
            object.__setattr__(self, "size", tuple(map(int, self.size)))
        elif self.crop != "none":
            raise ValueError(f"--data.crop {self.crop}: expected --data.size too; got none")

    @property
    def default_domain(self) -> Domain:
        if self.rules == 1:
            return "real"
        files, _ = self._files()
        values: NDArray[Any] = np.empty(0)
        for number in range(len(files)):
            headers = self._headers(files[number])
            read = self._reader(files, headers[0], headers[0].colour)
            for page in range(len(headers)):
                values = np.union1d(values, read.page(number, page))
                if len(values) > 2:
                    return "real"
        return "binary" if len(values) == 2 else "real"

    def load(self, domain: Domain, seed: int) -> Data:
        files, left_out = self._files()
        layout = self._layout(files)
        looks = Looks.at(files, self._headers, any_size=self.size is not None)
        read = self._reader(files, looks.first, looks.colour)
        owners = np.repeat(np.arange(len(files)), looks.pages)  # the file of each image
        if self.pages == "all":
            pages = pages_of(np.arange(len(files)), looks.pages) - pages_before(looks.pages)[owners]
            read = replace(read, rows=np.stack([owners, pages], axis=1))
        dtype = torch.int32 if read.deep else torch.uint8
        stored = Stored(read, torch.arange(len(owners)), read.image_shape, dtype, self._workers())
        pixels = self._held(stored)
        labels = None if layout.labels is None else layout.labels[owners]
        if self.rules == 1:
            conversion = Conversion.choose(self, domain, 256)
            images = Images(pixels, labels, looks.marks, files.names)
            return conversion(split_tenths(images, layout.classes), seed)
        (pixels,), levels, found = grey_levels([pixels], str(self.path))
        conversion = Conversion.choose(self, domain, levels)
        images = Images(pixels, labels, looks.marks[owners], files.names[owners])
        train, validation, test = (
            images[torch.from_numpy(pages_of(part.numpy(), looks.pages))]
            for part in self._split(files, layout)
        )
        counts = self._classes_remark(labels, layout.classes)
        unused = self._stratify_remark(0 if layout.splits is None else len({*layout.splits}))
        remarks = found, counts, left_out, looks.remark, unused
        data = conversion(Source(train, validation, test, layout.classes, remarks), seed)
        return replace(data, crop=self.crop if self.size else None)

    def _files(self) -> tuple[Files, str]:
        """The pictures in all folders, and a remark on what else is in them."""
        known = FIRST_SUFFIXES if self.rules < 3 else suffixes()
        folders = {0: self.path}
        for split, folder in enumerate((self.validation, self.test), 1):
            folders |= {} if folder is None else {split: folder}
        names, remarks = [], []
        for split, folder in folders.items():
            there, left_out = pictures_below(folder, known, f"--data.{_OPTIONS[split]}")
            unread = ""
            if self.skip_unreadable:
                there, unread = readable_files(folder, there)
            names.append(there)
            remarks += [left_out, unread]
        owners = np.repeat([*folders], [len(each) for each in names])
        return Files(folders, np.concatenate(names), owners), ", ".join(filter(None, remarks))

    def _layout(self, files: Files) -> Layout:
        if self.rules == 1:
            return Layout.of_earlier_releases(files.names)
        if len(files.folders) == 1:
            return Layout.of(files.names)
        splits = Layout.of(files.names[files.owners == 0]).splits
        for split in files.folders:
            if split > 0 and splits is not None and (splits == split).any():
                raise InputError(
                    f"--data.{_OPTIONS[split]}: {self.path} has a folder of such images "
                    "already; leave it out, or move that folder"
                )
        # As if all were folders in one.
        prefixes = (b"train/" if splits is None else b"", b"val/", b"test/")
        names = zip(files.owners, files.names.tolist(), strict=True)
        return Layout.of(np.array([prefixes[owner] + name for owner, name in names], np.bytes_))

    def _headers(self, file: Path) -> list[Header]:
        """Of the pages of a file that are images."""
        return read_headers(file) if self.pages == "all" else [read_header(file)]

    def _reader(self, files: Files, header: Header, colour: bool) -> PictureReader:
        channels = _CHANNELS.get(self.colour, 3 if colour else 1)
        height, width = self.size or header.size[::-1]
        deep = header.deep and self.rules > 1
        how = Resizing((height, width), self.crop == "center") if self.size else None
        return PictureReader(files, (channels, height, width), deep, how)

    def _split(self, files: Files, layout: Layout) -> Splits:
        """The files of each split."""
        names = files.names.tolist()
        given = np.zeros(len(names), np.int64) if layout.splits is None else layout.splits
        order = shares_of(names).argsort(kind="stable")

        def groups() -> list[bytes]:
            assert self.groups is not None
            return groups_of_files(self.groups, files)

        def plain(order: NDArray[np.int64], given: NDArray[np.int64]) -> Splits:
            return split_by_name(names, given)

        return self._cut(plain, order, given, layout.labels, groups)
