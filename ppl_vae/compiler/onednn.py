"""The matrix products of a compiled graph by oneDNN.

On a CPU torch leaves those in float32 to MKL, which takes a slower path on processors that are not
Intel's: half the rate of oneDNN, which compiles its kernels for the very machine. Those in bfloat16
are oneDNN's already, but their biases and activations are not, which it can apply to a product
while that is still in the registers.

Inductor would copy both operands into oneDNN's favourite layout. Only the first needs that, and
where it is a transposed one, as in the gradient of a weight, inductor's own copy is the fast one.
The second may be transposed, but not a part of the columns of a larger one: of such oneDNN computes
the product a thousand times as slowly. Small products stay with MKL: a call of oneDNN takes 17
microseconds to begin, and one of MKL 3.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["PRODUCTS", "multiplications", "onednn_computes", "use_onednn"]

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
_SMALL = 2**22  # multiplications, below which MKL ends sooner
_ACTIVATIONS = {torch.ops.aten.tanh.default: "tanh", torch.ops.aten.relu.default: "relu"}


def use_onednn(graph: fx.GraphModule) -> None:
    """Has oneDNN compute the products of a graph for inductor, where that is faster.

    Args:
        graph: Tensor operations, traced with fake tensors; changed in place.
    """
    for node in list(graph.graph.nodes):
        if node.target not in PRODUCTS or node.kwargs or not _computable(node.meta["val"]):
            continue
        *bias, a, b = node.args
        if _is_small(a.meta["val"], b.meta["val"]):
            continue
        follower = next(iter(node.users)) if len(node.users) == 1 else node
        # It takes a vector as long as a row for a bias; others, which broadcast, are added apart.
        row = node.meta["val"].shape[1:]
        fits = not bias or bias[0].meta["val"].shape == row
        activation = _ACTIVATIONS.get(follower.target, "none") if fits else "none"
        last = node if activation == "none" else follower
        # In float32 a bias without an activation is added apart, for inductor to fuse.
        bfloat16 = node.meta["val"].dtype == torch.bfloat16
        inside = bias[0] if bias and fits and (bfloat16 or activation != "none") else None
        if bfloat16 and inside is None and activation == "none":
            continue
        with graph.graph.inserting_before(node):
            result = graph.graph.call_function(_product(), (a, b, inside, activation))
            if bias and inside is None:
                result = graph.graph.call_function(torch.ops.aten.add.Tensor, (result, bias[0]))
        result.meta["val"] = last.meta["val"]  # which later products ask for
        last.replace_all_uses_with(result)
        graph.graph.erase_node(last)
        if last is not node:
            graph.graph.erase_node(node)
    graph.recompile()


def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of a type on this machine's CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or bfloat16


def _is_small(a: Tensor, b: Tensor) -> bool:
    mkl = a.dtype == torch.float32 and torch.backends.mkl.is_available()
    return mkl and multiplications(a, b) < _SMALL


def multiplications(a: Tensor, b: Tensor) -> int:
    """How many the product of two matrices takes."""
    return a.shape[0] * a.shape[1] * b.shape[1]


def _computable(result: Tensor) -> bool:
    return result.device.type == "cpu" and result.numel() > 0 and onednn_computes(result.dtype)


@cache
def _product() -> Any:
    """The operation activation(a b + bias), with its translation for inductor."""
    from torch._inductor.ir import ExternKernel, FallbackKernel, TensorBox
    from torch._inductor.lowering import clone, permute, register_lowering

    onednn = torch.ops.mkldnn._linear_pointwise.default

    @torch.library.custom_op("ppl_vae::product", mutates_args=())
    def product(a: Tensor, b: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        return onednn(a, b.t(), bias, activation, [], "")

    @product.register_fake
    def _(a: Tensor, b: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        return a.new_empty(a.shape[0], b.shape[1])

    operation = torch.ops.ppl_vae.product.default

    @register_lowering(operation, type_promotion_kind=None)
    def _(a: Any, b: Any, bias: Any, activation: str) -> Any:
        a = ExternKernel.require_contiguous(ExternKernel.realize_input(a))
        rows, columns = b.get_size()
        stride = ExternKernel.realize_input(b).get_layout().stride
        if list(stride) not in ([columns, 1], [1, rows]):
            b = clone(b)
        if bias is not None:  # whose stride it does not look at
            bias = ExternKernel.require_contiguous(ExternKernel.realize_input(bias))
        kernel = FallbackKernel.create(onednn, a, permute(b, [1, 0]), bias, activation, [], "")
        return TensorBox.create(kernel)

    return operation
