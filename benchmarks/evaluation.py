"""Throughput of evaluating, encoding and decoding, beside the bare matrix products of each.

    python benchmarks/evaluation.py

The network of Kingma and Welling (2014), 784-500-20-500-784, on noise of MNIST's shape:
importance-sampled log p(x) by 5,000 particles as `python -m ppl_vae.evaluate` computes it, the
means of q(z|x) and those of p(x|z), each compiled, with the time of compiling in it, and eager, and
the products that each cannot do without, in passes of about the same size. All in turn; medians are
quoted. The table goes to benchmarks/evaluation.md, or evaluation-cuda.md.
"""

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from contestants import HIDDEN, LATENT, PIXELS, pair, wait
from jsonargparse import auto_cli
from tables import page, table_row, write
from torch import Tensor

from ppl_vae.compiler.compiling import Engine
from ppl_vae.data import Split
from ppl_vae.machine.devices import choose_device, machine_of
from ppl_vae.measures.encoding import decoded_mean, posterior_mean
from ppl_vae.measures.estimates import estimate

PASS = {"cpu": 2500, "cuda": 2**18}  # rows at a time, about as many as ours


@torch.no_grad()
def main(
    images: int = 1000,
    particles: int = 5000,
    coded: int = 1_000_000,
    rounds: int = 5,
    device: str = "cpu",
    table: Path | None = None,
) -> None:
    """Measures all in turn and writes the table.

    Args:
        images: How many are evaluated.
        particles: Draws of z for each.
        coded: How many images are encoded, and how many z decoded.
        rounds: How often each is timed.
        device: Where to compute.
        table: The file to write; evaluation.md beside this script, or evaluation-cuda.md.
    """
    torch.manual_seed(0)
    where = choose_device(device)
    name = "evaluation.md" if where.type == "cpu" else "evaluation-cuda.md"
    table = page(table or Path(__file__).with_name(name))
    model, guide = pair(where)
    model.eval()
    guide.eval()
    x = torch.bernoulli(torch.full((coded, 1, 28, 28), 0.13, device=where))
    normal = partial(torch.randn, device=where)
    z = normal(coded, LATENT)
    data = Split(x[:images], None, lambda raw: raw)
    decoding = (z, normal(HIDDEN, LATENT), normal(PIXELS, HIDDEN))
    encoding = (x.flatten(1), normal(HIDDEN, PIXELS), normal(2 * LATENT, HIDDEN))
    weights = images * particles
    contestants: dict[str, tuple[int, Callable[[Engine], object], Callable[[], object]]] = {
        "weights of log p(x)": (
            weights,
            lambda engine: estimate(model, guide, data, particles, engine=engine),
            lambda: _products(weights, *decoding),
        ),
        "images encoded": (
            coded,
            lambda engine: posterior_mean(model, guide, x, engine=engine),
            lambda: _products(coded, *encoding),
        ),
        "images decoded": (
            coded,
            lambda engine: decoded_mean(model, z, engine=engine),
            lambda: _products(coded, *decoding),
        ),
    }
    lines = []
    for name, (amount, ours, bare) in contestants.items():
        runs = (partial(ours, "compiled"), partial(ours, "eager"), bare)
        times: tuple[list[float], ...] = ([], [], [])
        for _ in range(rounds):
            for run, seconds in zip(runs, times, strict=True):
                wait(where)
                began = time.perf_counter()
                run()
                wait(where)
                seconds.append(time.perf_counter() - began)
        rates = [amount / statistics.median(seconds) for seconds in times]
        columns = [f"{rate:,.0f}" for rate in rates] + [f"{r / rates[2]:.2f}" for r in rates[:2]]
        lines.append(table_row(name, *columns))
        print(lines[-1], flush=True)
    if where.type == "cuda":
        peak = torch.cuda.max_memory_allocated(where) / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = [
        "# Throughput of the evaluation",
        "",
        f"Made by `python benchmarks/evaluation.py`: log p(x) of {images:,} images by",
        f"{particles:,} particles, and the means of q(z|x) and of p(x|z) of {coded:,}, which run",
        "the networks and no program; 784-500-20-500-784, float32,",
        f"torch {torch.__version__}, {machine_of(where)}, medians of {rounds}",
        "rounds. `compiled` and `eager` are the engines of `python -m ppl_vae.evaluate`; the time",
        "of compiling, in every round, is part of the first. Products are the matrix products that",
        "each cannot do without, as torch computes them; the ratios are to them. On a CPU ours are",
        "by oneDNN, which is faster there, so that a ratio may be above 1.",
        "",
        "| | compiled, a second | eager, a second | products alone, a second | compiled, ratio "
        "| eager, ratio |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        f"Peak memory {peak:.2f} GiB, of which the images are {x.nbytes / 2**30:.2f}.",
    ]
    write(table, text)


def _products(rows: int, inputs: Tensor, first: Tensor, second: Tensor) -> None:
    """Two layers' products for so many rows, which are taken from the inputs again and again."""
    count = PASS[inputs.device.type]
    for start in range(0, rows, count):
        part = inputs[start % len(inputs) :][:count]
        part @ first.t() @ second.t()


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
