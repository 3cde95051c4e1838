"""What data sets of a user's own files share: whether their images are held in memory."""

import os
from abc import ABC
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.ranges import check_count, check_number
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, Source
from ppl_vae.data.stored import Stored

__all__ = ["OwnFiles"]

_GIB = 2**30
_SHARE = 4  # loading takes up to three times what is then held


@dataclass(frozen=True, kw_only=True)
class OwnFiles(DataSet, ABC):
    """Images in files of a user's own, held in memory where they fit, else read in every epoch.

    Training is the same in both cases, bit for bit.

    Args:
        memory_gib: Images of more GiB than this, as bytes or as float32, are read from disk
            throughout the run; a quarter of the memory that is free, unless given.
        workers: How many processes read images from disk ahead of their use, 0 for none but the
            run's own; one for each further core, at most 8, unless given.

    Raises:
        ValueError: If a number is negative or of the wrong type.
    """

    memory_gib: float | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_gib is not None:
            check_number("--data.memory_gib", self.memory_gib, least=0)
        if self.workers is not None:
            check_count("--data.workers", self.workers, least=0)

    def _fits(self, size: int) -> bool:
        """Whether so many bytes of images are to be held in memory."""
        if self.memory_gib is not None:
            return size <= self.memory_gib * _GIB
        return size <= _free_memory() / _SHARE / _local_processes()

    def _workers(self) -> int:
        if self.workers is not None:
            return self.workers
        cores = _cores() // _local_processes()
        return min(8, max(1, cores - 1))

    def _hold(self, source: Source, itemsize: int) -> Source:
        """The same images in memory where they fit, pixels of `itemsize` bytes."""
        splits = (source.train, source.validation, source.test)
        if not self._fits(sum(split.pixels.shape.numel() for split in splits) * itemsize):
            return source
        train, validation, test = (
            Images(each.pixels.held(), each.labels) if isinstance(each.pixels, Stored) else each
            for each in splits
        )
        return replace(source, train=train, validation=validation, test=test)


def _local_processes() -> int:
    """How many processes of this run share the machine, as torchrun says."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _cores() -> int:
    """How many cores this process may use; not every system can say which."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> int:
    """Bytes that are free: of the machine, of the container, and of the GPU where there is one.

    Where the system does not say (macOS, Windows) 4 GiB are assumed.
    """
    free = [4 * _GIB]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text()) != "max\n":
        free.append(int(limit) - int((group / "memory.current").read_text()))
    if torch.cuda.is_available():
        free.append(torch.cuda.mem_get_info()[0])
    return min(free)
