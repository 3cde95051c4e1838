"""What compiling the choice of a batch's images saves, beside the step that they are for.

    python benchmarks/drawing.py

Images of MNIST's size, chosen from 50,000 and binarised or dequantised; the step is that of
`benchmarks/engines.py`, in float32. All are timed in turn, in one process; medians are quoted. The
table goes to benchmarks/drawing.md.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import torch
from contestants import pair
from jsonargparse import auto_cli
from tables import table_row, write

from ppl_vae.data import Split
from ppl_vae.data.conversion import bernoulli_draw, dequantised
from ppl_vae.machine.devices import machine_of
from ppl_vae.objectives import ELBO
from ppl_vae.training.drawing import compile_draw
from ppl_vae.training.step import SVIStep

TABLE = Path(__file__).with_suffix(".md")
CONVERSIONS = {
    "binarised": partial(bernoulli_draw, top=255),
    "dequantised": partial(dequantised, levels=256),
}


def main(rounds: int = 15, seconds: float = 0.2) -> None:
    """Times the three and writes the table.

    Args:
        rounds: How often each is timed.
        seconds: How long, about, in each round.
    """
    pyro.enable_validation(False)
    lines = [
        "# The choice of a batch",
        "",
        f"Made by `python benchmarks/drawing.py`: torch {torch.__version__},",
        f"{machine_of(torch.device('cpu'))}. Milliseconds, medians of {rounds} rounds in turn:",
        "the choice of a batch with its conversion, operation by operation and compiled, and the",
        "compiled step. The ratio is of choice and step together. Compiled, the operations are one",
        "pass over the batch, and its random numbers, the same ones, are drawn several at once.",
        "",
        "| batch | images | eager, ms | compiled, ms | step, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    raw = torch.randint(0, 256, (50_000, 1, 28, 28), dtype=torch.uint8)
    for size in (100, 512):
        index = torch.randperm(len(raw))[:size]
        for name, prepare in CONVERSIONS.items():
            images = Split(raw, None, prepare)
            compiled = compile_draw(images, index, labelled=False)
            batch = (bernoulli_draw(raw[index], 255),)
            step = SVIStep(*pair(index.device), ELBO())
            step.compile(batch)
            contestants = [
                partial(images.batch, index, labelled=False),
                partial(compiled, index),
                partial(step, batch, 1e-3),
            ]
            timed = [[_milliseconds(each, seconds) for each in contestants] for _ in range(rounds)]
            eager, drawn, taken = (statistics.median(column) for column in zip(*timed, strict=True))
            ratio = (eager + taken) / (drawn + taken)
            cells = (f"{value:.3f}" for value in (eager, drawn, taken))
            lines.append(table_row(size, name, *cells, f"{ratio:.2f}"))
            print(lines[-1], flush=True)
    write(TABLE, lines)


def _milliseconds(function: Callable[[], object], seconds: float) -> float:
    function()
    calls, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        function()
        calls += 1
    return 1000 * spent / calls


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
