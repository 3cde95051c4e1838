"""Seconds until the compiled step of a pair is ready: staging, and compiling cold and warm.

    python benchmarks/compiling.py

Each measurement is a process of its own, as a run is. Cold is with an empty cache of inductor's,
warm with the one that the cold process left. Staging, which has no cache, is checked against the
programs; compiling is checked against the staged graph. A first step of another pair is taken
before the clock starts, so that neither is charged for loading torch and Pyro. The table goes to
benchmarks/compiling.md.
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

import torch
from jsonargparse import auto_cli
from torch import Tensor

from guides import IAF, DiagonalNormal, FullRankNormal, Ladder
from models import (
    MLP,
    VAE,
    Convolutional,
    DiscretizedLogistic,
    Gaussian,
    Hierarchical,
    Linear,
    ProbabilisticPCA,
    Residual,
    Spec,
    VampPrior,
)
from ppl_vae.compiling import compile_staged
from ppl_vae.files import whole_file
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.pairs import build_pair
from ppl_vae.staging import stage

TABLE = Path(__file__).with_suffix(".md")
BATCH = 100

MNIST = partial(Spec, (1, 28, 28), "binary")
FREY = partial(Spec, (1, 28, 20), "real")
TWO_LAYERS = partial(MLP, hidden=(200, 200))

_DEFAULTS = {
    "model": VAE,
    "guide": DiagonalNormal,
    "network": MLP,
    "prior": None,
    "likelihood": None,
}

# The first six are the pairs of benchmarks/foundation.py, and what the lecture builds beside them.
PAIRS: dict[str, tuple[Spec, dict[str, Any], Objective]] = {
    "MNIST, tanh 500, D = 20": (MNIST(20), {}, ELBO()),
    "MNIST, tanh 200-200, D = 50": (MNIST(50), {"network": TWO_LAYERS}, ELBO()),
    "Frey Face, tanh 200, D = 10, Gaussian": (
        FREY(10),
        {"network": partial(MLP, hidden=(200,)), "likelihood": Gaussian},
        ELBO(),
    ),
    "Frey Face, ProbabilisticPCA, D = 10": (
        FREY(10),
        {"model": ProbabilisticPCA, "network": Linear},
        ELBO(),
    ),
    "MNIST, Convolutional, D = 20": (MNIST(20), {"network": Convolutional}, ELBO()),
    "MNIST, FullRankNormal, D = 20": (MNIST(20), {"guide": FullRankNormal}, ELBO()),
    "MNIST, IAF, D = 20, IWAE of 5": (MNIST(20), {"guide": IAF}, IWAE(particles=5)),
    "MNIST, VampPrior of 500, D = 40": (MNIST(40), {"prior": VampPrior}, ELBO()),
    "MNIST, Hierarchical with Ladder, D = 20": (
        MNIST(20),
        {"model": Hierarchical, "guide": Ladder},
        ELBO(),
    ),
    "32 x 32 in colour, Residual, DiscretizedLogistic, D = 20": (
        Spec((3, 32, 32), "bytes", 20),
        {"network": Residual, "likelihood": DiscretizedLogistic},
        ELBO(),
    ),
}


def main(rounds: int = 5) -> None:
    """Measures every pair in turn and writes the table.

    Args:
        rounds: How many cold and as many warm processes for each; medians are quoted.
    """
    lines = [
        "# Seconds until a compiled step is ready",
        "",
        f"Made by `python benchmarks/compiling.py`: torch {torch.__version__},",
        f"{torch.get_num_threads()} CPU threads, batches of {BATCH}, float32, medians of {rounds}",
        "processes; cold is with an empty cache of inductor's, warm with a full one. Each is with",
        "its check against what it stands for.",
        "",
        "| pair | staging | compiling, cold | compiling, warm |",
        "|---|---|---|---|",
    ]
    for name in PAIRS:
        staging, cold, warm = [], [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for compiling in (cold, warm):
                    staged, compiled = _in_a_process(name, cache)
                    staging.append(staged)
                    compiling.append(compiled)
        columns = [f"{statistics.median(seconds):.1f}" for seconds in (staging, cold, warm)]
        lines.append(f"| {name} | {' | '.join(columns)} |")
        print(lines[-1], flush=True)
    with whole_file(TABLE) as file:
        file.write("\n".join([*lines, ""]).encode())


def _in_a_process(name: str, cache: str) -> tuple[float, float]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_seconds, name).result()


def _seconds(name: str) -> tuple[float, float]:
    """Of staging and of compiling, in this process."""
    torch.manual_seed(0)
    small = build_pair(Spec((1, 2, 2), "binary", 1), {**_DEFAULTS, "network": Linear})
    ELBO().loss(*small, torch.ones(1, 1, 2, 2)).backward()
    spec, pieces, objective = PAIRS[name]
    model, guide = build_pair(spec, {**_DEFAULTS, **pieces})
    x = _images(spec)
    began = time.perf_counter()
    staged = stage(model, guide, objective, (x,), _scheduled(objective))
    between = time.perf_counter()
    compile_staged(staged, (x,), _scheduled(objective))
    return between - began, time.perf_counter() - between


def _images(spec: Spec) -> Tensor:
    levels = torch.rand(BATCH, *spec.image_shape)
    return {"binary": levels.round(), "bytes": (255 * levels).round()}.get(spec.domain, levels)


def _scheduled(objective: Objective) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in objective.schedule(0.0).items()}


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
