"""The particles and images of about a minute follow from the speed; numbers that are given stay."""

import json
from typing import Any

import pytest
import torch
from oracles import split_of
from reports import ended, train

from guides import Delta, DiagonalNormal
from models import VAE, Autoencoder, Spec
from ppl_vae.evaluate import evaluate, main
from ppl_vae.measures import effort
from ppl_vae.measures.effort import affordable_effort
from ppl_vae.runs.run import Run


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("effort") / "run", epochs=1)


def on_a_machine(monkeypatch: pytest.MonkeyPatch, each: float, draw: float) -> None:
    """A machine where an image takes so many seconds, and each draw of z as many more."""
    monkeypatch.setattr(
        effort, "_took", lambda model, guide, images, k: len(images) * (each + draw * k)
    )


@pytest.mark.parametrize(
    ("each", "draw", "count", "expected"),
    [
        (0.0, 1e-6, 300, (5000, 300)),  # all of it takes 1.5 s
        (0.0, 1e-5, 10_000, (600, 10_000)),
        (0.0, 1.3e-5, 10_000, (460, 10_000)),  # 461.5, to two digits
        (0.0, 1e-3, 10_000, (100, 600)),
        (0.002, 1e-6, 10_000, (4000, 10_000)),
        (0.02, 1e-6, 10_000, (100, 2900)),
        (0.0, 1.0, 10_000, (100, 100)),  # never fewer, though that takes longer
        (0.0, 1.0, 30, (100, 30)),
    ],
)
def test_all_images_and_as_many_particles_as_a_minute_has(
    monkeypatch: pytest.MonkeyPatch, each: float, draw: float, count: int, expected: Any
) -> None:
    on_a_machine(monkeypatch, each, draw)
    spec = Spec((1, 2, 2), "binary", 2)
    images = split_of(torch.zeros(count, 1, 2, 2))
    chosen = affordable_effort(VAE(spec), DiagonalNormal(spec), images, all_of_them=False)
    particles, data_points = expected
    assert chosen.particles == pytest.approx(particles, rel=0.03)
    assert chosen.particles <= 5000
    assert chosen.data_points == data_points
    seconds = data_points * (each + draw * chosen.particles)
    assert chosen.seconds == pytest.approx(seconds)
    assert seconds <= 60.001 or (chosen.particles, data_points) == (100, min(100, count))
    every = affordable_effort(VAE(spec), DiagonalNormal(spec), images, all_of_them=True)
    assert every.data_points == count


def test_the_choice_is_said_and_written(run: Run, monkeypatch: Any, capsys: Any) -> None:
    on_a_machine(monkeypatch, 0.0, 60 / 300 / 255)
    capsys.readouterr()
    assert ended(main, run.path) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "measuring all 300 images with 250 particles each, about 59 s here; for a paper add "
        "--particles 5000 --data_points all"
    )
    result = json.loads((run.path / "evaluation.json").read_text())
    assert (result["particles"], result["data_points"]) == (250, 300)
    given = evaluate(run, particles=250)
    for name in ("elbo", "rate", "distortion", "log_likelihood"):
        assert given[f"{name}_nats_per_datum"] == result[f"{name}_nats_per_datum"]
    on_a_machine(monkeypatch, 0.0, 1.0)
    chosen = evaluate(run)
    assert (chosen["particles"], chosen["data_points"]) == (100, 100)
    assert "measuring the first 100 images with 100 particles" in capsys.readouterr().err
    for data_points in ("all", 300):
        chosen = evaluate(run, data_points=data_points)
        assert (chosen["particles"], chosen["data_points"]) == (100, 300)


def test_numbers_that_are_given_are_not_measured_first(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(effort, "_took", None)
    for data_points, expected in ((None, 300), ("all", 300), (7, 7)):
        result = evaluate(run, particles=3, data_points=data_points)
        assert (result["particles"], result["data_points"]) == (3, expected)


def test_a_point_needs_no_choice(tmp_path: Any, monkeypatch: Any) -> None:
    run = train(tmp_path / "run", model=Autoencoder, guide=Delta)
    monkeypatch.setattr(effort, "_took", None)
    result = evaluate(run)
    assert (result["particles"], result["data_points"]) == (1, 300)


def test_measuring_the_speed_draws_nothing(run: Run) -> None:
    """Few images keep it short; the random numbers after it are those before it."""
    before = torch.get_rng_state()
    chosen = affordable_effort(run.model, run.guide, run.data.test.first(4), all_of_them=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert (chosen.particles, chosen.data_points) == (5000, 4)
    assert 0 < chosen.seconds < 60
