"""The gradient of IWAE from all draws, and from a few that are resampled.

    python benchmarks/resampling.py RUN

The pair is that of a run. For each number of draws that the gradient comes from: the time of the
compiled loss and gradient, all in turn, and the variance over batches of training images, that
between batches and that of the draws together, which is that of training. The table goes to
benchmarks/resampling.md.
"""

import statistics
import time
from pathlib import Path

import pyro
import torch
from jsonargparse import auto_cli
from tables import table_row, write
from torch import Tensor

import ppl_vae
from ppl_vae.compiler.comparison import Gradients
from ppl_vae.compiler.compiling import compile_programs
from ppl_vae.data import Split
from ppl_vae.machine.devices import machine_of
from ppl_vae.objectives import IWAE
from ppl_vae.objectives.objective import PairLoss

TABLE = Path(__file__).with_suffix(".md")
COUNTS = (None, 10, 5, 2, 1)


def main(
    run: Path, particles: int = 50, batch_size: int = 100, batches: int = 200, rounds: int = 20
) -> None:
    """Times the steps, measures the gradients and writes the table.

    Args:
        run: Whose pair and training images are taken; its parameters stay as they are.
        particles: K, draws of z for each image.
        batch_size: Images in a batch.
        batches: Gradients that a variance is taken over.
        rounds: How often each is timed.
    """
    pyro.enable_validation(False)
    pair = ppl_vae.load(run, device="cpu")
    pair.model.train()
    pair.guide.train()
    images = pair.data.train
    x = images.batch(torch.arange(batch_size), labelled=False)
    losses = [PairLoss(pair.model, pair.guide, IWAE(particles, "dreg", n)) for n in COUNTS]
    functions = [compile_programs(loss, x) for loss in losses]
    spreads = [_spreads(function, images, batch_size, batches) for function in functions]
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, taken in zip(functions, times, strict=True):
            began = time.perf_counter()
            function(*x)
            taken.append(1000 * (time.perf_counter() - began))
    medians = [statistics.median(taken) for taken in times]
    lines = [
        "# Draws that the gradient of IWAE comes from",
        "",
        "Made by `python benchmarks/resampling.py RUN`:",
        f"{pair.facts.name}, D = {pair.spec.latent_dim}, K = {particles}, dreg, batches of",
        f"{batch_size}, float32, compiled; torch {torch.__version__},",
        f"{machine_of(torch.device('cpu'))}.",
        f"Milliseconds of loss and gradient, medians of {rounds} rounds. The variance is over",
        f"{batches} batches of training images, the same for every row, and of their draws; summed",
        "over the parameters and relative to that with all draws. +- is one standard error.",
        "",
        "| draws | ms | faster | variance, model | variance, guide |",
        "|---|---|---|---|---|",
    ]
    for n, median, spread in zip(COUNTS, medians, spreads, strict=True):
        ratios = [_ratio(part, whole) for part, whole in zip(spread, spreads[0], strict=True)]
        draws = f"all {particles}" if n is None else n
        lines.append(table_row(draws, f"{median:.1f}", f"{medians[0] / median:.2f}", *ratios))
    print(*lines[-len(COUNTS) :], sep="\n")
    write(TABLE, lines)


def _spreads(function: Gradients, images: Split, batch_size: int, batches: int) -> list[Tensor]:
    """Squared distances from the mean gradient, of each batch: for the model, and for the guide."""
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(1)  # the same batches whatever is drawn in between
    found: dict[str, list[Tensor]] = {"model": [], "guide": []}
    for _ in range(batches):
        index = torch.randint(len(images), (batch_size,), generator=order)
        _, gradients = function(*images.batch(index, labelled=False))
        for whose, rows in found.items():
            parts = [g for name, g in gradients.items() if g is not None and name.startswith(whose)]
            rows.append(torch.cat([part.flatten() for part in parts]))
    each = [torch.stack(rows) for rows in found.values()]
    return [(gradients - gradients.mean(0)).square().sum(1).double() for gradients in each]


def _ratio(part: Tensor, whole: Tensor) -> str:
    """Of two means over the same batches, with its standard error by the delta method."""
    ratio = part.mean() / whole.mean()
    error = (part - ratio * whole).std() / len(part) ** 0.5 / whole.mean()
    return f"{ratio:.2f} +- {error:.2f}"


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
