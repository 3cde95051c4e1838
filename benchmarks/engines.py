"""Milliseconds of one training step: stock Pyro, the eager step and the compiled one.

    python benchmarks/engines.py

The network of Kingma and Welling (2014), 784-500-20-500-784 with tanh, Bernoulli, Adam, on noise
of MNIST's shape. The three are timed in turn, round by round, in one process; medians are quoted.
The table goes to benchmarks/engines.md.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from jsonargparse import auto_cli
from pyro.infer import SVI, Trace_ELBO

from guides import DiagonalNormal, Guide
from models import VAE, Model, Spec
from ppl_vae.files import whole_file
from ppl_vae.objectives import ELBO
from ppl_vae.svi import SVIStep

TABLE = Path(__file__).with_suffix(".md")


def main(batch_sizes: list[int] | None = None, rounds: int = 10, steps: int = 50) -> None:
    """Times the three and writes the table.

    Args:
        batch_sizes: Images in a minibatch; 100 and 512 unless given.
        rounds: How often each is timed.
        steps: Steps in each timing.
    """
    lines = [
        "# One training step",
        "",
        "Made by `python benchmarks/engines.py`: 784-500-20-500-784, tanh, Bernoulli, Adam,",
        f"float32; torch {torch.__version__}, {torch.get_num_threads()} CPU threads.",
        f"The three timed in turn, medians of {rounds} rounds of {steps} steps.",
        "Stock is `pyro.infer.SVI.step` with",
        "`pyro.optim.Adam` and `Trace_ELBO`.",
        "",
        "| batch | stock, ms | eager, ms | compiled, ms | stock / eager | stock / compiled "
        "| compiling, seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch_size in batch_sizes or [100, 512]:
        lines.append(_row(batch_size, rounds, steps))
    text = "\n".join([*lines, ""])
    with whole_file(TABLE) as file:
        file.write(text.encode())
    print(text)


def _row(batch_size: int, rounds: int, steps: int) -> str:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((batch_size, 1, 28, 28), 0.13))
    eager, compiled = (SVIStep(*_pair(), ELBO()) for _ in range(2))
    began = time.perf_counter()
    compiled.compile((x,))
    compiling = time.perf_counter() - began
    stock = SVI(*_pair(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    contestants: dict[str, Callable[[], object]] = {
        "stock": lambda: stock.step(x),
        "eager": lambda: eager((x,), 1e-3),
        "compiled": lambda: compiled((x,), 1e-3),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with pyro.validation_enabled(False):
        for step in contestants.values():
            for _ in range(5):
                step()
        for _ in range(rounds):
            for name, step in contestants.items():
                began = time.perf_counter()
                for _ in range(steps):
                    step()
                times[name].append((time.perf_counter() - began) / steps * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = [str(batch_size), *(f"{value:.2f}" for value in medians.values())]
    cells += [f"{medians['stock'] / medians[name]:.2f}" for name in ("eager", "compiled")]
    return f"| {' | '.join([*cells, f'{compiling:.0f}'])} |"


def _pair() -> tuple[Model, Guide]:
    spec = Spec((1, 28, 28), "binary", 20)
    return VAE(spec), DiagonalNormal(spec)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
