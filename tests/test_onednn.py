"""oneDNN's products in a compiled graph are the products that were there."""

from collections import Counter

import pytest
import torch
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_vae.compiler import onednn
from ppl_vae.compiler.onednn import onednn_computes, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


@pytest.fixture
def no_product_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_SMALL", 0)


def layer(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """A layer, and the products of its backward pass: transposed on the left and on the right."""
    hidden = torch.addmm(bias, x, weight.t()).tanh()
    return [hidden, hidden.t() @ x, hidden @ weight]


def rectified(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [torch.mm(x, weight.t()).relu(), torch.addmm(bias, x, weight.t())]


def seen_twice(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    before = torch.addmm(bias, x, weight.t())
    return [before.tanh(), before]


def added_to_all(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [torch.addmm(bias[:1], x, weight.t()).tanh()]


def scaled(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [torch.addmm(bias, x, weight.t(), beta=0.5, alpha=2.0)]


def examples(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((33, 20), (17, 20), (17,))
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def translated(function, dtype: torch.dtype):
    graph = make_fx(function, tracing_mode="fake")(*examples(dtype))
    use_onednn(graph)
    operations = Counter(str(node.target) for node in graph.graph.nodes)
    return graph, {name: n for name, n in operations.items() if "mm" in name or "product" in name}


OURS, MM, ADDMM = "ppl_vae.product.default", "aten.mm.default", "aten.addmm.default"


TRANSLATED = {
    torch.float32: {
        layer: {OURS: 3},
        rectified: {OURS: 2},
        seen_twice: {OURS: 1},
        scaled: {ADDMM: 1},  # which oneDNN's operation has no word for
    },
    torch.bfloat16: {
        layer: {OURS: 1, MM: 2},  # the plain ones are oneDNN's already
        rectified: {OURS: 2},
        seen_twice: {OURS: 1},
        added_to_all: {ADDMM: 1},
    },
    torch.float64: {layer: {ADDMM: 1, MM: 2}},  # which it does not compute
}


@pytest.mark.usefixtures("no_product_is_small")
@pytest.mark.parametrize("dtype", list(TRANSLATED), ids=str)
def test_what_is_translated_and_its_value(dtype) -> None:
    """All of it in one graph; nothing where oneDNN does not compute in that type."""
    functions = list(TRANSLATED[dtype])
    expected = sum(map(Counter, TRANSLATED[dtype].values()), Counter())
    if dtype == torch.bfloat16 and not onednn_computes(dtype):
        expected = Counter({MM: 3, ADDMM: 4})

    def everything(*inputs: Tensor) -> list[Tensor]:
        return [value for function in functions for value in function(*inputs)]

    graph, found = translated(everything, dtype)
    assert found == expected
    if dtype == torch.float64:  # then the graph is what it was
        return
    inputs = examples(dtype)
    compiled = torch._inductor.compile(graph, inputs)
    exact_values = everything(*(value.double() for value in inputs))
    # Sums of 33 products of numbers up to about 10, rounded once each; in bfloat16 the inputs of
    # the second product are rounded too.
    bits = {torch.float32: 24, torch.bfloat16: 8}[dtype]
    for value, exact in zip(compiled(*inputs), exact_values, strict=True):
        assert value.dtype == dtype
        assert value.is_contiguous()
        tolerance = 8 * 2.0**-bits * exact.abs().max().item()
        torch.testing.assert_close(value.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch was built without MKL")
def test_small_products_in_float32_stay(monkeypatch) -> None:
    """33 x 20 x 17 multiplications, and no fewer."""
    for least, expected in ((33 * 20 * 17, {OURS: 3}), (33 * 20 * 17 + 1, {ADDMM: 1, MM: 2})):
        monkeypatch.setattr(onednn, "_SMALL", least)
        assert translated(layer, torch.float32)[1] == expected
    if onednn_computes(torch.bfloat16):
        assert translated(layer, torch.bfloat16)[1] == {OURS: 1, MM: 2}


@pytest.mark.usefixtures("no_product_is_small")
def test_where_onednn_has_no_bfloat16_its_products_stay(monkeypatch) -> None:
    """Asked of the machine: on such a CPU oneDNN refuses the operation."""
    monkeypatch.setattr(onednn, "onednn_computes", lambda dtype: dtype == torch.float32)
    assert translated(layer, torch.bfloat16)[1] == {ADDMM: 1, MM: 2}
    assert translated(layer, torch.float32)[1] == {OURS: 3}


def of_columns(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Products with a part of the columns of a matrix, and of the rows; a column for a bias."""
    part = x.tanh()[:, 5:12]
    column = weight[:, 3]
    return [
        part.t() @ x[:, 2:],
        weight[:, :7] @ part.t(),
        x @ weight[:9].t(),
        bias[None] @ weight,
        torch.addmm(column, x, weight.t()).tanh(),
    ]


class Strides(TorchDispatchMode):
    """Of the second operands of oneDNN's products, with their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.mkldnn._linear_pointwise.default:
            self.seen.append((tuple(args[1].shape), args[1].stride()))
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("no_product_is_small")
def test_no_second_operand_is_a_part_of_columns() -> None:
    """Of which oneDNN computes the product a thousand times as slowly."""
    graph, found = translated(of_columns, torch.float32)
    assert found == {OURS: 5}
    inputs = examples(torch.float32)
    compiled = torch._inductor.compile(graph, inputs)
    with Strides() as strides:
        values = compiled(*inputs)
    for value, expected in zip(values, of_columns(*inputs), strict=True):
        torch.testing.assert_close(value, expected)
    assert len(strides.seen) == 5
    for (rows, columns), stride in strides.seen:
        assert stride in ((columns, 1), (1, rows))
    others = [value.flip(0) for value in inputs]
    for value, expected in zip(compiled(*others), of_columns(*others), strict=True):
        torch.testing.assert_close(value, expected)
