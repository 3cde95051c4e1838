"""Results that a model and its guide would both compute from the same tensors."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

__all__ = ["shared", "sharing"]

_results: ContextVar[dict[Any, tuple[Tensor, Any]] | None] = ContextVar("results", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Has `shared` keep its results until the end of the block.

    A guide that goes down a hierarchy by the model's own methods, and the model at the guide's
    draws, pass through the same states. Within the block they compute them once, and the gradients
    of both meet there. An inner block is a part of the outer one.
    """
    if _results.get() is not None:
        yield
        return
    before = _results.set({})
    try:
        yield
    finally:
        _results.reset(before)


def shared(
    function: Callable[..., Tensor], parameters: Iterable[Tensor], *arguments: Any
) -> Tensor:
    """function(*arguments), computed once for the very same tensors within `sharing`.

    Args:
        function: Draws nothing and changes nothing.
        parameters: What else the result depends on: an objective may hold them constant for a part
            of its terms.
        *arguments: Not changed in place before the block ends.
    """
    results = _results.get()
    if results is None:
        return function(*arguments)
    sources = (*parameters, *arguments)
    key = (function, torch.is_grad_enabled(), *map(id, sources))
    if key not in results:
        results[key] = function(*arguments), sources  # as long as they live, their ids are theirs
    result, _ = results[key]
    return result
