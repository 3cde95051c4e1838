"""The choice of a batch's images and their conversion, as one compiled function.

Otherwise each operation of the conversion is a pass over the batch, and a kernel on a GPU.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.compiler.compiling import compile_graph
from ppl_vae.compiler.trial_runs import in_words, quiet
from ppl_vae.data import Split
from ppl_vae.machine.randomness import isolated

__all__ = ["Draw", "compile_draw"]

Draw = Callable[[Tensor], tuple[Tensor, ...]]

_PARTED = 1e-4  # of all entries: a GPU rounds otherwise, and noise may lie between the two


def compile_draw(images: Split, index: Tensor, labelled: bool) -> Draw:
    """Compiles `Split.batch` for batches of one size, and compares the two.

    Args:
        images: In memory.
        index: Indices (B,) of some.
        labelled: Whether batches have labels.

    Returns:
        A function from indices to a batch, with the random numbers of `Split.batch`, which it
        calls where there are more or fewer than B.

    Raises:
        NotCompilable: If it cannot be traced or compiled, or gives other images.
    """

    def draw(index: Tensor, raw: Tensor, *labels: Tensor) -> tuple[Tensor, ...]:
        return replace(images, raw=raw, labels=(*labels, None)[0]).batch(index, labelled)

    stored: list[Any] = [part for part in (images.raw, images.labels) if part is not None]
    trace = make_fx(draw, tracing_mode="fake", _allow_non_fake_inputs=True)
    chosen = (index, (index + 1) % len(images))
    with isolated(index.device):
        # Before the trace: tensors that a conversion keeps must not come from there.
        expected = [_seeded(seed, draw, each, *stored) for seed, each in enumerate(chosen)]
        try:
            with quiet():
                graph: Any = trace(index, *stored)
        except Exception as error:  # whatever stops the tracer, the answer is the same
            raise NotCompilable(in_words(error)) from error
        compiled = compile_graph(graph, [index, *stored])
        for seed, each in enumerate(chosen):
            _check_same(expected[seed], _seeded(seed, compiled, each, *stored))

    def batch(chosen: Tensor) -> tuple[Tensor, ...]:
        if len(chosen) != len(index):
            return images.batch(chosen, labelled)
        return tuple(compiled(chosen, *stored))

    return batch


def _seeded(seed: int, function: Callable[..., Any], *arguments: Tensor) -> Any:
    torch.manual_seed(seed)
    return function(*arguments)


def _check_same(expected: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> None:
    for one, other in zip(expected, got, strict=True):
        same = torch.isclose(one, other, rtol=1e-6, atol=0.0, equal_nan=True)
        if (~same).float().mean() > _PARTED:
            raise NotCompilable("gives other images once compiled")
