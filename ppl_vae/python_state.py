"""What programs keep in Python, where a graph of tensor operations cannot follow.

A count in an attribute, a dictionary or a global may change the programs after so many calls, and
Python's and NumPy's generators are other sources of noise than torch's. A graph has such numbers as
constants. Two trial calls cannot show what they change, but that they move.
"""

import pickle
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["moved"]

_DEEP = 4  # levels of containers and objects that are looked into
_PRIVATE = frozenset(vars(nn.Module()))
_LIBRARIES = ("torch", "pyro", "numpy", "builtins", "abc", "typing", "collections", "functools")


@contextmanager
def moved(owner: nn.Module) -> Iterator[list[str]]:
    """Tells what of the state in Python calls of a module change.

    It looks at the attributes of the module and of those in it, at those of their classes, at the
    plain variables beside these classes, at what hooks on modules keep, and at the generators of
    Python and NumPy.

    Args:
        owner: The module.

    Yields:
        A list that is filled at the end: a phrase for each part that is another than before.
    """
    found: list[str] = []
    generators = random.getstate(), np.random.get_state()
    before = _state(owner)
    yield found
    after = _state(owner)
    found += [
        f"changes {name} in Python with every call; make it a buffer"
        for name, value in before.items()
        if after.get(name) != value
    ]
    if random.getstate() != generators[0]:
        found.append("draws from Python's random; use torch.rand")
    if repr(np.random.get_state()) != repr(generators[1]):
        found.append("draws from NumPy's random; use torch.rand")


def _state(owner: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, module in owner.named_modules():
        for attribute, value in vars(module).items():
            # Parameters, buffers and modules are compared elsewhere.
            if attribute not in _PRIVATE and not attribute.startswith("_pyro"):
                state[f"{name}.{attribute}".removeprefix(".")] = _content(value, _DEEP)
                state |= {} if isinstance(value, type) else _of_class(type(value))
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            state[f"a variable of a hook on {name}"] = _content(_enclosed(hook), _DEEP)
        state |= _of_class(type(module))
    return state


def _of_class(cls: type) -> dict[str, Any]:
    """What a class and the variables beside it hold."""
    state: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in _LIBRARIES:
            continue
        state |= _attributes(base)
        for variable, value in vars(sys.modules.get(base.__module__, object)).items():
            if isinstance(value, int | float | str | Tensor):
                state[f"{base.__module__}.{variable}"] = _content(value, 1)
            elif isinstance(value, type) and issubclass(value, torch.autograd.Function):
                state |= _attributes(value)
    return state


def _attributes(cls: type) -> dict[str, Any]:
    return {
        f"{cls.__qualname__}.{attribute}": _content(value, _DEEP)
        for attribute, value in vars(cls).items()
        if not attribute.startswith("__")
        and isinstance(value, int | float | str | list | dict | set | Tensor)
    }


def _enclosed(function: Any) -> list[Any]:
    """The variables that a function keeps, or the object that it is or belongs to."""
    cells = getattr(function, "__closure__", None) or ()
    return [getattr(function, "__self__", function), *(cell.cell_contents for cell in cells)]


def _content(value: Any, depth: int) -> Any:
    """Something that is equal for equal content, NaN included."""
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return (str(value.dtype), tuple(value.shape), content.numpy().tobytes())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, nn.Module) or depth == 0:
        return id(value)
    if isinstance(value, list | tuple):
        return [_content(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return [(repr(key), _content(item, depth - 1)) for key, item in value.items()]
    if isinstance(value, bool | int | float | str | bytes | set | frozenset | None):
        return repr(value)
    if isinstance(value, random.Random):
        return value.getstate()
    if hasattr(value, "__dict__"):
        return [id(value), _content(vars(value), depth - 1)]
    if callable(value):
        return id(value)
    try:  # a queue, a counter, a generator of NumPy, what has __slots__
        return pickle.dumps(value)
    except Exception:  # whatever it is, it cannot be looked into
        return id(value)
