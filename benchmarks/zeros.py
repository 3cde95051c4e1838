"""Matrix products that skip the zeros of images, beside the whole products.

    python benchmarks/zeros.py

A first layer of 784 x 500 and the gradient of its weights, in float32 on a CPU, as a compiled step
takes them: by `ppl_vae/compiler/zeros.py` and by `onednn.py`. All are timed in turn, and medians
are quoted. The table goes to benchmarks/zeros.md.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._inductor
from jsonargparse import auto_cli
from tables import table_row, write
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compiler.onednn import use_onednn
from ppl_vae.compiler.zeros import skip_zeros
from ppl_vae.machine.devices import machine_of

TABLE = Path(__file__).with_suffix(".md")
PIXELS, UNITS = 784, 500


def main(rounds: int = 100) -> None:
    """Times the products and writes the table.

    Args:
        rounds: How often each is timed.
    """
    machine = machine_of(torch.device("cpu"))
    lines = [
        "# Products that skip zeros",
        "",
        f"Made by `python benchmarks/zeros.py`: {PIXELS} pixels, {UNITS} units, float32;",
        f"torch {torch.__version__}, {machine}.",
        f"Milliseconds, all timed in turn, medians of {rounds} rounds; a ratio above 1 says that",
        "skipping is faster. In MNIST 13 % of the pixels are not 0. A compiled step skips zeros",
        "where at most a third are not 0.",
        "",
        "| batch | pixels not 0, % | product | skipping, ms | whole, ms | whole / skipping |",
        "|---|---|---|---|---|---|",
    ]
    for count in (20, 100, 512):
        for share in (0.13, 1 / 3, 0.5):
            lines += _rows(count, share, rounds)
            print(*lines[-2:], sep="\n", flush=True)
    write(TABLE, lines)


def _rows(count: int, share: float, rounds: int) -> list[str]:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((count, PIXELS), share))
    functions = {
        "layer": (lambda x, weight: x @ weight.t(), torch.randn(UNITS, PIXELS)),
        "gradient": (lambda x, gradient: gradient.t() @ x, torch.randn(count, UNITS)),
    }
    rows = []
    for name, (function, other) in functions.items():
        runs = [_compiled(function, x, other, skip) for skip in (True, False)]
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for run, taken in zip(runs, times, strict=True):
                began = time.perf_counter()
                run(x, other)
                taken.append(1e3 * (time.perf_counter() - began))
        skipping, whole = map(statistics.median, times)
        numbers = (f"{skipping:.3f}", f"{whole:.3f}", f"{whole / skipping:.2f}")
        rows.append(table_row(count, f"{100 * share:.0f}", name, *numbers))
    return rows


def _compiled(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, other: Tensor, skip: bool
) -> Callable[..., object]:
    graph = make_fx(function, tracing_mode="fake")(x, other)
    if skip:
        few = torch.zeros_like(x)  # so that the rule holds whatever the share
        skip_zeros(graph, [few, other], slice(1))
    use_onednn(graph)
    return torch._inductor.compile(graph, [x, other], options={"size_asserts": False})


if __name__ == "__main__":
    auto_cli(main)
