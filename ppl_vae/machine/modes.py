"""Calls that give the same result, whatever modes of torch the caller has set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

__all__ = ["called_anywhere", "usual_modes"]

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def usual_modes() -> Iterator[None]:
    """torch's modes as in a fresh process: gradients, no autocast, float32, on the CPU."""
    dtype = torch.get_default_dtype()
    # A context, since the caller's may be one; without need it would slow every call of torch.
    usual = torch.get_default_device().type == "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            nullcontext() if usual else torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


def called_anywhere(function: Callable[P, R]) -> Callable[P, R]:
    """A function that gives the same numbers, bit for bit, wherever it is called from.

    That is inside `torch.no_grad`, `torch.inference_mode`, `torch.autocast` and under another
    default type or device; and numbers among its arguments may be NumPy's.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = [_plain(value) for value in args]
        named: Any = {name: _plain(value) for name, value in kwargs.items()}
        with usual_modes():
            return function(*given, **named)

    return call


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
