"""The running mean of the parameters, against its sum."""

from pathlib import Path

import pytest
import torch
from tiny_runs import metrics, tiny
from torch import Tensor, nn

from ppl_vae import load
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.runs.run import Run
from ppl_vae.training.averaging import Average
from ppl_vae.training.step import SVIStep
from ppl_vae.training.validation import validate

DECAY = 0.9
GO, SKIP = torch.tensor(0.0), torch.tensor(1.0)


def mean_of(values: list[Tensor]) -> Tensor:
    weights = DECAY ** torch.arange(len(values) - 1, -1, -1, dtype=torch.float64)
    stacked = torch.stack(values).double()
    return torch.einsum("i,i...->...", weights / weights.sum(), stacked)


def test_it_is_the_sum() -> None:
    parameter = nn.Parameter(torch.full((3,), 7.0, dtype=torch.float64))
    average = Average({"p": parameter}, DECAY)
    with average.in_place():  # before the first update there is no mean
        assert torch.equal(parameter, torch.full((3,), 7.0, dtype=torch.float64))
    values = [torch.randn(3, dtype=torch.float64) for _ in range(40)]
    for number, value in enumerate(values, 1):
        parameter.data.copy_(value)
        average.update(GO if number % 2 else None)
        with average.in_place():
            # The weights are float32.
            torch.testing.assert_close(parameter, mean_of(values[:number]), rtol=1e-5, atol=1e-6)
        assert torch.equal(parameter, value)
    average.keep()
    torch.testing.assert_close(parameter, mean_of(values), rtol=1e-5, atol=1e-6)


def test_a_skipped_update_does_not_count() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = Average({"p": parameter}, DECAY)
    average.update(SKIP)
    assert average.state()["averaged"] == 0
    average.update(GO)
    before = {name: value.clone() for name, value in average.state().items()}
    parameter.data.fill_(5.0)
    average.update(SKIP)
    for name in ("averaged", "average.p"):
        assert torch.equal(average.state()[name], before[name])


@pytest.mark.usefixtures("no_pictures")
def test_a_run_has_the_mean_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what is kept, measured and loaded; training goes as without it."""
    plain = tiny(tmp_path / "plain", batch_size=500)
    passed: list[dict[str, Tensor]] = []
    original = SVIStep.__call__

    def call(self: SVIStep, *arguments) -> Tensor:
        loss = original(self, *arguments)
        passed.append({name: p.detach().clone() for name, p in self.parameters.items()})
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", call)
        run = tiny(tmp_path / "run", batch_size=500, average=DECAY)
    expected = {name: mean_of([each[name] for each in passed]) for name in passed[0]}
    tensors, _ = read_checkpoint(run.path / "checkpoint.safetensors")
    loaded = load(run.path)
    for name, value in expected.items():
        program, _, rest = name.partition(".")
        for of_run in (run, loaded):
            got = getattr(of_run, program).get_parameter(rest)
            torch.testing.assert_close(got.double(), value, rtol=1e-4, atol=1e-6)
        trained = getattr(plain, program).get_parameter(rest)
        assert torch.equal(tensors[f"optimizer.trained.{name}"], trained)
        assert not torch.equal(tensors[name], trained)
    losses = [[row["loss_nats_per_datum"] for row in metrics(each.path)] for each in (plain, run)]
    assert losses[0] == losses[1]
    assert metrics(run.path)[-1]["validation_elbo_nats_per_datum"] == elbo_of(loaded)


def elbo_of(run: Run) -> float:
    step = SVIStep(run.model, run.guide, run.pieces["objective"])
    return validate(step, run.data.validation)[0]["validation_elbo_nats_per_datum"]


@pytest.mark.usefixtures("no_pictures")
def test_the_best_mean_is_kept_under_patience(tmp_path: Path) -> None:
    run = tiny(
        tmp_path / "run",
        epochs=20,
        learning_rate=0.3,
        schedule="constant",
        patience=2,
        average=DECAY,
    )
    elbos = [row["validation_elbo_nats_per_datum"] for row in metrics(run.path)]
    assert elbos.index(max(elbos)) < len(elbos) - 1
    for each in (run, load(run.path)):
        assert elbo_of(each) == max(elbos)
