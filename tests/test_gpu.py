"""The same on a GPU: training, resume, and reading the run elsewhere."""

import warnings
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch
from tiny_runs import Annealed, metrics, tiny

import ppl_vae
from guides import DiagonalNormal
from models import MLP, VAE, Convolutional, Spec
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit, resume
from ppl_vae.objectives import ELBO
from ppl_vae.runs.settings import Optimizer
from ppl_vae.training.adam import Rule
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.step import SVIStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(
    "network", [partial(MLP, hidden=(16,)), partial(Convolutional, channels=(4,), hidden=8)]
)
def test_a_run_on_a_gpu(tmp_path: Path, engine: str, network) -> None:
    options = {"network": network, "latent_dim": 2, "epochs": 2, "device": "cuda"}
    runs = [fit(run=tmp_path / name, engine=engine, **options) for name in ("a", "b")]
    metrics = [(run.path / "metrics.csv").read_bytes() for run in runs]
    assert metrics[0] == metrics[1]
    assert next(runs[0].model.parameters()).is_cuda
    assert runs[0].summary["engine"] == ("captured" if engine == "compiled" else "eager")
    resume(runs[0].path)
    assert (runs[0].path / "metrics.csv").read_bytes() == metrics[0]
    here, there = (ppl_vae.load(runs[0].path, device=device) for device in ("cpu", "cuda"))
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(a, b.cpu())
    results = [evaluate(run, particles=200) for run in (here, there)]
    name = "log_likelihood_nats_per_datum"
    # The same images, other draws: 300 images of 200 draws, and float32.
    assert abs(results[0][name] - results[1][name]) < 0.1


def test_all_batches_are_replayed(tmp_path: Path, monkeypatch) -> None:
    sizes: list[int] = []
    replay = CapturedStep.__call__

    def record(self, batch, *rest):
        sizes.append(len(batch[0]))
        return replay(self, batch, *rest)

    monkeypatch.setattr(CapturedStep, "__call__", record)
    options = {"network": partial(MLP, hidden=(16,)), "latent_dim": 2, "epochs": 3}
    captured = fit(run=tmp_path / "captured", engine="compiled", device="cuda", **options)
    assert sizes == 3 * [*(12 * [100]), 97]
    eager = fit(run=tmp_path / "eager", engine="eager", device="cuda", **options)
    names = ["elbo_nats_per_datum", "rate_nats_per_datum"]
    results = [evaluate(run, particles=200) for run in (captured, eager)]
    for name in names:
        assert abs(results[0][name] - results[1][name]) < 0.05  # float32, the same noise


def test_products_with_rounded_operands(tmp_path: Path) -> None:
    """Ten bits of mantissa are left, so that the losses differ a little."""
    losses = []
    for precision in ("float32", "tensorfloat32"):
        run = tiny(
            tmp_path / precision, precision=precision, engine="compiled", device="cuda",
            network=partial(MLP, hidden=(64,)),
        )  # fmt: skip
        assert run.summary["engine"] == "captured"
        losses.append([row["loss_nats_per_datum"] for row in metrics(run.path)])
        assert not torch.backends.cuda.matmul.allow_tf32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_captured_step_is_dropped_where_a_program_follows_the_epochs(tmp_path: Path) -> None:
    options = {"guide": Annealed, "epochs": 6, "device": "cuda"}
    runs = [tiny(tmp_path / name, engine=name, **options) for name in ("eager", "compiled")]
    assert runs[1].summary["engine"] == "eager"
    losses = [[row["loss_nats_per_datum"] for row in metrics(run.path)] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # float32, summed in another order


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_a_captured_run_takes_the_updates_of_the_programs(tmp_path: Path, name: Optimizer) -> None:
    options = {"optimizer": name, "weight_decay": 0.01, "clip_norm": 1.0, "average": 0.9}
    runs = [
        tiny(tmp_path / engine, engine=engine, device="cuda", **options)
        for engine in ("eager", "compiled")
    ]
    assert runs[1].summary["engine"] == "captured"
    losses = [[row["loss_nats_per_datum"] for row in metrics(run.path)] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # float32, summed in another order


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_a_replayed_step_reads_nothing_from_the_device(name: Optimizer) -> None:
    spec = Spec((1, 5, 4), "binary", 3)
    step = SVIStep(
        VAE(spec).cuda(), DiagonalNormal(spec).cuda(), ELBO(), rule=Rule(name), clip_norm=1.0,
        average=0.9,
    )  # fmt: skip
    images = torch.rand(64, 1, 5, 4, device="cuda").round()
    index = torch.arange(16, device="cuda")
    captured = CapturedStep(step, lambda i: (images[i],), index)
    before = {name: p.detach().clone() for name, p in step.parameters.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = [captured((index + 16 * k,), 1e-3).clone() for k in range(4)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()
    assert len(set(torch.stack(losses).tolist())) == 4
    for name, parameter in step.parameters.items():
        assert not torch.equal(parameter, before[name]), name
