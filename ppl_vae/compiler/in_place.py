"""Compiled functions that change tensors in place."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.compiler.compiling import compile_graph
from ppl_vae.compiler.trial_runs import in_words, quiet

__all__ = ["compile_in_place"]

_ROUNDING = 1e-5  # relative to the largest entry of a tensor


@torch.no_grad()
def compile_in_place(
    function: Callable[..., None], tensors: Sequence[Tensor]
) -> Callable[..., object]:
    """Compiles a function that changes some of its arguments, and compares the two.

    Operations on lists of tensors, `torch._foreach_*`, become one kernel on a GPU.

    Args:
        function: Of tensors, without randomness; it reads no number from them.
        tensors: Arguments of it, which stay as they are, with values on which another function
            would show. The compiled function takes others of their shapes, types and strides, of
            which no two share memory.

    Raises:
        NotCompilable: If it cannot be traced or compiled, or the result is another function.
    """

    def traced(*arguments: Tensor) -> tuple[()]:
        function(*arguments)
        return ()

    expected, got = ([tensor.clone() for tensor in tensors] for _ in range(2))
    trace: Any = make_fx(torch.func.functionalize(traced, remove="mutations"), tracing_mode="fake")
    try:
        with quiet(), _compiling():
            graph = trace(*got)
            function(*expected)
    except Exception as error:  # whatever stops the tracer, the answer is the same
        raise NotCompilable(in_words(error)) from error
    compiled = compile_graph(graph, got)
    compiled(*got)
    for number, (a, b) in enumerate(zip(expected, got, strict=True)):
        bound = _ROUNDING * float(a.abs().max()) if a.numel() else 0.0
        if not torch.allclose(a, b, rtol=0, atol=bound):
            raise NotCompilable(f"is another function once compiled, in its argument {number}")
    return compiled


@contextmanager
def _compiling() -> Iterator[None]:
    """Optimizers ask whether tensors can be captured, which those of a trace cannot say."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before
