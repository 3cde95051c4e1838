"""The engines of a training, and when one gives way to another."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from comparing import assert_equal
from pyro.distributions import TorchDistribution
from tiny_runs import Annealed, metrics, tiny
from torch import Tensor

from guides import DiagonalNormal
from models import MLP, NetworkFactory, Spec
from ppl_vae.training import engine
from ppl_vae.training.loop import Training

pytestmark = pytest.mark.usefixtures("no_pictures", "traced_steps")


@pytest.mark.parametrize("captured", [[100], [100, 97]])
def test_a_captured_step_gets_the_indices_of_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured: list[int]
) -> None:
    """Of whole batches, and of the last one of an epoch where that is captured too."""
    sizes: list[int] = []

    class Replayed:
        """Stands for a captured step, without a GPU."""

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


def test_a_graph_is_dropped_where_a_program_follows_the_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {}
    for name in ("eager", "compiled"):
        run = tiny(tmp_path / name, engine=name, guide=Annealed, epochs=6)
        losses[name] = [row["loss_nats_per_datum"] for row in metrics(run.path)]
    said = [line for line in capsys.readouterr().err.splitlines() if "engine: " in line]
    assert said[1:] == [
        "engine: eager from now on, because the pair changed since it was compiled; keep its state "
        "in buffers"
    ]
    np.testing.assert_allclose(losses["compiled"], losses["eager"], rtol=1e-4)


def test_a_graph_stays_where_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny(tmp_path / "run", engine="compiled", epochs=3)
    assert run.summary["engine"] == "compiled"
    assert "engine: eager" not in capsys.readouterr().err


class Refused(DiagonalNormal):
    """Keeps its weights small itself, and widens by a count that no graph has."""

    def __init__(self, spec: Spec, network: NetworkFactory = MLP) -> None:
        super().__init__(spec, network)
        self.kept = {"calls": [0]}

    def posterior(self, x: Tensor) -> TorchDistribution:
        self.kept["calls"][0] += 1
        with torch.no_grad():
            self.encoder.layers[0].weight.mul_(1 - 0.1 / self.kept["calls"][0])
        q = super().posterior(x)
        return dist.Normal(q.mean, q.stddev + 0.1 / self.kept["calls"][0]).to_event(1)


def test_a_compile_that_is_refused_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tiny(tmp_path / name, engine=name, guide=Refused) for name in ("eager", "compiled")]
    assert "engine: eager, because the pair changes guide.kept in Python" in capsys.readouterr().err
    states = [{**run.model.state_dict(), **run.guide.state_dict()} for run in runs]
    assert_equal(*states)
    assert metrics(runs[0].path) == metrics(runs[1].path)
