"""Functions of one tensor without Pyro: traced once, proved, then run as plain operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["traced"]

Function = Callable[[Tensor], tuple[Tensor, ...]]


def traced(function: Function, first: Tensor, second: Tensor) -> Function:
    """The tensor operations of a function of one shape, or the function itself.

    A call of a pair's programs is mostly Pyro's own bookkeeping where chains are few. A graph of
    operations, gradients included, has none of it. It is used only if it gives the numbers of
    the function at both points; what cannot be traced stays as it is.

    Args:
        function: Without randomness, of tensors of one shape.
        first: Where to trace it.
        second: Another argument, to compare at.
    """
    first, second = first.contiguous(), second.contiguous()  # a graph is of strides too
    expected = [function(point) for point in (first, second)]
    try:
        graph: Any = make_fx(function)(first)
        same = all(
            torch.equal(a, b)
            for point, values in zip((first, second), expected, strict=True)
            for a, b in zip(graph(point), values, strict=True)
        )
    except Exception:  # whatever stops the tracer, the function is there
        return function
    return (lambda point: graph(point.contiguous())) if same else function
