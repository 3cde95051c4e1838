"""Seconds of training until the test ELBO of MNIST passes a bound: ours, stock Pyro and NumPyro.

    python benchmarks/time_to_quality.py --data_root DIR

The network of Kingma and Welling (2014), 784-500-20-500-784 with tanh, Bernoulli, dynamic
binarisation. Ours is `python -m ppl_vae.fit` by default, with the compiled engine and `--epochs`.
The others follow the recipes of their own VAE examples: Adam with a constant 1e-3, batches of 256
(Pyro) and 128 (NumPyro). An epoch of each in turn, in one process; the clock counts neither
measuring nor the seconds of compiling, which stand in a column of their own. NumPyro takes part
where it is installed. The table goes to benchmarks/time_to_quality.md.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pyro
import torch
from contestants import numpyro_epochs, pair
from jsonargparse import auto_cli
from pyro.infer import SVI, Trace_ELBO
from tables import table_row, write
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.data import MNIST, Split
from ppl_vae.machine.randomness import seeded
from ppl_vae.objectives import ELBO
from ppl_vae.training.schedules import learning_rate_at
from ppl_vae.training.step import SVIStep

TABLE = Path(__file__).with_suffix(".md")
CPU = torch.device("cpu")

# The seconds of compiling, then those of training in each epoch, with the test ELBO after it.
Epochs = Iterator[tuple[float, float]]


def main(data_root: Path, bound: float = -98.0, epochs: int = 60, most: int = 200) -> None:
    """Trains all until they pass the bound and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        bound: The test ELBO to pass, in nats per datum.
        epochs: The length of our schedule, which decays to zero at its end.
        most: After so many epochs a contestant gives up.
    """
    data = MNIST(data_root).load("binary", seed=0)
    runs: dict[str, Epochs] = {
        "ours, compiled": _ours(data.train, data.test, epochs),
        "stock Pyro": _stock(data.train, data.test),
    }
    others = numpyro_epochs(data.train, data.test)
    if others is not None:
        runs["NumPyro"] = others
    rows = {}
    compiling = {name: next(run)[0] for name, run in runs.items()}
    seconds = dict.fromkeys(runs, 0.0)
    for epoch in range(1, most + 1):
        for name in [name for name in runs if name not in rows]:
            took, elbo = next(runs[name], (0.0, float("nan")))
            seconds[name] += took
            print(f"{name}: epoch {epoch}, {seconds[name]:.1f} s, test ELBO {elbo:.2f}", flush=True)
            if elbo > bound or elbo != elbo:
                times = (f"{seconds[name]:.0f}", f"{compiling[name]:.0f}")
                rows[name] = table_row(name, epoch, *times, f"{elbo:.2f}")
        if len(rows) == len(runs):
            break
    head = [
        "# Time to quality",
        "",
        "Made by `python benchmarks/time_to_quality.py`: seconds of training until the test ELBO",
        f"of MNIST passes {bound} nats per datum; torch {torch.__version__},",
        f"{torch.get_num_threads()} CPU threads. Ours is a schedule of {epochs} epochs, the others",
        "follow the recipes of their own examples with a constant step size. An epoch of each in",
        "turn; compiling is not in the seconds of training.",
        "",
        "| what | epochs | seconds of training | seconds of compiling | test ELBO |",
        "|---|---|---|---|---|",
    ]
    missing = [
        f"| {name} | more than {most} | {seconds[name]:.0f} | {compiling[name]:.0f} | |"
        for name in runs
        if name not in rows
    ]
    write(TABLE, [*head, *rows.values(), *missing])


def _ours(train: Split, test: Split, epochs: int) -> Epochs:
    torch.manual_seed(0)
    model, guide = pair(CPU)
    step = SVIStep(model, guide, ELBO())
    began = time.perf_counter()
    step.compile((train[:100],))
    yield time.perf_counter() - began, float("nan")
    per_epoch = -(-len(train) // 100)
    done = 0
    for _ in range(epochs):
        began = time.perf_counter()
        for index in torch.randperm(len(train)).split(100):
            rate = learning_rate_at(done, 1e-3, per_epoch, epochs * per_epoch)
            step((train[index],), rate)
            done += 1
        took = time.perf_counter() - began
        yield took, _test_elbo(model, guide, test)


def _stock(train: Split, test: Split) -> Epochs:
    torch.manual_seed(0)
    model, guide = pair(CPU)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    yield 0.0, float("nan")
    while True:
        began = time.perf_counter()
        with pyro.validation_enabled(False):
            for index in torch.randperm(len(train)).split(256):
                svi.step(train[index])
        took = time.perf_counter() - began
        yield took, _test_elbo(model, guide, test)


@torch.no_grad()
def _test_elbo(model: Model, guide: Guide, test: Split) -> float:
    with seeded(CPU, 1), pyro.validation_enabled(False):
        losses: list[Tensor] = [
            ELBO().loss(model, guide, test[start : start + 1000])
            for start in range(0, len(test), 1000)
        ]
    return -torch.stack(losses).mean().item()


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
