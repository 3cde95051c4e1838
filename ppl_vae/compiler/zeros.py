"""Matrix products of a compiled graph that skip the zeros of the images.

Of the pixels of a binary image most are 0: in MNIST seven of eight. The product of images with the
weights of a first layer, and the gradient of these weights, are then sums of a few rows, which in
batches of 100 or more take less than half of the time. Where half of the pixels are 1 both take as
long (benchmarks/zeros.py).
Whether they are skipped follows from the first images and not from a measured time, so that a run
that goes on sums as it did.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from ppl_vae.compiler.kernels import LIBRARY, c_function
from ppl_vae.compiler.onednn import PRODUCTS, multiplications

__all__ = ["skip_zeros"]

_aten = torch.ops.aten
_SAME_NUMBERS = (
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.reshape.default,
    _aten.permute.default,
    _aten.t.default,
    _aten.transpose.int,
    _aten.detach.default,
    _aten.clone.default,
    _aten.alias.default,
)
_MOST = 1 / 3  # of the numbers that are not zero
_SMALL = 2**22  # multiplications, below which a call costs more than it saves


def skip_zeros(graph: fx.GraphModule, examples: Sequence[Tensor], images: slice) -> None:
    """Has the products of images skip their zeros, where these are float32 on a CPU.

    Args:
        graph: Tensor operations, traced with fake tensors; changed in place.
        examples: Arguments of it.
        images: Which of them are images.
    """
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][images]
    sparse = {node for node, x in zip(inputs, examples[images], strict=True) if _has_zeros(x)}
    for node in graph.graph.nodes:
        if node.target in _SAME_NUMBERS and node.args[0] in sparse:
            sparse.add(node)
    for node in list(graph.graph.nodes):
        if node.target not in PRODUCTS or node.kwargs or not sparse.intersection(node.args[-2:]):
            continue
        *bias, a, b = node.args
        if multiplications(a.meta["val"], b.meta["val"]) < _SMALL:
            continue
        if (product := _product()) is None:
            return
        with graph.graph.inserting_before(node):
            result = graph.graph.call_function(product, (a, b, a in sparse))
            result.meta["val"] = node.meta["val"]
            if bias:
                result = graph.graph.call_function(_aten.add.Tensor, (result, bias[0]))
                result.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
    graph.recompile()


def _has_zeros(x: Tensor) -> bool:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return bool((x != 0).float().mean() <= _MOST)


@cache
def _product() -> Any:
    """The operation a b, where a or b has zeros to skip; None where there is no C++ compiler."""
    try:
        kernel = _kernel()
    except Exception:  # a missing compiler, or one without vectors; products are whole then
        return None
    from torch._inductor.ir import ExternKernel, FallbackKernel, TensorBox
    from torch._inductor.lowering import register_lowering

    LIBRARY.define("skip_zeros(Tensor a, Tensor b, bool in_a) -> Tensor")

    def product(a: Tensor, b: Tensor, in_a: bool) -> Tensor:
        out = a.new_empty(a.shape[0], b.shape[1])
        if in_a:
            kernel(a, b, out)
        else:  # out^T = b^T a^T
            kernel(b.t(), a.t(), out.t())
        return out

    LIBRARY.impl("skip_zeros", product, "CPU")
    torch.library.register_fake("ppl_vae::skip_zeros", _shape, lib=LIBRARY)
    operation = torch.ops.ppl_vae.skip_zeros.default

    @register_lowering(operation, type_promotion_kind=None)
    def _(a: Any, b: Any, in_a: bool) -> Any:
        a, b = (_with_rows_or_columns(ExternKernel.realize_input(each)) for each in (a, b))
        return TensorBox.create(FallbackKernel.create(operation, a, b, in_a))

    def _with_rows_or_columns(matrix: Any) -> Any:
        if 1 in list(matrix.get_layout().stride):
            return matrix
        return ExternKernel.require_contiguous(matrix)

    return operation


def _shape(a: Tensor, b: Tensor, in_a: bool) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _kernel() -> Callable[[Tensor, Tensor, Tensor], None]:
    """out = x t, skipping the zeros of x, by `skip_zeros.cpp`; one stride of each has to be 1."""
    matrix = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    function = c_function("skip_zeros", [*matrix * 3, *[ctypes.c_int64] * 3, ctypes.c_int])

    def call(x: Tensor, t: Tensor, out: Tensor) -> None:
        matrices = [value for each in (x, t, out) for value in (each.data_ptr(), *each.stride())]
        function(*matrices, *x.shape, t.shape[1], torch.get_num_threads())

    return call
