"""A user's own arrays."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from models.ranges import check_choice
from models.spec import Domain
from ppl_vae.data.array_file import read_groups, read_part
from ppl_vae.data.array_part import Part, joint_labels
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.holes import check_observed
from ppl_vae.data.in_memory import part_of
from ppl_vae.data.levels import are_grey_levels_with_holes, grey_levels, two_values
from ppl_vae.data.own_files import OwnFiles
from ppl_vae.data.source import Images, Source, fixed_order
from ppl_vae.data.split import Data
from ppl_vae.data.splitting import tenths
from ppl_vae.data.stored import Stored
from ppl_vae.data.tables import as_table, is_binary
from ppl_vae.errors import InputError, kind
from ppl_vae.machine.files import whole_file

__all__ = ["KEPT", "Arrays"]

KEPT = "data"
"""The folder of a run for images that a script has given."""

_GIB = 2**30
_SPLITS = {"path": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Arrays(OwnFiles):
    """Images or a table in a NumPy file: `.npy`, or `.npz` with `images` and maybe `labels`.

    Of shape (N, H, W) or (N, C, H, W), and of one of these types: bool; whole numbers of 0 to
    65,535, which are grey levels of as many bits (8, 10, 12, 14 or 16) as the largest needs; or
    floating-point numbers, with NaN where a pixel is missing. Since no integer type has a NaN,
    floating-point images with missing pixels are grey levels too where all others are whole numbers
    of 0 to 65,535. Images of two values are binary. In a fixed order, eight tenths are to train on,
    one for validation and one for the test; `validation` and `test` name files of these instead.
    Files of any size are mapped into memory piece by piece, except a `.npz` that is compressed.

    An array of shape (N, D) is a table: N rows of D columns, which are numbers of any type and no
    grey levels. Each column is standardised, and whatever is written in its place has its units
    again. A table of 0 and 1 alone is binary.

    Labels are whole numbers, -1 where one is unknown; where they skip some, each that there is
    names a class. `groups` is a `.npy` file of N whole numbers or texts, for the images in `path`.

    In Python, `Arrays.of` takes images in memory.

    Args:
        path: The file.
        scale: `standard` takes the mean of all values of the training images from each
            floating-point value, and divides by their standard deviation; in a table, those of
            each column. `auto` is `standard` for a table under a likelihood for real data and
            `none` otherwise.
    """

    path: Path
    scale: Literal["auto", "none", "standard"] = "auto"
    in_memory: Mapping[str, Part] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--data.scale", self.scale, ("auto", "none", "standard"))

    @classmethod
    def of(cls, images: Any, validation: Any = None, test: Any = None, **options: Any) -> Self:
        """The data set of images in memory, which `fit` keeps in the run directory.

        Args:
            images: A NumPy array or a tensor, (N, H, W), (N, C, H, W) or a table (N, D); such
                images with their labels, as a pair; or a map-style torch `Dataset` whose items are
                images, or images with labels. An image there is an array, a tensor or a picture of
                Pillow's.
            validation: The validation images, in the same way; cut from the others unless given.
            test: The test images.
            **options: Further ones of the data set; `groups` is a file here too.

        Raises:
            InputError: If they are no images, or an option has a bad value.
        """
        groups = options.get("groups")
        if groups is not None and not isinstance(groups, str | Path):
            raise InputError(
                f"groups: expected the path of a .npy file; got {kind(groups)}; save them with "
                "numpy.save(FILE, groups), and give groups=FILE"
            )
        given = {"path": images, "validation": validation, "test": test}
        given = {name: value for name, value in given.items() if value is not None}
        parts = {
            name: part_of(value, "data" if name == "path" else name)
            for name, value in given.items()
        }
        files: dict[str, Any] = {
            name: Path(KEPT, "images.npz" if name == "path" else f"{name}.npz") for name in given
        }
        try:
            return cls(**files, **options, in_memory=parts)
        except ValueError as error:
            raise InputError(f"data: {error}") from error

    @property
    def default_domain(self) -> Domain:
        parts = self._parts()
        if parts[0].table:
            return "binary" if is_binary(*map(self._pixels, parts)) else "real"
        binary = parts[0].images.dtype == np.bool_
        if self.rules == 1 or binary:
            return "binary" if binary else "real"
        return "binary" if two_values(*map(self._pixels, parts)) else "real"

    @property
    def table(self) -> bool:
        return self._parts()[0].table

    def load(self, domain: Domain, seed: int) -> Data:
        parts = self._parts()
        labels, names = joint_labels(parts, self.rules)
        pixels = [self._held(self._pixels(part)) for part in parts]
        dtype, levels, remark = parts[0].images.dtype, None, ""
        chosen, table = self, parts[0].table
        if table:
            chosen, pixels, levels = as_table(self, pixels, domain)
        elif self.rules == 1 or dtype == np.bool_:
            levels = {"b": 2, "u": 256}.get(dtype.kind)
        elif (
            dtype.kind in "iu"
            or (domain == "binary" and two_values(*pixels))
            or are_grey_levels_with_holes(pixels)
        ):
            pixels, levels, remark = grey_levels(pixels, " and ".join(p.where for p in parts))
        chosen = replace(chosen, scale="none") if chosen.scale == "auto" else chosen
        conversion = Conversion.choose(chosen, domain, levels)
        images = [Images(*each) for each in zip(pixels, labels, strict=True)]
        every = (
            None if labels[0] is None else torch.cat([each for each in labels if each is not None])
        )
        source = self._split(images, every, names)
        counts = self._classes_remark(every, names)
        unused = self._stratify_remark(len(parts))
        remarks = remark, counts, *(part.remark for part in parts), unused
        data = conversion(replace(source, remarks=remarks, table=table), seed)
        if any(data.missing):
            for part, each in zip(parts, pixels, strict=True):
                check_observed(each, part.where)
        return data

    @property
    def files(self) -> dict[str, str]:
        """The files of images in memory in a run directory, by the options that name them."""
        return {name: getattr(self, name).as_posix() for name in self.in_memory or ()}

    def save(self, folder: Path) -> None:
        """Writes images in memory to files, where the same data set without them reads them.

        Args:
            folder: The run directory.

        Raises:
            OSError: If they cannot be written.
        """
        parts = self.in_memory or {}
        size = sum(part.images.nbytes for part in parts.values()) / _GIB
        if size > 1:
            print(
                f"note: the run directory keeps a copy of the images, {size:.1f} GiB; to have "
                "none, give ppl_vae.data.Arrays(path=FILE)",
                file=sys.stderr,
            )
        if parts:
            (folder / KEPT).mkdir()
        for name, part in parts.items():
            arrays: dict[str, Any] = {"images": np.ascontiguousarray(part.images)}
            arrays |= {} if part.labels is None else {"labels": part.labels}
            with whole_file(folder / getattr(self, name)) as file:
                np.savez(file, **arrays)

    def saved_in(self, folder: Path) -> Self:
        """The data set that reads what `save` wrote."""
        paths: dict[str, Any] = {
            name: folder.absolute() / file for name, file in self.files.items()
        }
        return replace(self, in_memory=None, **paths)

    def _parts(self) -> list[Part]:
        """All images, or the training images and those of other splits that are given; checked."""
        if self.in_memory is not None:
            parts = [*self.in_memory.values()]
        else:
            paths = {name: getattr(self, name) for name in _SPLITS}
            parts = [
                read_part(path, f"--data.{name}", self._fits)
                for name, path in paths.items()
                if path is not None
            ]
        for part in parts:
            part.check(like=parts[0])
        return parts

    def _pixels(self, part: Part) -> Tensor | Stored:
        return part.pixels(self._fits, self._workers())

    def _split(
        self, images: list[Images], labels: Tensor | None, names: tuple[str, ...] | None
    ) -> Source:
        splits = [split for name, split in _SPLITS.items() if getattr(self, name) is not None]
        given = np.repeat(splits, [len(each) for each in images])
        count = len(images[0])
        order = np.concatenate([fixed_order(count).numpy(), np.arange(count, len(given))])

        def groups() -> list[bytes]:
            assert self.groups is not None
            named = [str(split).encode() for split in given[count:]]  # each split a group
            return [b"group " + name for name in read_groups(self.groups, count)] + named

        places = self._cut(tenths, order, given, labels, groups)
        others = dict(zip(splits[1:], images[1:], strict=True))
        train, validation, test = (
            others[split] if split in others else images[0][where]
            for split, where in enumerate(places)
        )
        return Source(train, validation, test, names)
