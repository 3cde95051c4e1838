"""Classes by number or name, and the images of some classes alone."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ppl_vae.data.source import Source, classes_remark
from ppl_vae.errors import InputError

__all__ = ["class_number", "some_classes"]

_NAMED = 20  # classes in an error
_SPLITS = ("training", "validation", "test")


def class_number(option: str, label: int | str, names: Sequence[str]) -> int:
    """The number of a class, given that or its name.

    Where all names are numbers, as those of folders may be, a number is such a name; so it is where
    all begin with one, as torchvision's `9 - nine`.

    Args:
        option: What to call it in errors.
        label: The number or the name.
        names: Of the classes 0, 1, ...

    Raises:
        InputError: If there is no class of that name.
    """
    numbers = [name.partition(" - ")[0] for name in names]
    numbered = bool(names) and all(number.isdecimal() for number in numbers)
    for known in (names, numbers if numbered else ()):
        if str(label) in known:
            return known.index(str(label))
    if isinstance(label, str) or numbered:
        there = ", ".join(names[:_NAMED])
        expected = f"one of {there}" if names else "the number of a class, since they have no names"
        raise InputError(f"{option}: expected {expected}; got {label}")
    return label


def some_classes(
    source: Source,
    classes: Sequence[int | str] | None,
    without: Sequence[int | str] | None,
) -> Source:
    """The images of some classes alone, in every split.

    The classes that are left keep their names and their order, and are numbered 0, 1, ... Images
    without a label stay where only classes to leave out are given.

    Args:
        source: All images.
        classes: Numbers or names of the classes to keep, or None for all.
        without: Numbers or names of the classes to leave out, or None.

    Raises:
        InputError: If there are no labels or no such class, or a split has no image left.
    """
    option = "--data.without_classes" if classes is None else "--data.classes"
    given = [images.labels for images in source.splits if images.labels is not None]
    if len(given) < len(source.splits):
        raise InputError(f"{option}: expected images with labels; there are none; leave it out")
    count = 1 + max(int(labels.max()) for labels in given)
    names = source.class_names or tuple(map(str, range(count)))
    chosen = names if classes is None else classes
    kept = {_there("--data.classes", label, names) for label in chosen}
    left_out = {_there("--data.without_classes", label, names) for label in without or ()}
    numbers = sorted(kept - left_out)
    place = torch.full((len(names) + 1,), -1)  # that of -1, no label, is the last
    place[numbers] = torch.arange(len(numbers))
    splits = []
    for split, images, labels in zip(_SPLITS, source.splits, given, strict=True):
        rows = (place[labels] >= 0) | ((labels < 0) & (classes is None))
        if len(rows) and not rows.any():
            raise InputError(f"{option}: no {split} image is left; choose other classes")
        some = images[rows.nonzero().flatten()]
        splits.append(replace(some, labels=place[labels[rows]]))
    kept_names = tuple(names[number] for number in numbers)
    labels = torch.cat([images.labels for images in splits if images.labels is not None])
    remarks = f"only {len(kept_names)} of {len(names)} classes", classes_remark(labels, kept_names)
    train, validation, test = splits
    said = (*source.remarks, *remarks)
    return Source(train, validation, test, kept_names, said, source.table)


def _there(option: str, label: int | str, names: Sequence[str]) -> int:
    number = class_number(option, label, names)
    if not 0 <= number < len(names):
        raise InputError(
            f"{option}: expected numbers of 0 to {len(names) - 1}, or names; got {label}"
        )
    return number
