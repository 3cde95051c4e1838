"""Products that skip the zeros of images are the products, and each is found."""

from collections import Counter
from functools import partial

import pytest
import torch
import torch._inductor
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from guides import DiagonalNormal
from models import MLP, VAE, Spec
from ppl_vae.compiler import zeros
from ppl_vae.compiler.compiling import compile_programs
from ppl_vae.compiler.zeros import skip_zeros
from ppl_vae.objectives import IWAE
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.precision import matrix_precision

OURS, MM, ADDMM = "ppl_vae.skip_zeros.default", "aten.mm.default", "aten.addmm.default"


@pytest.fixture
def no_product_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "_SMALL", 0)


def layer(x: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> list[Tensor]:
    """A first layer of images, the gradients of its weights, and a product of something else."""
    flat = x.flatten(1)
    hidden = torch.addmm(bias, flat, weight.t())
    return [hidden, gradient.t() @ flat, flat.t() @ gradient, hidden @ weight]


def examples(count: int, pixels: int, units: int, density: float, grey: bool) -> list[Tensor]:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((count, 1, pixels, 1), density))
    if grey:
        x *= torch.rand_like(x)
    return [x, torch.randn(units, pixels), torch.randn(units), torch.randn(count, units)]


def translated(inputs: list[Tensor], images: slice = slice(1)):
    graph = make_fx(layer, tracing_mode="fake")(*inputs)
    skip_zeros(graph, inputs, images)
    operations = Counter(str(node.target) for node in graph.graph.nodes)
    return graph, {name: operations[name] for name in (OURS, MM, ADDMM)}


# Multiples of the widths of the kernel, one more, one less, and hardly anything.
@pytest.mark.usefixtures("no_product_is_small")
@pytest.mark.parametrize("shape", [(64, 192, 64), (65, 193, 129), (3, 784, 52), (100, 31, 1)])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_products_are_the_products(
    shape: tuple[int, int, int], grey: bool, threads: int
) -> None:
    inputs = examples(*shape, density=0.2, grey=grey)
    inputs[0][0] = 0
    graph, found = translated(inputs)
    assert found == {OURS: 3, MM: 1, ADDMM: 0}
    exact = layer(*(value.double() for value in inputs))
    sizes = layer(*(value.double().abs() for value in inputs))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for run in (graph, torch._inductor.compile(graph, inputs)):
            # A sum of n products and a bias is rounded 2 n times, by 2^-24 of at most the sum of
            # their sizes; the last is of sums that were rounded so, too.
            bound = 4 * max(shape) * 2.0**-24
            for value, expected, size in zip(run(*inputs), exact, sizes, strict=True):
                assert value.is_contiguous()
                assert ((value.double() - expected).abs() <= bound * size).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("no_product_is_small")
def test_sums_are_in_one_order_whatever_the_threads() -> None:
    inputs = examples(100, 300, 200, density=0.2, grey=True)
    graph, _ = translated(inputs)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(graph(*inputs)[:3])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("no_product_is_small")
@pytest.mark.parametrize(
    ("density", "grey", "skipped"),
    [(0.3, False, True), (0.4, False, False), (0.3, True, True), (0.4, True, False)],
)
def test_zeros_are_skipped_where_there_are_enough(
    density: float, grey: bool, skipped: bool
) -> None:
    inputs = examples(200, 100, 10, density, grey)
    assert translated(inputs)[1][OURS] == (3 if skipped else 0)
    assert translated(inputs, images=slice(0))[1] == {OURS: 0, MM: 3, ADDMM: 1}


def test_small_products_stay() -> None:
    assert translated(examples(100, 784, 10, 0.1, False))[1][OURS] == 0
    assert translated(examples(100, 784, 54, 0.1, False))[1][OURS] == 3


@pytest.mark.usefixtures("no_product_is_small")
def test_products_are_whole_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(zeros, "_kernel", broken)
    monkeypatch.setattr(zeros, "_product", zeros._product.__wrapped__)
    assert translated(examples(20, 30, 10, 0.1, False))[1] == {OURS: 0, MM: 3, ADDMM: 1}


@pytest.mark.parametrize("particles", [1, 3])
def test_a_step_skips_zeros_in_the_first_layer_and_in_its_gradient(
    monkeypatch: pytest.MonkeyPatch, particles: int
) -> None:
    counts: list[int] = []

    def counted(graph: torch.fx.GraphModule, *rest) -> None:
        skip_zeros(graph, *rest)
        counts.append(sum(str(node.target) == OURS for node in graph.graph.nodes))

    monkeypatch.setattr("ppl_vae.compiler.compiling.skip_zeros", counted)
    spec, network = Spec((1, 28, 28), "binary", 2), partial(MLP, hidden=(60,))
    pair = PairLoss(VAE(spec, network=network), DiagonalNormal(spec, network), IWAE(particles))
    x = torch.bernoulli(torch.full((100, 1, 28, 28), 0.13))
    for dtype, skipped in ((None, 2), (torch.bfloat16, 0)):
        with matrix_precision("bfloat16" if dtype else "float32", pair):
            compile_programs(pair, (x,), precision=dtype)
        assert counts.pop() == skipped
