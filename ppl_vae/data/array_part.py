"""Images, or the rows of a table, and labels as NumPy has them: checked, and read as pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data.levels import as_int32
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError, unreadable

__all__ = ["Part", "joint_labels"]


@dataclass(frozen=True, eq=False)
class Part:
    """Images, all there are or those of one split.

    Args:
        images: (N, H, W), (N, C, H, W), or a table (N, D), of any type.
        labels: (N,), or None.
        where: What to call them in errors.
        file: The file that they are in, if they are in one.
        remark: On what else there is.
    """

    images: np.ndarray
    labels: np.ndarray | None
    where: str
    file: Path | None = None
    remark: str = ""

    def check(self, like: "Part | None" = None) -> None:
        """Checks shape and type.

        Args:
            like: Other images, which these have to agree with.

        Raises:
            InputError: If they are wrong.
        """
        array, where = self.images, self.where
        if array.ndim not in (2, 3, 4) or 0 in array.shape:
            raise InputError(
                "expected images of shape (N, H, W) or (N, C, H, W), or a table of shape (N, D), "
                f"N >= 1; got {array.shape} in {where}; reshape them"
            )
        few = 1 if array.ndim == 4 and 2 in (array.shape[1], array.shape[3]) else 3
        if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 2, 3, 4):
            some = "" if array.shape[3] in (1, 3) else f"[:, :{few}]"
            raise InputError(
                f"expected images of shape (N, C, H, W); got {array.shape} in {where}, channels "
                f"last; transpose them with images.transpose(0, 3, 1, 2){some}"
            )
        if array.ndim == 4 and array.shape[1] not in (1, 3):
            raise InputError(
                f"expected one channel (grey) or three (colour); got {array.shape[1]} in {where}, "
                f"of shape {array.shape}; choose some with images[:, :{few}]"
            )
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise InputError(
                f"expected images of type bool, integer, float16, float32 or float64; got "
                f"{array.dtype} in {where}; save them as one of these"
            )
        if like is None:
            return
        if self.image_shape != like.image_shape or array.dtype != like.images.dtype:
            kinds = [
                f"{part.images.dtype} of {' x '.join(map(str, part.image_shape))} in {part.where}"
                for part in (like, self)
            ]
            raise InputError(
                f"expected images of one size and type in all splits; got {' and '.join(kinds)}; "
                "make them alike"
            )

    @property
    def table(self) -> bool:
        """Whether they are the rows of a table."""
        return self.images.ndim == 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W); (1, 1, D) for a row of a table."""
        channels, height, width = (1, 1, 1, *self.images.shape[1:])[-3:]
        return channels, height, width

    def pixels(self, fits: Callable[[int], bool], workers: int) -> Tensor | Stored:
        """(N, C, H, W) uint8, int32 or float32; images that are mapped from a file stay there.

        The rows of a table are float32.

        Args:
            fits: Whether so many bytes of images from a file are to be held in memory.
            workers: How many processes read images from the file.

        Raises:
            InputError: If they are to stay in a file that cannot be read in pieces.
        """
        array = self.images
        dtype = np.dtype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, np.int32))
        dtype = np.dtype(np.uint8) if array.dtype == np.uint8 else dtype
        dtype = np.dtype(np.float32) if self.table else dtype
        if self.file and isinstance(array, np.memmap) and array.flags.c_contiguous:
            read = _Mapped(self.file, array.dtype, array.offset, array.shape, dtype)
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return Stored(read, torch.arange(len(array)), self.image_shape, kind, workers)
        if self.file and not fits(array.size * dtype.itemsize):
            raise InputError(
                f"the images of {self.where} are more than is held in memory, and lie in it column "
                "by column; save them again with numpy.save(FILE, numpy.ascontiguousarray(images))"
            )
        images = _cast(array.reshape(len(array), *self.image_shape), dtype)
        return torch.from_numpy(np.array(images, order="C"))


def _cast(array: np.ndarray, dtype: np.dtype) -> NDArray[Any]:
    if dtype == np.int32:
        return as_int32(array)
    with np.errstate(over="ignore"):
        return array.astype(dtype)


@dataclass(frozen=True)
class _Mapped:
    """Reads images from an array in a file. It is opened each time, so that no page of it stays."""

    path: Path
    stored: np.dtype
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        try:
            array = np.memmap(self.path, self.stored, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise unreadable(self.path, error, "restore the file as it was") from error
        images = _cast(array[rows], self.dtype)
        return np.asarray(images.reshape(len(images), *(1, 1, *images.shape[1:])[-3:]))


def joint_labels(
    parts: Sequence[Part], rules: int
) -> tuple[list[Tensor | None], tuple[str, ...] | None]:
    """The labels of each part, and the names of the classes where their numbers are not 0, 1, ...

    Where some parts have labels, those of the others are -1.

    Args:
        parts: The images, and their labels where they have some.
        rules: By which rules they are read; before 2, numbers that are skipped are classes.

    Raises:
        InputError: If the labels are none.
    """
    if all(part.labels is None for part in parts):
        return [None for _ in parts], None
    total = sum(len(part.images) for part in parts)
    given = [_checked(part, total) for part in parts]
    there = np.unique(np.concatenate(given))
    there = there[there >= 0]
    if rules == 1 or np.array_equal(there, np.arange(len(there))):
        return [torch.from_numpy(labels) for labels in given], None
    numbered = [np.where(labels < 0, -1, there.searchsorted(labels)) for labels in given]
    return [torch.from_numpy(each) for each in numbered], tuple(map(str, there.tolist()))


def _checked(part: Part, total: int) -> NDArray[np.int64]:
    if part.labels is None:
        return np.full(len(part.images), -1)
    labels, where = part.labels, part.where
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise InputError(
            f"expected labels of shape (N,) and an integer type; got {labels.dtype} of shape "
            f"{labels.shape} in {where}; number the classes 0, 1, ..."
        )
    if len(labels) != len(part.images):
        raise InputError(
            f"expected one label for each of {len(part.images):,} images in {where}; got labels of "
            f"shape {labels.shape}"
        )
    if labels.size and not -1 <= labels.min() <= labels.max() < max(total, 2):
        raise InputError(
            f"expected labels of 0, 1, ..., or -1 where one is unknown; got {labels.min()} to "
            f"{labels.max()} for {total:,} images in {where}; number the classes 0, 1, ..."
        )
    return labels.astype(np.int64)
