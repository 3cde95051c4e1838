"""The pictures in a folder, and the meaning of the folders in it: splits and classes."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.errors import InputError, unreadable

__all__ = ["Layout", "pictures_below"]

_SPLITS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
_UNLABELED = ("unlabeled", "unlabelled")


@dataclass(frozen=True, eq=False)
class Layout:
    """The meaning of the folders in which N pictures lie.

    Args:
        splits: (N,), 0, 1 or 2 for training, validation and test images, where folders say so.
        labels: (N,) int64, -1 for none, where folders are classes.
        classes: The names of the classes.
    """

    splits: NDArray[np.int64] | None
    labels: Tensor | None
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, names: NDArray[np.bytes_]) -> "Layout":
        """Reads it from the names of the pictures, (N,), as seen from the folder.

        Raises:
            InputError: If images lie beside folders of images, or other folders beside splits.
        """
        parents = [os.fsdecode(name).split("/")[:-1] for name in names]
        splits = _splits(parents)
        if splits is not None:
            parents = [p[1:] if p[0].lower() in _SPLITS else p for p in parents]
        owners = np.array([p[0] if p else "" for p in parents])
        unlabeled = np.isin(np.char.lower(owners), _UNLABELED)
        for split in range(3):
            here = ~unlabeled if splits is None else ~unlabeled & (splits == split)
            beside = here & (owners == "")
            if 0 < beside.sum() < here.sum():
                raise InputError(
                    "expected images either all in one folder or all in folders that are their "
                    f"labels; got both, {os.fsdecode(names[beside][0])} among them; move one kind "
                    "elsewhere"
                )
        classes = natural_order({*owners.tolist()} - {*owners[unlabeled].tolist(), ""})
        if not classes:
            return cls(splits, None, None)
        numbers = {name: number for number, name in enumerate(classes)}
        labels = torch.tensor([numbers.get(owner, -1) for owner in owners.tolist()])
        return cls(splits, labels, classes)

    @classmethod
    def of_earlier_releases(cls, names: NDArray[np.bytes_]) -> "Layout":
        """The same by their rules: every folder is a class, in the order of text."""
        if b"/" not in names[0]:
            return cls(None, None, None)
        owners = [os.fsdecode(name).partition("/")[0] for name in names]
        classes = tuple(sorted(set(owners)))
        numbers = {name: number for number, name in enumerate(classes)}
        return cls(None, torch.tensor([numbers[owner] for owner in owners]), classes)


def _splits(parents: list[list[str]]) -> NDArray[np.int64] | None:
    """The split of each image, where the outermost folders are `train` and others.

    A single folder of such a name beside others is a class of that name, two are meant as splits.
    """
    tops = sorted({parent[0] if parent else "" for parent in parents})
    named = [top for top in tops if top.lower() in _SPLITS]
    stray = [top for top in tops if top.lower() not in {*_SPLITS, *_UNLABELED}]
    there = {_SPLITS[top.lower()] for top in named}
    if len(there) > 1 and any(stray):
        raise InputError(
            f"expected folders that are splits ({', '.join(named)}) or folders that are classes; "
            f"got both, the folder {stray[-1]} among them; move {stray[-1]} elsewhere, or rename "
            "those of splits if they are classes"
        )
    if len(there) > 1 and 0 not in there:
        raise InputError(
            f"expected a folder train beside {', '.join(named)}; there is none; add it, or rename "
            "them if they are classes"
        )
    if 0 not in there or stray:
        return None
    return np.array([_SPLITS.get(parent[0].lower(), 0) for parent in parents])


def natural_order(names: set[str]) -> tuple[str, ...]:
    """Sorts names by the numbers in them as numbers: 2 before 10."""

    def key(name: str) -> tuple[list[str | int], str]:
        parts = re.split("([0-9]+)", name)
        return [int(part) if place % 2 else part for place, part in enumerate(parts)], name

    return tuple(sorted(names, key=key))


def pictures_below(
    folder: Path, suffixes: tuple[str, ...], option: str
) -> tuple[NDArray[np.bytes_], str]:
    """The pictures in a folder and in the folders in it, as seen from it, (N,), in textual order.

    Args:
        folder: Where to look.
        suffixes: Of the files that are pictures.
        option: The one that names the folder.

    Returns:
        The names, and a remark on the files that are left out.

    Raises:
        InputError: If there are no pictures, or a folder cannot be read.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(
            f"expected a folder of images at {folder}; there is {found}; name one with {option} DIR"
        )
    left = _LeftOut(suffixes)
    # Bytes of one length: Python's own text would take several times as much, in each process.
    names = np.array([os.fsencode(name) for name in _below(folder, "", left)], dtype=np.bytes_)
    if not len(names):
        raise InputError(
            f"expected images (PNG, JPEG, TIFF, ...) in {folder}; found none; name another folder "
            f"with {option} DIR"
        )
    return names, left.remark


class _LeftOut:
    """Counts what is left out, by kind, and keeps the first name of each."""

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self.suffixes = frozenset(suffixes)
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, name)

    @property
    def remark(self) -> str:
        kinds = [f"{n:,} {kind} ({self.first[kind]})" for kind, n in self.counts.items()]
        return f"left out {', '.join(kinds)}" if kinds else ""


def _below(folder: Path, prefix: str, left: _LeftOut) -> Iterator[str]:
    """The paths of the images below a folder, seen from the first one."""
    try:
        with os.scandir(folder / prefix) as entries:
            found = sorted((e.name, e.is_dir(follow_symlinks=False), e.is_file()) for e in entries)
    except OSError as error:
        raise unreadable(folder / prefix, error, "allow reading it, or move it away") from error
    for name, is_folder, is_file in found:
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith("."):
            left.add("hidden", prefix + name)
        elif is_folder:
            yield from _below(folder, f"{prefix}{name}/", left)
        elif not is_file:
            left.add("links to no file", prefix + name)
        elif suffix in left.suffixes:
            yield prefix + name
        else:
            left.add(suffix or "without a suffix", prefix + name)
