"""A device without hardware, on which nothing can be read and which no other device mixes with."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["DEVICE", "OnOneDevice"]

DEVICE = torch.device("meta")
"""Its tensors have shapes and no content."""

_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class OnOneDevice(TorchDispatchMode):
    """Refuses operations that make Python wait for a device, or a device for Python.

    That is reading a number from it, or a copy to or from another one. A number that Python has
    goes to a device with the operation that it is for.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        assert function not in _READS, f"{function} reads from the device"
        result = function(*arguments, **(options or {}))
        tensors = [
            leaf
            for leaf in tree_leaves((arguments, options, result))
            if isinstance(leaf, Tensor)
            if leaf.dim() or function in _COPIES
        ]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, f"{function} works on {' and '.join(sorted(devices))}"
        return result
