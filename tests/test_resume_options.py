"""Runs with other updates, schedules and averages go on bit for bit, under every engine."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pyro
import pytest
import torch
from comparing import assert_same
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from tiny_runs import LAST, Crash, at_step, crash, tiny, without_pictures
from torch import Tensor

from guides import DiagonalNormal
from models import VAE, Spec
from ppl_vae.fit import resume
from ppl_vae.objectives import ELBO
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.runs.settings import Optimizer
from ppl_vae.training.adam import FAMILY, Rule
from ppl_vae.training.step import SVIStep

pytestmark = pytest.mark.usefixtures("no_pictures")

# 1,297 images in batches of 400 are four steps an epoch.
small = partial(tiny, epochs=3, batch_size=400, checkpoint_seconds=0.0)

OPTIONS: list[dict[str, Any]] = [
    *({"optimizer": name, "weight_decay": 0.01} for name in get_args(Optimizer)),
    {"adam_beta1": 0.5, "adam_beta2": 0.99, "adam_epsilon": 1e-4},
    {"clip_norm": 0.5},
    {"skip_norm": 20.0, "average": 0.9},
    {"schedule": "constant"},
    {"schedule": "step", "restart_epochs": [1], "warmup_epochs": 0},
    {"average": 0.9, "patience": 1, "learning_rate": 0.1},
    {"optimizer": "NAdam", "clip_norm": 0.5, "average": 0.9, "restart_epochs": [1, 2]},
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the options that are there by default."""
    with without_pictures():
        return small(tmp_path_factory.mktemp("plain") / "run").path


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("step", [2, 7])
def test_a_run_that_crashed_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: Path,
    options: dict[str, Any],
    step: int,
) -> None:
    whole, path = small(tmp_path / "whole", **options).path, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(step, crash))
        with pytest.raises(Crash):
            small(path, **options)
    assert read_checkpoint(path / LAST)[1]["steps"] == step - 1
    torch.manual_seed(77)  # the process that goes on is another one
    resume(path)
    assert_same(path, whole)
    assert (path / "metrics.csv").read_text() != (plain / "metrics.csv").read_text()


@pytest.mark.usefixtures("traced_steps")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_graph_takes_the_steps_of_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """To the last bit where it is as it was traced; and it goes on bit for bit."""
    eager = small(tmp_path / "eager", **options).path
    whole, path = tmp_path / "whole", tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(6, partial(shutil.copytree, whole, path)))
        run = small(whole, engine="compiled", **options)
    assert run.summary["engine"] == "compiled"
    assert (whole / "metrics.csv").read_bytes() == (eager / "metrics.csv").read_bytes()
    assert read_checkpoint(path / LAST)[1]["steps"] == 5
    resume(path)
    assert_same(path, whole)


@pytest.mark.parametrize("name", FAMILY)
def test_steps_are_those_of_stock_pyro(name: Optimizer) -> None:
    spec = Spec((1, 3, 2), "binary", 2)
    x = torch.rand(10, 1, 3, 2).round()
    torch.manual_seed(0)
    step = SVIStep(VAE(spec), DiagonalNormal(spec), ELBO(), rule=Rule(name, weight_decay=0.01))
    torch.manual_seed(0)
    model, guide = VAE(spec), DiagonalNormal(spec)
    options = {"lr": 1e-2, "weight_decay": 0.01}
    svi = SVI(
        pyro.poutine.scale(model, 1 / len(x)),
        pyro.poutine.scale(guide, 1 / len(x)),
        PyroOptim(getattr(torch.optim, name), options),
        Trace_ELBO(),
    )
    for number in range(8):
        torch.manual_seed(number)
        loss = step((x,), 1e-2)
        torch.manual_seed(number)
        assert loss.item() == pytest.approx(svi.step(x), rel=1e-5)
    for ours, pyros in ((step.model, model), (step.guide, guide)):
        for parameter, value in zip(ours.parameters(), pyros.parameters(), strict=True):
            torch.testing.assert_close(parameter, value, rtol=1e-4, atol=1e-5)


class Broken(DiagonalNormal):
    """Its loss is not finite."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x * torch.nan)


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_a_loss_that_is_not_finite_updates_nothing(name: Optimizer) -> None:
    spec = Spec((1, 3, 2), "binary", 2)
    rule = Rule(name, weight_decay=0.1)
    step = SVIStep(VAE(spec), Broken(spec), ELBO(), rule=rule, clip_norm=1.0, average=0.9)
    before = {name: value.clone() for name, value in step.state().items()}
    with pyro.validation_enabled(False):
        assert not step((torch.ones(5, 1, 3, 2),), 0.1).isfinite()
    for key, value in step.state().items():
        assert torch.equal(value, before[key]), key
