"""The bound that an objective of several particles raises, on the validation images."""

import csv
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny_runs import metrics, tiny

import ppl_vae.pictures.plots as plots
from ppl_vae import load
from ppl_vae.data import Arrays
from ppl_vae.densities.weights import log_weights
from ppl_vae.errors import InputError
from ppl_vae.fit import resume
from ppl_vae.machine.randomness import seeded
from ppl_vae.objectives import ELBO, IWAE, Renyi
from ppl_vae.runs.metrics import ELBO_COLUMN, IWAE_COLUMN, epochs_since_best, write_metrics
from ppl_vae.runs.run import Run
from ppl_vae.training import validation
from ppl_vae.training.step import SVIStep
from ppl_vae.training.summary import report
from ppl_vae.training.validation import validate

PARTICLES = 8

pytestmark = pytest.mark.usefixtures("no_pictures")


def stepping(run: Run) -> SVIStep:
    return SVIStep(run.model, run.guide, run.pieces["objective"])


@pytest.mark.parametrize("objective", [IWAE(PARTICLES, "dreg", 2), Renyi(0, PARTICLES)], ids=str)
def test_it_is_the_mean_of_log_mean_weights(tmp_path: Path, objective, capsys) -> None:
    run = load(tiny(tmp_path / "run", objective=objective, epochs=2).path)
    row = metrics(run.path)[-1]
    with torch.no_grad(), seeded(run.device, validation._SEED):
        x = run.data.validation[:]
        weights = log_weights(run.model, run.guide, x, PARTICLES).double()
    expected = (weights.logsumexp(0) - log(PARTICLES)).mean().item()
    assert row[IWAE_COLUMN] == pytest.approx(expected, abs=1e-4)
    assert row[IWAE_COLUMN] > row[ELBO_COLUMN]
    assert run.summary[IWAE_COLUMN] == row[IWAE_COLUMN]
    value = f"{row[IWAE_COLUMN]:.2f} nats per datum"
    assert f"IWAE bound, {PARTICLES} particles {value}" in " ".join(report(run).split())
    assert f"epoch 2  IWAE bound {value}" in capsys.readouterr().err


def test_many_draws_take_some_of_the_images(tmp_path: Path, monkeypatch) -> None:
    run = load(tiny(tmp_path / "run", objective=IWAE(PARTICLES), epochs=1).path)
    images = run.data.validation
    third = images.select(torch.arange(0, len(images), 3))
    all_of_third, _ = validate(stepping(run), third)
    whole, _ = validate(stepping(run), images)
    monkeypatch.setattr(validation, "_MOST_DRAWS", len(images) * PARTICLES // 3 + 1)
    some, bad = validate(stepping(run), images)
    assert some[IWAE_COLUMN] == all_of_third[IWAE_COLUMN] != whole[IWAE_COLUMN]
    assert some[ELBO_COLUMN] == whole[ELBO_COLUMN]
    assert not bad.any()

    measure = validation.estimate

    def infinite(model: Any, guide: Any, split: Any, *rest: Any, **options: Any) -> Any:
        estimates = measure(model, guide, split, *rest, **options)
        if len(split) < len(images):
            estimates.log_likelihood[5] = -torch.inf
        return estimates

    monkeypatch.setattr(validation, "estimate", infinite)
    some, bad = validate(stepping(run), images)
    assert some[IWAE_COLUMN] == -torch.inf
    assert bad.nonzero().tolist() == [[15]]


@pytest.mark.parametrize("objective", [ELBO(PARTICLES), IWAE(1), Renyi(0.5, 4)], ids=str)
def test_other_objectives_have_the_elbo_alone(tmp_path: Path, objective) -> None:
    (row,) = metrics(tiny(tmp_path / "run", objective=objective, epochs=1).path)
    assert ELBO_COLUMN in row
    assert IWAE_COLUMN not in row


def test_patience_keeps_its_best_epoch(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((100, 4, 4)) > 0.5
    np.save(tmp_path / "noise.npy", images)
    run = tiny(
        tmp_path / "run",
        data=Arrays(path=tmp_path / "noise.npy"),
        objective=IWAE(PARTICLES),
        epochs=60,
        batch_size=20,
        learning_rate=0.03,
        patience=3,
    )
    bounds = [row[IWAE_COLUMN] for row in metrics(run.path)]
    best = bounds.index(max(bounds))
    assert len(bounds) == best + 1 + 3 < 60
    assert run.summary["epoch"] == best + 1
    assert run.summary["trained_epochs"] == len(bounds)
    said = " ".join(report(run).split())
    assert f"kept the best epoch, {best + 1} of {len(bounds)} training" in said
    assert f"training {4 * len(bounds)} steps in" in said
    assert validate(stepping(run), run.data.validation)[0][IWAE_COLUMN] == bounds[best]


def test_patience_takes_the_bound_where_the_elbo_says_otherwise() -> None:
    elbos, bounds = (-1.0, -2.0, -1.5), (-3.0, -2.0, -2.5)
    rows = [{ELBO_COLUMN: e, IWAE_COLUMN: b} for e, b in zip(elbos, bounds, strict=True)]
    assert epochs_since_best(rows) == 1
    assert epochs_since_best([{ELBO_COLUMN: elbo} for elbo in elbos]) == 2
    assert epochs_since_best([{ELBO_COLUMN: -1.2}, *rows]) == 2  # goes on by the ELBO
    assert epochs_since_best([]) == 0


def test_a_run_that_began_without_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(IWAE, "bound_particles", 1)
        run = tiny(tmp_path / "run", objective=IWAE(PARTICLES), epochs=1, patience=9)
    resume(run.path, epochs=2)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first[IWAE_COLUMN] == ""
    assert float(second[IWAE_COLUMN]) > float(second[ELBO_COLUMN])


@pytest.mark.parametrize(
    ("objective", "label"), [("IWAE", "training"), ("Mine", "training: minus the loss, Mine")]
)
def test_its_line_is_beside_that_of_the_training_images(
    tmp_path: Path, monkeypatch, objective: str, label: str
) -> None:
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    row = {"loss_nats_per_datum": 7.0, ELBO_COLUMN: -30.0}
    rows = [{"epoch": epoch, **row, IWAE_COLUMN: epoch - 10} for epoch in (1, 2)]
    plots.learning_curves(rows, tmp_path / "curves.png", objective=objective)
    axes = figures[0].axes[0]
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines == {label: [-7, -7], "validation": [-9, -8]}
    assert axes.get_title(loc="left") == "IWAE bound"


def test_columns_of_any_epoch_are_written(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5, "more": 1.0}, {"epoch": 3}]
    write_metrics(tmp_path, rows)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["epoch,loss,more", "1,2.0,", "2,1.5,1.0", "3,,"]


@dataclass(frozen=True)
class Half(ELBO):
    """Bounds nothing: half a particle."""

    bound_particles: ClassVar[float] = 0.5  # type: ignore[assignment]


def test_half_a_particle_is_refused_before_training(tmp_path: Path) -> None:
    message = r"expected Half.bound_particles >= 1, a whole number; got 0.5"
    with pytest.raises(InputError, match=message):
        tiny(tmp_path / "run", objective=Half())
    assert not (tmp_path / "run").exists()
