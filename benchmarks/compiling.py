"""Seconds until the compiled step of a pair is ready, and what the step saves then.

    python benchmarks/compiling.py

Each measurement is a process of its own, as a run is. Cold is with an empty cache of inductor's,
warm with the one that the cold process left. Tracing, which has no cache, and compiling are each
compared with the programs, in the seconds given. A first step of another pair is taken before
the clock starts, so that neither is charged for loading torch and Pyro. Then eager and compiled
steps are timed in turn. The table goes to benchmarks/compiling.md.
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyro
import torch
from jsonargparse import auto_cli
from tables import table_row, write
from torch import Tensor

from guides import IAF, Bidirectional, DiagonalNormal, FullRankNormal, Ladder, SemiAmortized
from models import (
    MLP,
    VAE,
    Cells,
    Convolutional,
    DiscretizedLogistic,
    Gaussian,
    Hierarchical,
    Linear,
    ProbabilisticPCA,
    Residual,
    Spec,
    TopDown,
    VampPrior,
)
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.pairs.building import build_pair
from ppl_vae.training.step import SVIStep

TABLE = Path(__file__).with_suffix(".md")
BATCH = 100
STEPS = 100  # of each engine, timed in each process, within so many seconds
SECONDS = 20

MNIST = partial(Spec, (1, 28, 28), "binary")
FREY = partial(Spec, (1, 28, 20), "real")
TWO_LAYERS = partial(MLP, hidden=(200, 200))

# Seconds of tracing and of compiling, and milliseconds of both steps.
Result = tuple[float, float, float, float]

_DEFAULTS = {"model": VAE, "guide": DiagonalNormal, "network": MLP}
_DEFAULTS |= {"prior": None, "likelihood": None}

_GAUSSIAN = {"network": partial(MLP, hidden=(200,)), "likelihood": Gaussian}
_PCA = {"model": ProbabilisticPCA, "network": Linear}
_CLIMBING = {"guide": partial(SemiAmortized, steps=3)}
_LADDER = {"model": Hierarchical, "guide": Ladder}
_DEEP = {
    "model": partial(TopDown, groups=((2, 1), (3, 7), (1, 14))),
    "guide": Bidirectional,
    "network": Cells,
}

# The first two are those of Kingma and Welling (2014) and of Burda et al. (2016).
PAIRS: dict[str, tuple[Spec, dict[str, Any], Objective]] = {
    "MNIST, tanh 500, D = 20": (MNIST(20), {}, ELBO()),
    "MNIST, tanh 200-200, D = 50": (MNIST(50), {"network": TWO_LAYERS}, ELBO()),
    "Frey Face, tanh 200, D = 10, Gaussian": (FREY(10), _GAUSSIAN, ELBO()),
    "Frey Face, ProbabilisticPCA, D = 10": (FREY(10), _PCA, ELBO()),
    "MNIST, Convolutional, D = 20": (MNIST(20), {"network": Convolutional}, ELBO()),
    "MNIST, FullRankNormal, D = 20": (MNIST(20), {"guide": FullRankNormal}, ELBO()),
    "MNIST, IAF, D = 20, IWAE of 5": (MNIST(20), {"guide": IAF}, IWAE(particles=5)),
    "MNIST, D = 20, IWAE of 5, gradient dreg": (MNIST(20), {}, IWAE(5, "dreg")),
    "MNIST, SemiAmortized of 3 steps, D = 20": (MNIST(20), _CLIMBING, ELBO()),
    "MNIST, VampPrior of 500, D = 40": (MNIST(40), {"prior": VampPrior}, ELBO()),
    "MNIST, Hierarchical with Ladder, D = 20": (MNIST(20), _LADDER, ELBO()),
    "32 x 32 in colour, Residual, DiscretizedLogistic, D = 20": (
        Spec((3, 32, 32), "bytes", 20),
        {"network": Residual, "likelihood": DiscretizedLogistic},
        ELBO(),
    ),
    "MNIST, TopDown of 6 groups, Cells": (MNIST(8), _DEEP, ELBO()),
}


def main(rounds: int = 5) -> None:
    """Measures every pair in turn and writes the table.

    Args:
        rounds: How many cold and as many warm processes for each; medians are quoted.
    """
    lines = [
        "# Seconds until a compiled step is ready, and what it saves",
        "",
        f"Made by `python benchmarks/compiling.py`: torch {torch.__version__},",
        f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()},",
        f"batches of {BATCH}, float32, medians of {rounds} processes; cold is with an empty cache",
        "of inductor's, warm with a full one. Tracing and compiling are each with the comparison",
        "with the programs.",
        "The steps are milliseconds of one, eager and compiled in turn.",
        "",
        "| pair | tracing, s | compiling, cold, s | compiling, warm, s | eager step, ms "
        "| compiled step, ms | eager / compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in PAIRS:
        cold, warm = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for results in (cold, warm):
                    results.append(_in_a_process(name, cache))
        tracing, _, eager, compiled = map(statistics.median, zip(*cold, *warm, strict=True))
        seconds = [statistics.median(result[1] for result in results) for results in (cold, warm)]
        columns = [
            *(f"{value:.1f}" for value in (tracing, *seconds)),
            *(f"{value:.2f}" for value in (eager, compiled)),
            f"{eager / compiled:.1f}",
        ]
        lines.append(table_row(name, *columns))
        print(lines[-1], flush=True)
        write(TABLE, lines)


def _in_a_process(name: str, cache: str) -> Result:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, name).result()


def _measure(name: str) -> Result:
    torch.manual_seed(0)
    small = build_pair(Spec((1, 2, 2), "binary", 1), {**_DEFAULTS, "network": Linear})
    ELBO().loss(*small, torch.ones(1, 1, 2, 2)).backward()
    spec, pieces, objective = PAIRS[name]
    batch = (_images(spec),)
    steps = [SVIStep(*build_pair(spec, {**_DEFAULTS, **pieces}), objective) for _ in range(2)]
    _, step = steps
    began = time.perf_counter()
    trace_programs(step.pair, batch, step.scheduled)
    tracing = time.perf_counter() - began
    began = time.perf_counter()
    step.compile(batch)  # which traces once more
    compiling = time.perf_counter() - began - tracing
    times: tuple[list[float], list[float]] = ([], [])
    with pyro.validation_enabled(False):
        ends = time.perf_counter() + SECONDS
        while len(times[0]) < STEPS and time.perf_counter() < ends:
            for each, milliseconds in zip(steps, times, strict=True):
                began = time.perf_counter()
                each(batch, 1e-3)
                milliseconds.append(1000 * (time.perf_counter() - began))
    return tracing, compiling, *(statistics.median(milliseconds) for milliseconds in times)


def _images(spec: Spec) -> Tensor:
    levels = torch.rand(BATCH, *spec.image_shape)
    return {"binary": levels.round(), "bytes": (255 * levels).round()}.get(spec.domain, levels)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
