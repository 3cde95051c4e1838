"""What programs keep in Python, where a graph of tensor operations cannot follow.

A count in an attribute, a dictionary or a global may change the programs after so many calls, and
Python's and NumPy's generators are other sources of noise than torch's. A graph has such numbers as
constants. Two trial calls cannot show what they change, but that they move.
"""

import logging
import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["changed", "moved", "python_state"]

_DEEP = 4  # levels of containers and objects that are looked into
# Of Python's, torch's and NumPy's own types those that can count, or hold what does.
_COUNTING = (
    int | float | str | list | dict | set | deque | Tensor | np.ndarray | random.Random
    | np.random.Generator | torch.Generator | FunctionType | GeneratorType
)  # fmt: skip
_LARGE = 2**20  # bytes of numbers that are data, which are not looked at one by one
_LONG = 10_000  # entries of a container that is data
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_PRIVATE = frozenset(vars(nn.Module()))
_LIBRARIES = (
    "torch",
    "pyro",
    "numpy",
    "builtins",
    "abc",
    "typing",
    "types",
    "collections",
    "functools",
)


@contextmanager
def moved(owner: nn.Module) -> Iterator[list[str]]:
    """Tells what of the state in Python calls of a module change.

    It looks at the attributes of the module and of those in it, at those of their classes, at the
    variables beside these classes, at what functions and hooks keep, and at the generators of
    Python and NumPy.

    Args:
        owner: The module.

    Yields:
        A list that is filled at the end: a phrase for each part that is another than before.
    """
    found: list[str] = []
    generators = random.getstate(), np.random.get_state()
    before = python_state(owner)
    yield found
    found += [
        f"changes {name} in Python with every call; make it a buffer"
        for name in changed(before, python_state(owner))
    ]
    if random.getstate() != generators[0]:
        found.append("draws from Python's random; use torch.rand")
    if repr(np.random.get_state()) != repr(generators[1]):
        found.append("draws from NumPy's random; use torch.rand")


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is another than before, or a new number or word; what else is new may be a cache."""
    gone = [name for name in before if name not in after]
    return gone + [
        name
        for name, value in after.items()
        if (before[name] != value if name in before else isinstance(value, str))
    ]


def python_state(owner: nn.Module, beside: bool = True) -> dict[str, Any]:
    """What a module keeps in Python, by name; equal where the content is.

    Args:
        owner: The module.
        beside: Whether classes and the variables beside them are looked at too. Between two calls
            anybody may change those, within one the programs do.
    """
    state: dict[str, Any] = {}
    for name, module in owner.named_modules():
        for attribute, value in vars(module).items():
            # Parameters, buffers and modules are compared elsewhere.
            if attribute not in _PRIVATE and not attribute.startswith("_pyro"):
                state[f"{name}.{attribute}".removeprefix(".")] = _content(value, _DEEP)
                state |= _of_class(type(value)) if beside and not isinstance(value, type) else {}
        hooks = [hook for kind in _HOOKS for hook in getattr(module, kind).values()]
        if hooks:
            state[f"a variable of a hook on {name}"] = [_content(hook, _DEEP) for hook in hooks]
        if beside:
            state |= _of_class(type(module))
    return state


def _of_class(cls: type) -> dict[str, Any]:
    """What a class and the variables beside it hold."""
    state: dict[str, Any] = {}
    for base in cls.__mro__:
        if _of_library(base):
            continue
        state |= _attributes(base)
        beside = vars(sys.modules.get(base.__module__, object))
        for variable, value in beside.items():
            if isinstance(value, type):
                state |= {} if _of_library(value) else _attributes(value)
            elif not variable.startswith("__") and (
                isinstance(value, _COUNTING) or not _of_library(type(value))
            ):
                state[f"{base.__module__}.{variable}"] = _content(value, _DEEP - 1)
    return state


def _of_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _LIBRARIES


def _attributes(cls: type) -> dict[str, Any]:
    return {
        f"{cls.__qualname__}.{attribute}": _content(value, _DEEP)
        for attribute, value in vars(cls).items()
        if not attribute.startswith("__")
        and isinstance(value, int | float | str | list | dict | set | Tensor)
    }


def _content(value: Any, depth: int) -> Any:
    """Something that is equal for equal content, NaN included."""
    try:
        return _looked_into(value, depth)
    except Exception:  # whatever it is, it cannot be looked into
        return id(value)


def _looked_into(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return _numbers(value)
    if isinstance(value, bool | int | float | str | bytes | set | frozenset | None):
        return repr(value)
    if isinstance(value, nn.Module | type | ModuleType | logging.Logger) or depth == 0:
        return id(value)
    if isinstance(value, list | tuple | dict | deque) and len(value) > _LONG:
        return [id(value), len(value)]
    if isinstance(value, list | tuple):
        return [_content(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return [(repr(key), _content(item, depth - 1)) for key, item in value.items()]
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, torch.Generator):
        return _numbers(value.get_state())
    if isinstance(value, partial):
        return [_content(part, depth - 1) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, FunctionType):
        cells: list[Any] = []
        with suppress(ValueError):  # of a cell that is still empty
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
        kept = [*cells, value.__defaults__, *vars(value).values()]
        return [id(value), *(_content(item, depth - 1) for item in kept)]
    if isinstance(value, MethodType):
        return [id(value.__func__), _content(value.__self__, depth - 1)]
    if isinstance(value, GeneratorType):
        frame = value.gi_frame  # None once it has ended
        kept = list(frame.f_locals.values()) if frame else []
        return [frame and frame.f_lasti, *(_content(item, depth - 1) for item in kept)]
    if hasattr(value, "__dict__"):
        return [id(value), _content(vars(value), depth - 1)]
    if callable(value):
        return id(value)
    if type(value).__module__ == "itertools":
        return repr(value)
    if depth < _DEEP - 1:  # or the parts would be new objects that are not looked into
        return id(value)
    # A queue, an iterator, what has __slots__: as it would be copied.
    parts = value.__reduce_ex__(2)[1:]
    listed = [list(part) if isinstance(part, Iterator) else part for part in parts]
    return [id(value), *(_content(part, depth - 1) for part in listed)]


def _numbers(value: Tensor | NDArray[Any]) -> Any:
    about = str(value.dtype), tuple(value.shape)
    plain = isinstance(value, np.ndarray) or (
        value.layout == torch.strided and not value.is_meta and not value.is_conj()
    )
    if not plain or value.nbytes > _LARGE:
        return (*about, id(value), getattr(value, "_version", None))
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return (*about, value.tobytes())
