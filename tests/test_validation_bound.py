"""The bound that an objective of several particles raises, on the validation images."""

import csv
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import metrics, tiny

import ppl_vae.pictures.plots as plots
from ppl_vae import load
from ppl_vae.data import Arrays
from ppl_vae.fit import resume
from ppl_vae.objectives import ELBO as Bound
from ppl_vae.objectives import IWAE as Weighted
from ppl_vae.runs.metrics import ELBO, IWAE, epochs_since_best, write_metrics
from ppl_vae.training import validation
from ppl_vae.training.step import SVIStep
from ppl_vae.training.validation import validate

PARTICLES = 8

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_it_is_the_objective_itself_on_the_validation_images(tmp_path: Path) -> None:
    objective = Weighted(PARTICLES, "dreg", resampled=2)
    run = load(tiny(tmp_path / "run", objective=objective, epochs=3).path)
    row = metrics(run.path)[-1]
    x = run.data.validation.batch(slice(None), labelled=False)[0]
    with torch.no_grad():
        for column, reference in ((IWAE, objective), (ELBO, Bound(PARTICLES))):
            values = [-reference.loss(run.model, run.guide, x).item() for _ in range(200)]
            spread = np.std(values) * sqrt(1 + 1 / len(values))
            assert abs(row[column] - np.mean(values)) < 4 * spread
    assert row[IWAE] > row[ELBO]
    assert run.summary[IWAE] == row[IWAE]


def test_many_draws_take_some_of_the_images(tmp_path: Path, monkeypatch) -> None:
    run = load(tiny(tmp_path / "run", objective=Weighted(PARTICLES), epochs=1).path)
    step = SVIStep(run.model, run.guide, run.pieces["objective"])
    images = run.data.validation
    third = images.select(torch.arange(0, len(images), 3))
    all_of_third, _ = validate(step, third)
    whole, _ = validate(step, images)
    monkeypatch.setattr(validation, "_MOST_DRAWS", len(images) * PARTICLES // 3 + 1)
    some, _ = validate(step, images)
    assert some[IWAE] == all_of_third[IWAE] != whole[IWAE]
    assert some[ELBO] == whole[ELBO]


@pytest.mark.parametrize("objective", [Bound(PARTICLES), Weighted(1)], ids=str)
def test_an_objective_of_one_particle_has_the_elbo_alone(tmp_path: Path, objective) -> None:
    (row,) = metrics(tiny(tmp_path / "run", objective=objective, epochs=1).path)
    assert ELBO in row
    assert IWAE not in row


def test_patience_keeps_its_best_epoch(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((100, 4, 4)) > 0.5
    np.save(tmp_path / "noise.npy", images)
    run = tiny(
        tmp_path / "run",
        data=Arrays(path=tmp_path / "noise.npy"),
        objective=Weighted(PARTICLES),
        epochs=60,
        batch_size=20,
        learning_rate=0.03,
        patience=3,
    )
    rows = metrics(run.path)
    bounds = [row[IWAE] for row in rows]
    assert len(rows) == bounds.index(max(bounds)) + 1 + 3 < 60
    assert run.summary["epoch"] == bounds.index(max(bounds)) + 1


def test_patience_takes_the_bound_where_the_elbo_says_otherwise() -> None:
    rows = [{ELBO: -1.0, IWAE: -3.0}, {ELBO: -2.0, IWAE: -2.0}, {ELBO: -1.5, IWAE: -2.5}]
    assert epochs_since_best(rows) == 1
    assert epochs_since_best([{ELBO: row[ELBO]} for row in rows]) == 2
    assert epochs_since_best([{ELBO: -1.0}, *rows]) == 1
    assert epochs_since_best([]) == 0


def test_a_run_of_epochs_without_it_goes_on_with_it(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Weighted, "bound_particles", 1)
        run = tiny(tmp_path / "run", objective=Weighted(PARTICLES), epochs=1)
        assert IWAE not in metrics(run.path)[0]
    resume(run.path, epochs=2)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first[IWAE] == ""
    assert float(second[IWAE]) > float(second[ELBO])


def test_its_line_is_beside_that_of_the_training_images(tmp_path: Path, monkeypatch) -> None:
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rows = [
        {"epoch": epoch, "loss_nats_per_datum": 9 - epoch, ELBO: -30.0, IWAE: epoch - 10}
        for epoch in (1, 2)
    ]
    plots.learning_curves(rows, tmp_path / "curves.png", objective="IWAE")
    axes = figures[0].axes[0]
    training, validation = (line.get_ydata() for line in axes.lines)
    assert axes.get_title(loc="left") == "importance-weighted bound"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]
    np.testing.assert_array_equal(training, [-8, -7])
    np.testing.assert_array_equal(validation, [-9, -8])


def test_every_column_of_the_last_epoch_is_written(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"epoch": 1, ELBO: -2.0}, {"epoch": 2, ELBO: -1.5, IWAE: -1.0}])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == [f"epoch,{ELBO},{IWAE}", "1,-2.0,", "2,-1.5,-1.0"]
