"""The bound on the memory of one pass over data and draws, and a count of what a pass takes."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["MEMORY_BYTES", "Allocations", "memory_bound"]

# For the temporaries of one pass. If they take much more, the allocator returns their pages to the
# system after each pass, and the system has to map them again.
MEMORY_BYTES = 32 * 2**20
_MEMORY_BYTES_ON_GPU = 2**30  # where even a short pass costs its launches


def memory_bound(device: torch.device) -> int:
    """Bytes meant for the temporaries of one pass on a device."""
    return MEMORY_BYTES if device.type == "cpu" else _MEMORY_BYTES_ON_GPU


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
