"""The state of modules in their attributes, which no graph of tensor operations can follow."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.machine.randomness import own_attributes

__all__ = ["python_state"]


def python_state(owner: nn.Module) -> dict[str, Any]:
    """The content of all attributes of a module and its parts, by name.

    Parameters, buffers and modules are left out. Two contents are equal where the attributes hold
    the same numbers, words and containers of such.
    """
    return {
        f"{name}.{attribute}".removeprefix("."): _content(value)
        for name, module in owner.named_modules()
        for attribute, value in own_attributes(module).items()
    }


def _content(value: Any, around: frozenset[int] = frozenset()) -> Any:
    if id(value) in around:  # it contains itself
        return id(value)
    part = partial(_content, around=around | {id(value)})
    try:
        if isinstance(value, Tensor):
            numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return value.shape, value.dtype, numbers.numpy().tobytes()
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype, value.tobytes()
        if isinstance(value, dict):
            return [(repr(key), part(item)) for key, item in value.items()]
        if isinstance(value, list | tuple):
            return [part(item) for item in value]
        if hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
            return [id(value), part(vars(value))]
        return repr(value)
    except Exception:  # such as a sparse tensor
        return id(value)
