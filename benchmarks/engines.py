"""Milliseconds of one training step: ours, stock Pyro, hand-written PyTorch, NumPyro, products.

    python benchmarks/engines.py

The network of Kingma and Welling (2014), 784-500-20-500-784 with tanh, Bernoulli, Adam, on images
as sparse as MNIST's, which each step chooses and binarises. All are timed in turn, round by round,
in one process; medians are quoted. NumPyro takes part where it is installed. On a GPU
(`--device cuda`) our step is captured as in training; that by hand is compiled with
"reduce-overhead", and the products are captured too. The rows that matter most come first, and each
is written as soon as it is measured, for a GPU that is had for minutes. The table goes to
benchmarks/engines.md, or engines-cuda.md.
"""

import statistics
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import pyro
import torch
from contestants import (
    Steps,
    bare_products,
    hand_written,
    numpyro_scan,
    pair,
    product_operations,
    stock_pyro,
    wait,
)
from jsonargparse import auto_cli
from tables import page, table_row, write
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.data.conversion import bernoulli_draw
from ppl_vae.machine.devices import choose_device, machine_of
from ppl_vae.objectives import ELBO
from ppl_vae.runs.settings import Precision
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.drawing import Draw, compile_draw
from ppl_vae.training.precision import PRECISIONS, precisions_of, rounded_operands, slow_precision
from ppl_vae.training.step import SVIStep

_BATCH_SIZES = {"cpu": [100, 512], "cuda": [128, 1024, 4096, 100, 512]}
_ROUNDS = {"cpu": 20, "cuda": 6}
_SQUARE = 8192
_IMAGES = 10_000
_COMPILING = 30  # seconds that compiling all contestants of a row takes, about

COLUMNS = ["compiled", "eager", "stock", "by hand", "NumPyro", "products"]


def main(
    batch_sizes: list[int] | None = None,
    precisions: list[Precision] | None = None,
    rounds: int | None = None,
    seconds: float = 0.5,
    device: str = "cpu",
    table: Path | None = None,
) -> None:
    """Times all contestants and writes the table.

    Args:
        batch_sizes: Images in a minibatch; 100 and 512 unless given, and more on a GPU.
        precisions: Of the matrix products; all that the device has unless given.
        rounds: How often each is timed; 20 unless given, and 6 on a GPU.
        seconds: About how long each timing takes.
        device: Where to compute.
        table: The file to write; engines.md beside this script, or engines-cuda.md.
    """
    where = choose_device(device)
    precisions = precisions or precisions_of(where)
    if unknown := set(precisions) - set(precisions_of(where)):
        sys.exit(f"--precisions: a {where.type} has no {', '.join(sorted(unknown))}")
    rounds = rounds or _ROUNDS[where.type]
    name = "engines.md" if where.type == "cpu" else "engines-cuda.md"
    table = page(table or Path(__file__).with_name(name))
    slow = "bfloat16" in precisions and slow_precision("bfloat16", where)
    emulated = [f"This {where.type} has no bfloat16 arithmetic and emulates it."] * slow
    lines = [
        "# One training step",
        "",
        "Made by `python benchmarks/engines.py`: 784-500-20-500-784, tanh, Bernoulli, Adam;",
        f"torch {torch.__version__}, {machine_of(where)}. Milliseconds of one step, with the",
        f"choice of its images from {_IMAGES:,} and their binarisation, all timed in turn,",
        f"medians of {rounds} rounds of about {seconds} seconds. `compiled` and `eager` are the",
        "engines of `python -m ppl_vae.fit`; `stock` is `pyro.infer.SVI.step` with",
        "`pyro.optim.Adam` and `Trace_ELBO`, in float32 always; `by hand` is PyTorch under",
        f"`torch.compile` in its mode {_mode(where)!r} (and autocast) with fused Adam;",
        "`NumPyro` is `SVI.update` in a jitted `lax.scan`; `products` are the bare matrix products",
        "of the step, zeros and all: in float32 on a CPU the compiled engine skips those of the",
        "images, of whose pixels 13 % are 1, as in MNIST.",
        "A ratio above 1 says that the compiled engine is faster. The share is of the",
        f"rate of one product of matrices of {_SQUARE:,} rows in the same precision, on a GPU.",
        *emulated,
        "",
        "| batch | precision | " + " | ".join(f"{column}, ms" for column in COLUMNS) + " | "
        + " | ".join(f"{column} / compiled" for column in COLUMNS[2:])
        + " | share of the matrix rate | compiling, seconds |",
        "|" + "---|" * (2 + len(COLUMNS) + len(COLUMNS[2:]) + 2),
    ]  # fmt: skip
    sizes = batch_sizes or _BATCH_SIZES[where.type]
    count = len(sizes) * len(precisions)
    each = _COMPILING + rounds * seconds * len(COLUMNS)
    print(f"{count} rows of about {each:.0f} s: {count * each / 60:.0f} min", file=sys.stderr)
    rates: dict[Precision, float | None] = {}
    # By size first, so that the first rows have every precision.
    for batch_size, precision in product(sizes, precisions):
        # Rounded where the precision says so, for all contestants.
        with rounded_operands(precision):
            if precision not in rates:
                rates[precision] = _matrix_rate(PRECISIONS[precision] or torch.float32, where)
            row = _row(batch_size, precision, rounds, seconds, where, rates[precision])
        lines.append(row)
        print(lines[-1], flush=True)
        write(table, lines)


def _mode(device: torch.device) -> str:
    return "reduce-overhead" if device.type == "cuda" else "default"


def _matrix_rate(dtype: torch.dtype, device: torch.device) -> float | None:
    """Multiplications and additions a second of one large matrix product on a GPU."""
    if device.type == "cpu":
        return None
    a, b = (torch.randn(_SQUARE, _SQUARE, device=device).to(dtype) for _ in range(2))

    def run(steps: int) -> None:
        for _ in range(steps):
            a @ b

    run(3)
    milliseconds = statistics.median(_milliseconds(run, 3, device) for _ in range(5))
    return 2 * _SQUARE**3 / milliseconds * 1e3


def _row(
    batch_size: int,
    precision: Precision,
    rounds: int,
    seconds: float,
    device: torch.device,
    rate: float | None,
) -> str:
    torch._dynamo.reset()  # it stops compiling one piece of code after eight times
    torch.manual_seed(0)
    black = torch.rand(_IMAGES, 1, 28, 28, device=device) < 0.81
    levels = (255 * torch.rand(black.shape, device=device).sqrt()).to(torch.uint8)
    images = Split(levels.masked_fill_(black, 0), None, partial(bernoulli_draw, top=255))
    index = torch.randperm(_IMAGES, device=device)[:batch_size]
    chosen = (images.raw.float() / 255, index)
    dtype = PRECISIONS[precision]
    eager, compiled = (SVIStep(*pair(device), ELBO(), precision) for _ in range(2))
    began = time.perf_counter()
    compiled.compile(images.batch(index, labelled=False))
    draw = compile_draw(images, index, labelled=False)
    compiling = time.perf_counter() - began
    contestants: dict[str, Steps | None] = {
        "compiled": _repeat(compiled, draw, index),
        "eager": _repeat(eager, partial(images.batch, labelled=False), index),
        "stock": stock_pyro(*chosen),
        "by hand": hand_written(*chosen, dtype, _mode(device)),
        "NumPyro": numpyro_scan(*chosen, precision),
        "products": bare_products(index, dtype),
    }
    runs = {name: run for name, run in contestants.items() if run is not None}
    times: dict[str, list[float]] = {name: [] for name in runs}
    with pyro.validation_enabled(False):
        steps = {name: _steps_in(run, seconds, device) for name, run in runs.items()}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(_milliseconds(run, steps[name], device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = [str(batch_size), precision]
    cells += [f"{medians[name]:.3f}" if name in medians else "-" for name in COLUMNS]
    cells += [
        f"{medians[name] / medians['compiled']:.2f}" if name in medians else "-"
        for name in COLUMNS[2:]
    ]
    operations = product_operations(batch_size) / medians["compiled"] * 1e3
    cells += [f"{operations / rate:.2f}" if rate else "-", f"{compiling:.0f}"]
    return table_row(*cells)


def _repeat(step: SVIStep, draw: Draw, index: Tensor) -> Steps:
    whole = CapturedStep(step, draw, index) if index.is_cuda and step.compiled else None

    def run(steps: int) -> None:
        for _ in range(steps):
            if whole:
                whole((index,), 1e-3)
            else:
                step(draw(index), 1e-3)

    return run


def _steps_in(run: Steps, seconds: float, device: torch.device) -> int:
    """How many steps take so long, after the first ones, in which compilers work."""
    run(3)
    return max(3, round(1e3 * seconds / _milliseconds(run, 3, device)))


def _milliseconds(run: Steps, steps: int, device: torch.device) -> float:
    run(1)  # the caches hold the data of the run before
    wait(device)
    began = time.perf_counter()
    run(steps)
    wait(device)
    return (time.perf_counter() - began) / steps * 1e3


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
