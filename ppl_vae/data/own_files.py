"""Data sets of a user's own files: by which rules they are read, and what is held in memory."""

import os
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.ranges import check_count, check_number
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import classes_remark
from ppl_vae.data.splitting import split_by_group, stratified
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError
from ppl_vae.machine.memory import free_memory

__all__ = ["OwnFiles"]

Splits = tuple[Tensor, Tensor, Tensor]
Splitter = Callable[[NDArray[np.int64], NDArray[np.int64]], Splits]

_RULES = 3
_GIB = 2**30
_SHARE = 4  # loading takes up to three times what is then held


@dataclass(frozen=True, kw_only=True)
class OwnFiles(DataSet, ABC):
    """Images in files of a user's own, held in memory where they fit, else read in every epoch.

    Training is the same in both cases, bit for bit.

    Args:
        memory_gib: Images of more GiB than this, as bytes or as float32, are read from disk
            throughout the run; by default a quarter of the free memory.
        workers: How many processes read images from disk ahead of their use, 0 for none but the
            run's own; by default one for each further core, at most 8.
        validation: The validation images, in a file or folder of their own; unless given, they are
            cut from the others. So is `test`.
        test: The test images.
        stratify: Whether each class has its share of the splits that are cut, up to one image.
        groups: The group of each image; no group is in two splits. Each group is for training,
            validation or the test by a hash of its name.
        rules: By which rules files are read and split: 3, or 2 and 1 as runs of earlier releases
            did.

    Raises:
        ValueError: If a number is out of its range or of the wrong type, or both `stratify` and
            `groups` are given.
    """

    memory_gib: float | None = None
    workers: int | None = None
    validation: Path | None = None
    test: Path | None = None
    stratify: bool = False
    groups: Path | None = None
    rules: int = _RULES
    where_read: ClassVar[tuple[str, ...]] = (
        *DataSet.where_read,
        *("validation", "test", "groups", "memory_gib", "workers"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_gib is not None:
            check_number("--data.memory_gib", self.memory_gib, least=0)
        if self.workers is not None:
            check_count("--data.workers", self.workers, least=0)
        check_number("--data.rules", self.rules, least=1, most=_RULES)
        check_count("--data.rules", self.rules)
        if self.stratify and self.groups is not None:
            raise ValueError(
                "expected --data.stratify or --data.groups; got both; groups are cut by their "
                "names, whatever classes they have"
            )

    def of_run(self, options: Mapping[str, Any]) -> Self:
        return self if "rules" in options else replace(self, rules=1)

    def _cut(
        self,
        plain: Splitter,
        order: NDArray[np.int64],
        given: NDArray[np.int64],
        labels: Tensor | None,
        groups: Callable[[], Sequence[bytes]],
    ) -> Splits:
        """The places of training, validation and test images.

        Args:
            plain: Cuts them where nothing else is asked for.
            order: A permutation of the images; those of each split stand in it.
            given: The split of each image, 0 where it is to be cut.
            labels: Of the images, or None.
            groups: Reads the name of the group of each image.

        Raises:
            InputError: If there are no labels to stratify by.
        """
        if self.groups is not None:
            return split_by_group(groups(), order, given)
        if not self.stratify:
            return plain(order, given)
        if labels is None:
            raise InputError("--data.stratify: expected images with labels; there are none")
        return stratified(order, labels, given)

    def _classes_remark(self, labels: Tensor | None, names: tuple[str, ...] | None) -> str:
        """The classes and their images, where all are taken; else those that are left are said."""
        some = self.classes is not None or self.without_classes
        return "" if some else classes_remark(labels, names)

    def _stratify_remark(self, given: int) -> str:
        """A remark where so many splits that are given leave none to cut with `stratify`."""
        if not self.stratify or given < 3:
            return ""
        return "--data.stratify has nothing to do, as all three splits are given"

    def _fits(self, size: int) -> bool:
        """Whether so many bytes of images are to be held in memory."""
        if self.memory_gib is not None:
            return size <= self.memory_gib * _GIB
        return size <= free_memory() / _SHARE / _local_processes()

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        return min(8, max(1, _cores() // _local_processes() - 1))

    def _held(self, pixels: Tensor | Stored) -> Tensor | Stored:
        """The same images, in memory where they fit."""
        fits = self._fits(pixels.shape.numel() * pixels.dtype.itemsize)
        return pixels.held() if isinstance(pixels, Stored) and fits else pixels


def _cores() -> int:
    """How many cores this process may use; all of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return getattr(os, "process_cpu_count", os.cpu_count)() or 1


def _local_processes() -> int:
    """How many processes of this run share the machine, as torchrun says."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
