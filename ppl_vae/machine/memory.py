"""Memory that is free, the bound on that of one pass, and a count of what a pass takes."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Allocations", "free_memory", "memory_bound"]

# For the temporaries of one pass. If they take much more, the allocator returns their pages to the
# system after each pass, and the system has to map them again.
_OF_A_CPU = 32 * 2**20
# The more a pass of a GPU does, the less its launches count. That is a part of all its memory: with
# the free memory of the moment, one seed would not give the same pieces and draws again.
_PARTS_OF_A_GPU = 16


def memory_bound(device: torch.device) -> int:
    """Bytes meant for the temporaries of one pass on a device."""
    if device.type != "cuda":
        return _OF_A_CPU
    return torch.cuda.get_device_properties(device).total_memory // _PARTS_OF_A_GPU


def free_memory() -> int:
    """Bytes that are free: of the machine, of the container, and of the GPU where there is one.

    Half of the machine's where the system does not say more, and 4 GiB where it says nothing.
    """
    free = [4 * 2**30]
    with suppress(AttributeError, ValueError, OSError):
        free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    with suppress(OSError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text()) != "max\n":
        free.append(int(limit) - int((group / "memory.current").read_text()))
    if torch.cuda.is_available():
        free.append(torch.cuda.mem_get_info()[0])
    return min(free)


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return, views left out.

    Attributes:
        total: Bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        made = [part for part in tree_leaves(result) if isinstance(part, Tensor)]
        for storage in [t.untyped_storage() for t in made if t._base is None and not t._is_view()]:
            if storage.data_ptr() not in known:
                self.total += storage.nbytes()
        return result
