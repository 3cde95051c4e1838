"""Runs that go on beyond their plan."""

from functools import partial
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from comparing import assert_same
from tiny_runs import LAST, Crash, at_step, crash, exit_code, metrics, tiny

import ppl_vae.fit
from ppl_vae import load
from ppl_vae.errors import InputError
from ppl_vae.fit import fit, resume
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.training.step import SVIStep

pytestmark = pytest.mark.usefixtures("no_pictures")

PER_EPOCH = 4  # 1,297 images in batches of 400
small = partial(tiny, epochs=2, batch_size=400, checkpoint_seconds=0.0)


def config_of(path: Path) -> dict:
    return yaml.safe_load((path / "config.yaml").read_text())


def test_the_rate_decays_again_over_the_epochs_that_are_added(tmp_path: Path) -> None:
    path = small(tmp_path / "run", learning_rate=0.01, warmup_epochs=0).path
    extended = resume(path, epochs=5)
    assert [row["epoch"] for row in metrics(path)] == [1, 2, 3, 4, 5]
    assert extended.config == config_of(path)
    assert (extended.config["epochs"], extended.config["restart_epochs"]) == (5, [2])
    ends = np.array([4, 8, 4, 8, 12]) - 1  # the last step of each epoch in its cycle
    cycles = np.array([8, 8, 12, 12, 12])
    expected = [
        0.005 * (1 + cos(pi * end / cycle)) for end, cycle in zip(ends, cycles, strict=True)
    ]
    np.testing.assert_allclose([row["learning_rate"] for row in metrics(path)], expected)
    assert extended.summary["epoch"] == 5


@pytest.mark.parametrize("step", [0, 3, 6])
def test_it_is_the_run_that_was_planned_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whenever the epochs are added: before the end of the plan, after step 3 or 6, or at it."""
    planned = small(tmp_path / "planned", epochs=4, warmup_epochs=0.2, restart_epochs=[2]).path
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        if step:
            patch.setattr(SVIStep, "__call__", at_step(step, crash))
            with pytest.raises(Crash):
                small(path)  # a warm-up of a tenth of two epochs
        else:
            small(path)
    torch.manual_seed(77)
    resume(path, epochs=4)
    assert_same(path, planned)
    again = fit_from(path, tmp_path / "again")
    assert_same(again, planned)


def fit_from(path: Path, other: Path) -> Path:
    """A new run by the config of another."""
    arguments = ["--config", str(path / "config.yaml"), "--run", str(other)]
    assert exit_code(ppl_vae.fit, *arguments) == 0
    return other


def test_a_run_that_was_extended_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = small(tmp_path / "whole").path, small(tmp_path / "run").path
    resume(whole, epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(6, crash))
        with pytest.raises(Crash):
            resume(path, epochs=4)
    assert read_checkpoint(path / LAST)[1]["steps"] == 2 * PER_EPOCH + 5
    assert not (path / "summary.json").exists()  # it would be that of a run at its end
    resume(path)
    assert_same(path, whole)
    assert config_of(path) == config_of(whole)


def test_it_may_be_extended_again_and_again(tmp_path: Path) -> None:
    path = small(tmp_path / "run", epochs=1).path
    for epochs in (2, 3):
        resume(path, epochs=epochs)
    assert config_of(path)["restart_epochs"] == [1, 2]
    assert_same(path, small(tmp_path / "planned", epochs=3, restart_epochs=[1, 2]).path)


def test_as_many_epochs_as_planned_are_no_more(tmp_path: Path) -> None:
    path = small(tmp_path / "run").path
    before = (path / LAST).read_bytes(), (path / "config.yaml").read_bytes()
    resume(path, epochs=2)
    assert (path / "config.yaml").read_bytes() == before[1]
    assert_same(path, small(tmp_path / "other").path)


@pytest.mark.parametrize("epochs", [1, 0, -3, 2.5, "4", True])
def test_fewer_epochs_are_refused(tmp_path: Path, epochs) -> None:
    path = small(tmp_path / "run").path
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(InputError) as caught:
        resume(path, epochs=epochs)
    message = str(caught.value)
    assert "\n" not in message
    assert "--epochs" in message
    assert message.endswith(f"; got {epochs!r}")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_plan_is_not_made_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(6, crash))
        with pytest.raises(Crash):
            small(path, epochs=4)
    with pytest.raises(InputError, match=r"expected --epochs > 4, those .* is planned for.*got 3"):
        resume(path, epochs=3)


def test_patience_counts_again_and_the_best_epoch_stays(tmp_path: Path) -> None:
    """A run that stopped early, at a rate that spoils what it has learned."""
    options = {"learning_rate": 0.5, "schedule": "constant", "patience": 2, "warmup_epochs": 0}
    path = small(tmp_path / "run", epochs=30, **options).path
    done = len(metrics(path))
    assert done < 30
    best = (path / "best.safetensors").read_bytes()
    resume(path)  # it has ended
    assert len(metrics(path)) == done
    resume(path, epochs=done + 1)
    assert config_of(path)["restart_epochs"] == [done]
    elbos = [row["validation_elbo_nats_per_datum"] for row in metrics(path)]
    assert len(elbos) == done + 1
    kept = load(path).summary["epoch"]
    assert kept == 1 + elbos.index(max(elbos))
    if kept < done:
        assert (path / "best.safetensors").read_bytes() == best
    resume(path, epochs=30)
    later = len(metrics(path))
    assert done + 1 + 2 <= later


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "run").path
    assert exit_code(ppl_vae.fit, "--resume", str(path), "--epochs", "3") == 0
    assert len(metrics(path)) == 3
    assert exit_code(ppl_vae.fit, "--resume", str(path)) == 0
    assert len(metrics(path)) == 3
    assert exit_code(ppl_vae.fit, "--resume", str(path), "--epochs=1") == 2


def test_a_summary_is_that_of_all_epochs(tmp_path: Path) -> None:
    path = small(tmp_path / "run").path
    before = load(path).summary
    assert resume(path, epochs=3).summary["steps"] == before["steps"] + PER_EPOCH


def test_a_restart_is_an_option_of_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected --restart_epochs to ascend.*got \[3\]"):
        fit(run=tmp_path / "run", epochs=3, restart_epochs=[3])
