"""What takes the steps of a training, and when it gives way to another."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
from pyro.distributions import TorchDistribution
from test_training import metrics, tiny
from torch import Tensor

import ppl_vae.fit
from guides import DiagonalNormal
from ppl_vae.training import engine
from ppl_vae.training.loop import Training


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures."""
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)


@pytest.mark.parametrize("captured", [[100], [100, 97]])
def test_a_captured_step_gets_the_indices_of_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured: list[int]
) -> None:
    """Of whole batches, and of the last one of an epoch where that is captured too."""
    sizes: list[int] = []

    class Replayed:
        """What a captured step does on a GPU, without one."""

        def __init__(self, training: Training) -> None:
            self.training = training

        def __call__(self, batch: Any, *rest: Any) -> Tensor:
            sizes.append(len(batch[0]))
            return self.training.step(self.training.data.train.batch(batch[0], False), *rest)

    def compile_(training: Training) -> None:
        training.captured = dict.fromkeys(captured, Replayed(training))

    plain = tiny(tmp_path / "plain", engine="eager")
    monkeypatch.setattr(engine, "compile_steps", compile_)
    replayed = tiny(tmp_path / "replayed", engine="compiled")
    assert len(plain.data.train) == 1297
    assert sizes == 2 * [*(12 * [100]), *captured[1:]]
    assert metrics(replayed.path) == metrics(plain.path)


class Annealed(DiagonalNormal):
    """Draws from a wider distribution in its first epochs, which it counts itself."""

    epochs = 0

    def train(self, mode: bool = True) -> "Annealed":
        self.epochs += mode
        return super().train(mode)

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(q.mean, q.stddev * (3.0 if self.epochs < 5 else 1.0)).to_event(1)


def test_a_graph_is_dropped_where_a_program_follows_the_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {}
    for name in ("eager", "compiled"):
        run = tiny(tmp_path / name, engine=name, guide=Annealed, epochs=6)
        losses[name] = [row["loss_nats_per_datum"] for row in metrics(run.path)]
    said = [line for line in capsys.readouterr().err.splitlines() if "engine: " in line]
    assert said[1:] == [
        "engine: eager from now on, because guide.epochs changed in Python; make it a buffer"
    ]
    np.testing.assert_allclose(losses["compiled"], losses["eager"], rtol=1e-4)


def test_a_graph_stays_where_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny(tmp_path / "run", engine="compiled", epochs=3)
    assert run.summary["engine"] == "compiled"
    assert "engine: eager" not in capsys.readouterr().err
