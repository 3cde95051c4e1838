"""The float32 matrix products of a compiled graph by oneDNN.

On a CPU torch leaves them to MKL, which takes a slower path on processors that are not Intel's: half
the rate of oneDNN, which compiles its kernels for the very machine, and calls them for fewer bits
already. Inductor would copy both operands of oneDNN's product into its favourite layout; only the
first needs that, and where it is a transposed one, as in the gradient of a weight, inductor's own
copy is the fast one.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["use_onednn"]

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def use_onednn(graph: fx.GraphModule) -> None:
    """Lets oneDNN compute a b of a graph that inductor is to compile, where it can.

    A bias is added apart, so that inductor can fuse the addition with what follows.

    Args:
        graph: Tensor operations, traced with fake tensors; changed in place.
    """
    for node in list(graph.graph.nodes):
        if node.target in _PRODUCTS and not node.kwargs and _computable(node.meta["val"]):
            *bias, a, b = node.args
            with graph.graph.inserting_before(node):
                result = graph.graph.call_function(_product(), (a, b))
                if bias:
                    result = graph.graph.call_function(torch.ops.aten.add.Tensor, (result, *bias))
            node.replace_all_uses_with(result)
            graph.graph.erase_node(node)
    graph.recompile()


def _computable(result: Tensor) -> bool:
    on_cpu = result.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and result.dtype == torch.float32 and result.numel() > 0


def _onednn(a: Any, transposed_b: Any) -> tuple[Any, ...]:
    return (a, transposed_b, None, "none", [], "")


@cache
def _product() -> Any:
    """The operation a b, which inductor translates as told here."""
    from torch._inductor.ir import ExternKernel, FallbackKernel, TensorBox
    from torch._inductor.lowering import permute, register_lowering

    onednn = torch.ops.mkldnn._linear_pointwise.default

    @torch.library.custom_op("ppl_vae::product", mutates_args=())
    def product(a: Tensor, b: Tensor) -> Tensor:
        return onednn(*_onednn(a, b.t()))

    @product.register_fake
    def _(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty(a.shape[0], b.shape[1])

    operation = torch.ops.ppl_vae.product.default

    @register_lowering(operation, type_promotion_kind=None)
    def _(a: Any, b: Any) -> Any:
        a = ExternKernel.require_contiguous(ExternKernel.realize_input(a))
        return TensorBox.create(FallbackKernel.create(onednn, *_onednn(a, permute(b, [1, 0]))))

    return operation
