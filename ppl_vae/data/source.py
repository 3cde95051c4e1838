"""Images as they are stored, and how they are cut into splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data.stored import Stored, joined
from ppl_vae.errors import InputError

__all__ = [
    "Images",
    "Source",
    "classes_remark",
    "fixed_order",
    "shares_of",
    "split_by_name",
    "split_tenths",
]

_NAMED = 12  # classes in a remark
_ORDER_SEED = 20131220


@dataclass(frozen=True, eq=False)
class Images:
    """Images as they are stored.

    Args:
        pixels: (N, C, H, W), uint8 grey levels (0 and 1 where the images are binary) or float32;
            `Stored` where they stay in their files.
        labels: (N,) int64, or None.
        marks: (N,) int64, a number for each image that changes with it, where reading all of them
            to see whether they have changed would take long.
        names: (N,) of the files, as bytes, where each image has one of its own.

    Raises:
        InputError: If they have another shape, or there is not one label for each.
    """

    pixels: Tensor | Stored
    labels: Tensor | None = None
    marks: Tensor | None = None
    names: NDArray[np.bytes_] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or 0 in shape[1:]:
            raise InputError(f"expected images of shape (N, C, H, W); got {shape}")
        if self.labels is not None and self.labels.is_floating_point():
            raise InputError(f"expected labels of an integer type; got {self.labels.dtype}")
        if self.labels is not None and self.labels.shape != shape[:1]:
            raise InputError(
                f"expected one label for each of {shape[0]:,} images; got labels of shape "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> "Images":
        labels, marks = (
            None if each is None else each[index] for each in (self.labels, self.marks)
        )
        places = index.numpy() if isinstance(index, Tensor) else index
        names = None if self.names is None else self.names[places]
        if isinstance(self.pixels, Stored):
            return Images(self.pixels.select(index), labels, marks, names)
        return Images(self.pixels[index], labels, marks, names)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it is stored, cut into splits.

    Args:
        train: The training images.
        validation: The validation images.
        test: The test images.
        class_names: The names of the labels 0, 1, ..., where they are known.
        remarks: Phrases that the first line of a run adds on the data.
        table: Whether the images (1, 1, D) are the rows of a table of D columns.
    """

    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()
    table: bool = False

    @property
    def splits(self) -> tuple[Images, Images, Images]:
        """The training, validation and test images."""
        return self.train, self.validation, self.test

    def pooled(self) -> Images:
        """All images, in the order of their names where they have some."""
        labels = [each.labels for each in self.splits if each.labels is not None]
        names = [each.names for each in self.splits if each.names is not None]
        images = Images(
            joined([each.pixels for each in self.splits]),
            torch.cat(labels) if len(labels) == 3 else None,
            names=np.concatenate(names) if len(names) == 3 else None,
        )
        if images.names is None:
            return images
        return images[torch.from_numpy(images.names.argsort(kind="stable"))]


def classes_remark(labels: Tensor | None, names: tuple[str, ...] | None = None) -> str:
    """The classes and how many images each has; empty where there are no labels.

    Args:
        labels: (N,) int64, -1 for none.
        names: Of the labels 0, 1, ..., which are these numbers unless given.
    """
    if labels is None:
        return ""
    unlabeled, *counts = (labels + 1).bincount(minlength=len(names or ()) + 1).tolist()
    shown = zip(names or range(len(counts)), counts[:_NAMED], strict=False)
    said = [f"{name} {count:,}" for name, count in shown]
    said += [f"and {len(counts) - _NAMED} more"] if len(counts) > _NAMED else []
    classes = [f"classes {', '.join(said)}"] if said else []
    return "; ".join(classes + ([f"{unlabeled:,} unlabeled"] if unlabeled else []))


def fixed_order(count: int) -> Tensor:
    """A permutation of 0, ..., count - 1 that is the same in every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_ORDER_SEED))


def split_tenths(images: Images, class_names: tuple[str, ...] | None = None) -> Source:
    """Cuts images in the fixed order: a tenth each for validation and test, the rest to train on.

    Raises:
        InputError: If there are fewer than three images.
    """
    if len(images) < 3:
        raise InputError(
            "expected at least 3 images, one for each of training, validation and test; got "
            f"{len(images)}; add images"
        )
    tenth = max(1, len(images) // 10)
    test, validation, train = fixed_order(len(images)).tensor_split([tenth, 2 * tenth])
    return Source(images[train], images[validation], images[test], class_names)


def split_by_name(
    names: Sequence[bytes], given: NDArray[np.int64] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The places of training, validation and test images, each by a hash of its own name alone.

    So a file that comes, goes or gets another name leaves all others where they are. (Where a
    split would be empty it gets one of the others, as long as one is left to train on.) Within a
    split images stand in the order of their hashes.

    Args:
        names: Of N images.
        given: (N,), 0, 1 or 2 for training, validation and test images, where that is known. Of
            the training images a tenth each goes to those of the other two that have none.
    """
    share = shares_of(names)
    given = np.zeros(len(names), np.int64) if given is None else given
    order = share.argsort(kind="stable")
    parts = [order[given[order] == split] for split in range(3)]
    empty = [split for split in (2, 1) if not len(parts[split])]
    for tenths, split in enumerate(empty, 1):
        left = len(empty) - tenths + 1
        count = int(share[parts[0]].searchsorted(tenths / 10))
        count = max(0, min(max(count, 1), len(parts[0]) - left))
        parts[split], parts[0] = parts[0][:count], parts[0][count:]
    train, validation, test = map(torch.from_numpy, parts)
    return train, validation, test


def shares_of(names: Sequence[bytes]) -> NDArray[np.float64]:
    """A number in [0, 1) for each name, by a hash of it."""
    hashes = [hashlib.sha256(name).digest()[:8] for name in names]
    return np.frombuffer(b"".join(hashes), ">u8") / 2.0**64
