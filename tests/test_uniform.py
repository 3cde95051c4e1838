"""Uniform numbers drawn at once are those of torch, and leave its generator where torch would."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compiler import uniform
from ppl_vae.compiler.compiling import compile_graph
from ppl_vae.compiler.uniform import draw_at_once
from ppl_vae.data.conversion import bernoulli_draw

# The generator makes 624 words in one go: all, one more, one less, several goes, and single ones.
COUNTS = (1, 622, 1, 1, 623, 624, 625, 7, 20_000, 13, 1248)


@pytest.mark.parametrize("seed", [0, 20140501])
def test_the_numbers_and_the_state_after_them_are_torchs(seed: int) -> None:
    draw = uniform._kernel()
    ours, theirs = (Generator().manual_seed(seed) for _ in range(2))
    for count in COUNTS:
        assert torch.equal(draw([count], ours), torch.rand(count, generator=theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())
    # Of normal numbers torch keeps every second one for the next draw.
    for count in (3, 5):
        assert torch.equal(*(torch.randn(count, generator=each) for each in (ours, theirs)))
        assert torch.equal(draw([9], ours), torch.rand(9, generator=theirs))
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_seed_gives_the_numbers_of_the_mersenne_twister() -> None:
    # NumPy's is seeded with the same words, and returns them whole.
    twister = np.random.MT19937()
    twister._legacy_seeding(5489)
    words = twister.random_raw(3000) % 2**24
    got = uniform._kernel()([3000], Generator().manual_seed(5489))
    assert got.tolist() == (words * 2.0**-24).tolist()


def several(x: Tensor) -> list[Tensor]:
    """Draws of one shape and of others, few and many, with normal ones between them."""
    first, second = torch.rand(x.shape), torch.rand(x.shape)
    normal, few = torch.randn(x.shape), torch.rand(20)
    return [first * x, second, normal, few, torch.rand(x.shape, dtype=torch.float64), x + 1]


def traced(function: Callable[..., object], *inputs: Tensor) -> torch.fx.GraphModule:
    return make_fx(function, tracing_mode="fake")(*inputs)


def random_nodes(graph: torch.fx.GraphModule) -> list[str]:
    names = (str(node.target) for node in graph.graph.nodes)
    return [name for name in names if "rand." in name or "uniform" in name]


def test_a_graph_draws_the_numbers_of_its_programs() -> None:
    x = torch.ones(40, 50)
    graph = traced(several, x)
    compiled = compile_graph(graph, [x])
    ours, rand = "ppl_vae.uniform.default", "aten.rand.default"
    assert random_nodes(graph) == [ours, ours, rand, rand]
    for seed in range(3):
        torch.manual_seed(seed)
        expected, state = several(x), torch.get_rng_state()
        torch.manual_seed(seed)
        for one, other in zip(compiled(x), expected, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), state)


def test_binary_images_are_drawn_at_once() -> None:
    raw = torch.arange(256, dtype=torch.uint8).repeat(8).view(8, 1, 16, 16)
    graph = traced(lambda raw: bernoulli_draw(raw, 255), raw)
    draw_at_once(graph)
    assert random_nodes(graph) == ["ppl_vae.uniform.default"]
    torch.manual_seed(0)
    expected = bernoulli_draw(raw, 255)
    torch.manual_seed(0)
    assert torch.equal(graph(raw), expected)


def test_defaults_set_elsewhere_change_nothing() -> None:
    draw = uniform._kernel()
    torch.set_default_dtype(torch.float64)
    try:
        assert uniform._draws_as_torch(draw)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert uniform._draws_as_torch(draw)


def test_torch_draws_where_its_generator_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def another(shape: list[int], generator: Generator) -> Tensor:
        return torch.rand(shape, generator=generator).flip(0)

    def no_compiler() -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(uniform, "_operation", uniform._operation.__wrapped__)
    for kernel in (lambda: another, no_compiler):
        monkeypatch.setattr(uniform, "_kernel", kernel)
        graph = traced(several, torch.ones(40, 50))
        draw_at_once(graph)
        assert set(random_nodes(graph)) == {"aten.rand.default"}
