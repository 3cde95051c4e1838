"""Runs that take a second: in Python, by command lines, and interrupted."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

import ppl_vae.fit
from guides import DiagonalNormal
from models import MLP, Network
from ppl_vae import load
from ppl_vae.errors import InputError
from ppl_vae.fit import fit
from ppl_vae.runs.run import Run
from ppl_vae.training.step import SVIStep

__all__ = [
    "LAST", "OPTIONS", "TINY", "Annealed", "Crash", "Tied", "at_step", "crash",
    "crash_in_second_epoch", "exit_code", "load_refuses", "metrics", "python", "tiny", "tree",
    "without_pictures",
]  # fmt: skip

LAST = "checkpoint.safetensors"
TINY = partial(MLP, hidden=(8,))
OPTIONS = ["--network.hidden", "[8]", "--latent_dim", "2", "--epochs", "1", "--device", "cpu"]


class Crash(BaseException):
    """Stops a run without giving it a chance to save anything more."""


def tiny(path: Path, **options) -> Run:
    return fit(**{"network": TINY, "latent_dim": 2, "epochs": 2, "run": path} | options)


def at_step(number: int, what: Any) -> Any:
    """`SVIStep.__call__` that does something once, before its step of this number."""
    steps = 0
    original = SVIStep.__call__

    def call(self: SVIStep, *arguments: Any) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == number:
            what()
        return original(self, *arguments)

    return call


def crash() -> None:
    raise Crash


@contextmanager
def crash_in_second_epoch(*_: Any) -> Iterator[Any]:
    """In the place of `ppl_vae.runs.metrics.events`: crashes at the end of that epoch."""

    def log_event(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            crash()

    yield log_event


@contextmanager
def without_pictures() -> Iterator[None]:
    """A training draws nothing, which takes longer than a small one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ppl_vae.fit,
            "draw_pictures",
            lambda run, rows: (run.path / "pictures").mkdir(exist_ok=True),
        )
        yield


def exit_code(verb: Any, *arguments: str) -> int:
    """That of a verb's command line, given its module or its `main`."""
    with pytest.raises(SystemExit) as end:
        getattr(verb, "main", verb)([*arguments])
    return end.value.code


def python(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """The interpreter with these arguments, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, **options
    )


def tree() -> dict[str, bytes | None]:
    """The content of every file below the current folder; None of a folder."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(Path().rglob("*"))
    }


def load_refuses(path: Path, *said: str, allow_code: bool = False) -> None:
    """Loading a run is refused in one line with all of what is named."""
    with pytest.raises(InputError) as caught:
        load(path, allow_code=allow_code)
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


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


class Tied(Network):
    """A network that has one layer under two names, which its cast parameters do not reach."""

    def __init__(self, inputs, outputs, hidden: Sequence[int] = (8,)) -> None:
        super().__init__(inputs, outputs)
        self.first, self.last = nn.Linear(prod(inputs), 8), nn.Linear(8, prod(outputs))
        self.middle = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def compute(self, x):
        return self.last(self.middle(self.first(x.flatten(1))))
