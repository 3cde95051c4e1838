"""Cutting images into splits: plainly, with a share of each class, or with groups together."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data.source import check_enough, split_by_name
from ppl_vae.errors import InputError

__all__ = ["split_by_group", "stratified", "tenths"]

_SPLITS = ("training", "validation", "test")


def tenths(order: NDArray[np.int64], given: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts images into splits: of the training images the first tenth is for the test.

    The next is for validation. One of the two that is given is left as it is.

    Args:
        order: A permutation of the N images; the images of each split stand in it.
        given: (N,), 0, 1 or 2 for training, validation and test images where that is known.

    Raises:
        InputError: If there are too few images.
    """
    split, empty, free = _free(order, given)
    tenth = max(1, len(free) // 10)
    for place, each in enumerate(empty):
        split[free[place * tenth : (place + 1) * tenth]] = each
    return _places(order, split)


def stratified(
    order: NDArray[np.int64], labels: Tensor, given: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts images into splits in which each class has its share, up to one image.

    With the n images of all classes lined up class by class, the j-th of n / 10 test images falls
    on the class at (j + 1/4) n / (n / 10), and the j-th validation image on that at j + 3/4. Within
    a class the first images in the order are for the test, and the next for validation.

    Args:
        order: A permutation of the N images; the images of each split stand in it.
        labels: (N,); images without a label, -1, are a class of their own here.
        given: (N,), 0, 1 or 2 for training, validation and test images where that is known. The
            other two have a tenth each of the training images where they have none.

    Raises:
        InputError: If there are too few images.
    """
    split, empty, free = _free(order, given)
    by_class = free[labels.numpy()[order[free]].argsort(kind="stable")]
    classes = labels.numpy()[order[by_class]]
    tenth, taken = max(1, len(free) // 10), dict[int, int]()
    for place, each in enumerate(empty):
        seats = (2 * len(empty) * np.arange(tenth) + 2 * place + 1) * len(free)
        wanted = classes[seats // (2 * len(empty) * tenth)]
        for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
            start = int(classes.searchsorted(label)) + taken.get(label, 0)
            split[by_class[start : start + count]] = each
            taken[label] = taken.get(label, 0) + int(count)
    return _places(order, split)


def _free(
    order: NDArray[np.int64], given: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
    """The split of each image in the order, the empty splits, and the places to fill them from."""
    split = given[order]
    empty = [each for each in (2, 1) if not (split == each).any()]
    free = (split == 0).nonzero()[0]
    check_enough(len(free), 1 + len(empty))
    return split, empty, free


def _places(order: NDArray[np.int64], split: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    train, validation, test = (torch.from_numpy(order[split == each]) for each in range(3))
    return train, validation, test


def split_by_group(
    groups: Sequence[bytes], order: NDArray[np.int64], given: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts images into splits by the names of their groups, each group by a hash of its own.

    Args:
        groups: Of the N images.
        order: A permutation of them; the images of a group stand in it.
        given: (N,), 0, 1 or 2 for training, validation and test images where that is known.

    Raises:
        InputError: If there are too few groups, or a group is in two given splits.
    """
    names, member = np.unique(np.array(groups), return_inverse=True)
    splits = np.zeros(len(names), np.int64)
    splits[member] = given
    torn = (splits[member] != given).nonzero()[0]
    if len(torn):
        name = names[member[torn[0]]].decode(errors="replace")
        both = _SPLITS[given[torn[0]]], _SPLITS[splits[member[torn[0]]]]
        raise InputError(
            f"--data.groups: expected each group in one split; {name} is in {both[0]} and "
            f"{both[1]}; move its images into one of them"
        )
    parts = split_by_name(names.tolist(), splits, "groups")
    for split, part in enumerate(parts):
        splits[part.numpy()] = split
    by_group = torch.cat(parts).argsort().numpy()[member]  # the place of each image's group
    ordered = order[by_group[order].argsort(kind="stable")]
    return _places(ordered, splits[member[ordered]])
