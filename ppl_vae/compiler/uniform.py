"""Uniform random numbers of a compiled graph, several at once.

On a CPU torch draws them one by one, although its generator, a Mersenne Twister, makes 624 words in
one go. For the binarisation of images that is 7 % of a step of a small pair. `uniform.cpp` draws
the same numbers in a tenth of the time and leaves the generator in the same state, so that a seed
stands for the same run. Unlike torch it holds no lock on the generator: two threads that draw from
one at once may get the same numbers.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor, fx

from ppl_vae.compiler.kernels import LIBRARY, c_function

__all__ = ["draw_at_once"]

_SMALL = 1024  # numbers, which torch draws in the time of the call


def draw_at_once(graph: fx.GraphModule) -> None:
    """Has `uniform.cpp` draw the uniform numbers of a graph, where these are float32 on a CPU.

    Args:
        graph: Tensor operations, traced with fake tensors; changed in place.
    """
    for node in graph.graph.nodes:
        if node.target != torch.ops.aten.rand.default:
            continue
        value = node.meta["val"]
        if value.dtype != torch.float32 or value.device.type != "cpu" or value.numel() < _SMALL:
            continue
        if (operation := _operation()) is None:
            return
        node.target, node.args, node.kwargs = operation, (list(value.shape),), {}
    graph.recompile()


@cache
def _operation() -> Any:
    """From a shape to numbers; None without a C++ compiler, or where torch draws others."""
    try:
        draw = _kernel()
        if not _draws_as_torch(draw):
            return None
    except Exception:  # as for the products, in zeros.py
        return None
    LIBRARY.define("uniform(int[] shape) -> Tensor", tags=torch.Tag.nondeterministic_seeded)
    LIBRARY.impl("uniform", draw, "CompositeExplicitAutograd")
    torch.library.register_fake("ppl_vae::uniform", _empty, lib=LIBRARY)
    return torch.ops.ppl_vae.uniform.default


def _draws_as_torch(draw: Callable[..., Tensor]) -> bool:
    ours, theirs = (Generator("cpu").manual_seed(0) for _ in range(2))
    shape = [3, 500]  # more than the generator makes in one go
    expected = torch.rand(shape, generator=theirs, dtype=torch.float32, device="cpu")
    same = torch.equal(draw(shape, ours), expected)
    return same and torch.equal(ours.get_state(), theirs.get_state())


def _empty(shape: list[int]) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _kernel() -> Callable[..., Tensor]:
    """`torch.rand` in float32, by `uniform.cpp`."""
    function = c_function("uniform", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64])

    def draw(shape: list[int], generator: Generator = torch.default_generator) -> Tensor:
        out, state = _empty(shape), generator.get_state()
        function(state.data_ptr(), out.data_ptr(), prod(shape))
        generator.set_state(state)
        return out

    return draw
