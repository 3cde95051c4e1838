"""Failures during a training: one clear line, exit code 2, and the last good checkpoint."""

import errno
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from tiny_runs import LAST, OPTIONS, exit_code, tree

import ppl_vae.fit
from guides import DiagonalNormal
from models import Bernoulli
from ppl_vae import load
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.training.step import SVIStep
from ppl_vae.training.validation import validate

CALLS_BEFORE_NAN = 20


def test_a_stop_during_validation_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large images it takes long; the epoch's row is measured once the run goes on."""
    assert fit("--run", "whole") == 0

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        measured = validate(*arguments)
        assert measured is None
        return measured

    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.training.loop.validate", interrupted)
        assert fit("--run", "stopped") == 130
    assert len(Path("stopped/metrics.csv").read_text().splitlines()) <= 1
    assert exit_code(ppl_vae.fit, "--resume", "stopped") == 0
    for name in ("whole", "stopped"):
        assert len(Path(name, "metrics.csv").read_text().splitlines()) == 3
    assert Path("whole/metrics.csv").read_bytes() == Path("stopped/metrics.csv").read_bytes()


class NanAfterAWhile(Bernoulli):
    """A likelihood that is NaN from some call in training on."""

    calls = 0

    def forward(self, features):
        NanAfterAWhile.calls += self.training
        return super().forward(features * (torch.nan if self.calls > CALLS_BEFORE_NAN else 1.0))


class NanGuideAfterAWhile(DiagonalNormal):
    calls = 0

    def posterior(self, x):
        NanGuideAfterAWhile.calls += self.training
        q = super().posterior(x)
        factor = torch.nan if self.calls > CALLS_BEFORE_NAN else 1.0
        return dist.Normal(q.mean * factor, q.stddev).to_event(1)


def fit(*arguments: str) -> int:
    return exit_code(ppl_vae.fit, *OPTIONS, "--epochs", "2", *arguments)


@pytest.fixture(autouse=True)
def _named(
    monkeypatch: pytest.MonkeyPatch, no_pictures: None, empty_folder: Path
) -> Iterator[None]:
    """The classes above under a module name."""
    monkeypatch.setitem(sys.modules, "classes_of_stopping", sys.modules[__name__])
    yield
    for cls in (NanAfterAWhile, NanGuideAfterAWhile):
        cls.calls = 0


@pytest.mark.parametrize(
    ("arguments", "site"),
    [
        (["--likelihood", "classes_of_stopping.NanAfterAWhile"], "site 'x' in the model"),
        (["--guide", "classes_of_stopping.NanGuideAfterAWhile"], "site 'z' in the guide"),
    ],
)
def test_a_nan_while_it_trains(
    capsys: pytest.CaptureFixture[str], arguments: list[str], site: str
) -> None:
    assert fit(*arguments, "--run", "run", "--checkpoint_seconds", "0") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: training stopped in epoch ")
    assert f"the log-probability of {site} is not finite" in line
    assert "the last good checkpoint is kept" in line
    tensors, state = read_checkpoint(Path("run", LAST))
    assert 10 < state["steps"] <= CALLS_BEFORE_NAN
    assert all(value.isfinite().all() for name, value in tensors.items() if "random" not in name)
    run = load("run", allow_code=True)
    assert all(p.isfinite().all() for p in run.guide.parameters())
    assert not Path("run", "summary.json").exists()


def poison(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Makes a parameter NaN after so many steps."""
    original, done = SVIStep.__call__, 0

    def call(self: SVIStep, *arguments: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        loss = original(self, *arguments)
        if done == step:
            with torch.no_grad():
                self.parameters["model.decoder.layers.0.bias"][0] = torch.nan
        return loss

    monkeypatch.setattr(SVIStep, "__call__", call)


@pytest.mark.parametrize(
    ("step", "seconds", "saved"), [(5, "1000", 0), (13, "1000", 0), (6, "0", 5)]
)
def test_a_parameter_that_becomes_nan(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    seconds: str,
    saved: int,
) -> None:
    """In an epoch, in its last step, after which there is no other loss, and before it is saved."""
    poison(monkeypatch, step)
    assert fit("--run", "run", "--checkpoint_seconds", seconds) == 2
    assert "decoder.layers.0.bias is not finite" in capsys.readouterr().err.splitlines()[-1]
    assert read_checkpoint(Path("run", LAST))[1]["steps"] == saved
    load("run")


@pytest.mark.parametrize("after", [2, 3, 10, 17])
def test_a_disk_that_is_full(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    """From a flush of this number on: while the run is made, and later."""
    fsync, calls = os.fsync, 0

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert fit("--run", "runs/run", "--checkpoint_seconds", "0") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    written = "runs/run" if after < 6 else r"runs/run/(checkpoint\.safetensors|metrics\.csv)"
    assert re.fullmatch(
        f"error: cannot write {written}: No space left .*; choose another place", line
    )
    if after < 6:  # two each for the config, the first checkpoint and the metrics
        assert not tree()
    else:
        assert load("runs/run").spec.latent_dim == 2
        assert not list(Path("runs/run").glob(".*unfinished"))
        assert ppl_vae.fit.resume("runs/run").summary["epoch"] == 2


def test_a_real_limit_on_what_can_be_written(capfd: pytest.CaptureFixture[str]) -> None:
    """In a child: a file may grow to 4 KiB only, so that a checkpoint no longer fits."""
    assert fit("--run", "run") == 0
    good = tree()
    capfd.readouterr()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        code = 99
        try:
            ppl_vae.fit.main(["--resume", "run", "--device", "cpu"])
        except SystemExit as end:
            sys.stderr.flush()
            code = end.code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: cannot write run/checkpoint.safetensors: File too large")
    left = {name: content for name, content in tree().items() if "tensorboard" not in name}
    assert left == {name: content for name, content in good.items() if "tensorboard" not in name}
    load("run")
