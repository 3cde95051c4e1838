"""Runs that take a second, their metrics, and a guide that follows the epochs."""

import csv
from functools import partial
from pathlib import Path

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides import DiagonalNormal
from models import MLP
from ppl_vae.fit import fit
from ppl_vae.runs.run import Run

__all__ = ["TINY", "Annealed", "metrics", "tiny"]

TINY = partial(MLP, hidden=(8,))


def tiny(path: Path, **options) -> Run:
    return fit(**{"network": TINY, "latent_dim": 2, "epochs": 2, "run": path} | options)


def metrics(path: Path) -> list[dict[str, float]]:
    with open(path / "metrics.csv") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Annealed(DiagonalNormal):
    """Draws from a wider distribution in its first epochs, which it counts itself."""

    epochs = 0

    def train(self, mode: bool = True) -> "Annealed":
        self.epochs += mode
        return super().train(mode)

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(q.mean, q.stddev * (3.0 if self.epochs < 5 else 1.0)).to_event(1)
