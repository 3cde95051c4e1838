"""Functions of the caller's own, called after each epoch."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import assert_same
from tiny_runs import LAST, Crash, at_step, crash, metrics, tiny

from ppl_vae.evaluate import evaluate
from ppl_vae.fit import resume
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.runs.run import Run
from ppl_vae.training.step import SVIStep

pytestmark = pytest.mark.usefixtures("no_pictures")

small = partial(tiny, epochs=3, batch_size=400, checkpoint_seconds=1000.0)

Rows = list[dict[str, Any]]


def test_each_epoch_is_told_with_its_metrics(tmp_path: Path) -> None:
    """Nothing that is done then changes the run, and the pair is in evaluation mode."""
    told: list[tuple[Run, dict[str, Any]]] = []

    def look(run: Run, row: dict[str, Any]) -> None:
        told.append((run, dict(row)))
        assert not any(module.training for module in (run.model, run.guide))
        elbo = evaluate(run, particles=2, split="validation")["elbo_nats_per_datum"]
        assert elbo == pytest.approx(row["validation_elbo_nats_per_datum"], abs=2.0)
        run.model(size=3), torch.rand(5), np.random.rand(5), random.random()
        row.clear()

    run = small(tmp_path / "run", on_epoch=look)
    assert [each for each, _ in told] == [run] * 3
    assert [row for _, row in told] == metrics(run.path)
    assert_same(run.path, small(tmp_path / "plain").path)


def test_the_mean_of_the_parameters_is_what_is_looked_at(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def look(run: Run, row: dict[str, Any]) -> None:
        seen.append(run.guide.encoder.layers[0].weight.detach().clone())

    run = small(tmp_path / "run", on_epoch=look, average=0.9)
    tensors, _ = read_checkpoint(run.path / LAST)
    assert torch.equal(tensors["guide.encoder.layers.0.weight"], seen[-1])


def test_a_run_ends_when_its_caller_says_so(tmp_path: Path) -> None:
    given: list[Rows] = []

    def enough(rows: Rows) -> bool:
        given.append(rows)
        return len(rows) == 2

    run = small(tmp_path / "run", epochs=5, stop_when=enough)
    rows = metrics(run.path)
    assert given == [rows[:1], rows]
    assert run.summary["epoch"] == 2
    before = {file: file.read_bytes() for file in run.path.glob("*.csv")}
    resume(run.path)  # it is finished
    assert {file: file.read_bytes() for file in run.path.glob("*.csv")} == before
    assert not any(module.training for module in (run.model, run.guide))
    resume(run.path, epochs=4)
    assert len(metrics(run.path)) == 4


@pytest.mark.parametrize("name", ["on_epoch", "stop_when"])
def test_an_error_of_the_caller_loses_nothing(tmp_path: Path, name: str) -> None:
    """The epoch is saved; the run goes on to the end that it would have had."""
    calls: list[int] = []

    def fail(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("in the caller's own code")

    path = tmp_path / "run"
    with pytest.raises(ZeroDivisionError, match="in the caller's own code"):
        small(path, average=0.9, **{name: fail})
    assert len(read_checkpoint(path / LAST)[1]["rows"]) == len(metrics(path)) == 2
    resume(path, **{name: fail})
    assert len(calls) == 3
    assert_same(path, small(tmp_path / "whole", average=0.9).path)


def test_a_run_that_crashed_calls_for_the_epochs_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "run", []
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(6, crash))
        with pytest.raises(Crash):
            small(path, checkpoint_seconds=0.0)
    resume(
        path,
        on_epoch=lambda run, row: told.append(row["epoch"]),
        stop_when=lambda rows: len(rows) == 2,
    )
    assert told == [2]
    assert len(metrics(path)) == 2
