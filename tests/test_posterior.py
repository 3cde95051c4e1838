"""The report: its page, its numbers, what it says where it has no answer, and what it refuses."""

import json
import re
import shutil
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import refused
from reports import QUICK, ended, full, train

import ppl_vae
import ppl_vae.posterior as verb
from guides import DiagonalNormal
from models import Gaussian, Linear
from ppl_vae.data import Arrays
from ppl_vae.densities.weights import log_weights
from ppl_vae.inference.netcdf import read_datatree
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.posterior import main, posterior
from ppl_vae.runs.run import Run

OPTIONS = [f"--{name}={value}" for name, value in QUICK.items()]
SECTIONS = ("guide", "gap", "posterior", "log_likelihood", "calibration", "latent", "comparison")


@pytest.fixture(scope="module")
def result(runs: list[Run]) -> dict[str, Any]:
    return posterior(runs[0], [runs[1]], **QUICK)


def test_every_question_is_answered(runs: list[Run], result: dict[str, Any]) -> None:
    assert json.loads((runs[0].path / "posterior.json").read_text()) == result
    for name in SECTIONS:
        assert result[name]["unanswered"] is None, name
        assert len(result[name]) > 4, name


def test_the_page_needs_nothing_but_itself(runs: list[Run], result: dict[str, Any]) -> None:
    text = (runs[0].path / "posterior.html").read_text()
    words = re.sub(r'"data:[^"]*"', "", text)
    assert "http" not in words
    assert "<script" not in words
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    pictures = [b64decode(source.partition(",")[2]) for source in sources if source[0] != "#"]
    assert len(pictures) >= 15
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    for name in SECTIONS:
        assert f'<section id="{name}">' in text
    assert "nan" not in words.lower().split()


def test_the_numbers_are_those_of_the_tree(runs: list[Run], result: dict[str, Any]) -> None:
    tree = read_datatree(runs[0].path / "posterior.nc")
    assert tree["posterior"]["image"].values.tolist() == result["images"]
    statistics = {
        name: torch.as_tensor(tree["sample_stats"][name].values.reshape(100, 12)).double()
        for name in tree["sample_stats"].data_vars
    }
    weights = statistics["log_weight"]
    diagnosis = pareto_k(weights)
    assert result["guide"]["k_hat"] == diagnosis.k_hat.tolist()
    assert result["guide"]["ess"] == diagnosis.ess.tolist()
    worst = result["images"][diagnosis.k_hat.argmax()]
    assert result["guide"]["worst_images"][0] == worst
    rate = (statistics["log_guide"] - statistics["log_prior"]).mean().item()
    assert result["latent"]["rate_nats_per_datum"] == pytest.approx(rate, abs=1e-5)
    elbo = weights.mean().item()
    latent = result["latent"]
    total = -(latent["rate_nats_per_datum"] + latent["distortion_nats_per_datum"])
    assert total == pytest.approx(elbo, abs=1e-4)
    labels = runs[0].data.test.labels
    assert labels is not None
    assert tree["constant_data"]["label"].values.tolist() == labels[result["images"]].tolist()


def test_the_gaps_sum_to_the_whole(result: dict[str, Any]) -> None:
    gaps = {name: result["gap"][f"{name}_nats_per_datum"] for name in (
        "log_likelihood", "elbo", "approximation_gap", "amortization_gap", "gap"
    )}  # fmt: skip
    assert gaps["gap"] == pytest.approx(gaps["log_likelihood"] - gaps["elbo"], abs=1e-8)
    parts = gaps["approximation_gap"] + gaps["amortization_gap"]
    assert gaps["gap"] == pytest.approx(parts, abs=1e-8)
    for name in ("approximation_gap", "amortization_gap"):
        errors = result["gap"][f"{name}_nats_standard_error"]
        assert len(errors) == len(result["gap"][f"{name}_nats"])
        assert all(error is None or error > 0 for error in errors)


def test_runs_are_compared_on_the_same_images(runs: list[Run], result: dict[str, Any]) -> None:
    """The paired difference against a computation from scratch, within the noise of the draws."""
    comparison = result["comparison"]
    x = runs[0].data.test[result["images"]]
    with torch.no_grad():
        first, second = (
            (log_weights(run.model, run.guide, x, 5000).logsumexp(0) - log(5000)).double()
            for run in runs
        )
    difference = first - second
    (pair,) = comparison["differences"]
    assert pair["nats_per_datum"] == pytest.approx(difference.mean().item(), abs=0.2)
    error = (difference.std() / sqrt(12)).item()
    assert pair["nats_per_datum_standard_error"] == pytest.approx(error, rel=0.5)
    by_run = comparison["log_likelihood_nats_per_datum"]
    sums = {row["run"]: row["elpd"] / 12 for row in comparison["arviz"]}
    assert sums == pytest.approx(by_run)
    assert sum(row["weight"] for row in comparison["arviz"]) == pytest.approx(1)
    assert [row["beta"] for row in result["latent"]["runs"]] == [1.0, 1.0]  # the ELBO's


@pytest.mark.slow
def test_one_seed_gives_one_result(runs: list[Run], result: dict[str, Any]) -> None:
    again = posterior(runs[0], [runs[1]], **QUICK)

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(each) for key, each in value.items() if key != "seconds"}
        return value

    assert timeless(again) == timeless(result)


def test_without_labels_and_two_dimensions_the_rest_is_written(
    arrays: Callable[..., Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = arrays(np.random.default_rng(0).random((60, 4, 4)).astype("float32"))
    options = {"likelihood": Gaussian, "network": Linear, "latent_dim": 3, "batch_size": 20}
    run = train(tmp_path / "run", data=data, **options)
    monkeypatch.setattr(verb, "_QUESTIONS", verb._QUESTIONS[4:])
    found = posterior(run, **QUICK | {"count": 4})
    text = (run.path / "posterior.html").read_text()
    assert "There is no scatter" in text
    assert "one run was given" in found["comparison"]["unanswered"]
    assert all(found[name]["unanswered"] is None for name in SECTIONS[4:-1])
    assert "constant_data" not in read_datatree(run.path / "posterior.nc").children
    with refused("has no labels"):
        posterior(run, label=1, **QUICK)


def test_a_run_twice_is_refused(runs: list[Run]) -> None:
    first = replace(runs[0], path=runs[0].path / ".." / runs[0].path.name)
    with refused("every run once"):
        posterior(runs[0], [runs[1], first], **QUICK)


def test_help_asks_for_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(main, "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Runs to compare it with. (a list, as '[1, 2]'" not in told
    assert "run The run directory. (a path)" in told
    assert "others Runs to compare it with. (a path" in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--images", "[300]"], "--images: expected 0 to 299; got 300"),
        (["--images", "[-1]"], "--images: expected 0 to 299; got -1"),
        (
            ["--images", "[]"],
            "--images: expected at least one index of an image; got an",
        ),
        (["--images", "[1, 1]"], "each image once"),
        (["--images", "[1]", "--label", "2"], "got both"),
        (["--label", "12"], "--label: expected one of 0, 1, 2"),
        (["--count", "0"], "expected --count >= 1; got 0"),
        (["--draws", "8"], "expected --draws >= 100; got 8"),
        (["--draws", "102"], "multiple of 4"),
        (["--simulations", "5"], "expected --simulations >= 100; got 5"),
        (["--choose", "best"], "random"),
    ],
)
def test_bad_input_is_one_line(runs, options, said, capsys) -> None:
    assert ended(main, runs[0].path, *options) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert said in error


def test_a_section_that_fails_does_not_lose_the_others(runs, tmp_path, monkeypatch, capsys) -> None:
    def fail(inspection: Any, section: Any) -> None:
        raise ZeroDivisionError("nothing <to> divide")

    (name, question, _), latent = verb._QUESTIONS[1], verb._QUESTIONS[5]
    questions = [(name, question, fail), latent]
    monkeypatch.setattr(verb, "_QUESTIONS", questions)
    assert ended(main, runs[0].path, *OPTIONS, "--out", tmp_path) == 1
    printed = capsys.readouterr()
    assert "failed: ZeroDivisionError: nothing <to> divide" in printed.out
    assert "Traceback" in printed.err
    numbers = json.loads((tmp_path / "posterior.json").read_text())
    assert numbers["gap"]["failed"] == "ZeroDivisionError: nothing <to> divide"
    assert numbers["latent"]["failed"] is None
    assert numbers["latent"]["rate_nats_per_datum"] > 0
    page = (tmp_path / "posterior.html").read_text()
    assert "Failed: ZeroDivisionError: nothing &lt;to&gt; divide" in page
    assert "latents are active" in page


def test_chosen_images_are_named_wherever_their_numbers_stand(
    runs: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verb, "_QUESTIONS", [verb._QUESTIONS[0], verb._QUESTIONS[5]])
    chosen = ("--count=5", "--choose=worst", "--split=validation", "--label=3")
    assert ended(main, runs[0].path, *OPTIONS, *chosen, "--out", tmp_path) == 0
    stem = "posterior-validation-worst-label-3"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{stem}.{e}" for e in ("html", "json", "nc")
    ]
    numbers = json.loads((tmp_path / f"{stem}.json").read_text())
    pool = int((runs[0].data.validation.labels == 3).sum())
    assert (numbers["choose"], numbers["label"], numbers["candidates"]) == ("worst", 3, pool)
    text = " ".join((tmp_path / f"{stem}.html").read_text().split())
    assert f"Over the 5 images with label 3 with the largest k-hat of {pool} with 100" in text
    assert "chosen because the guide serves them worst" in text
    assert "5 images (worst) of the validation split" in capsys.readouterr().out


def test_numbers_are_printed_where_the_disk_is_full(runs, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(verb, "_QUESTIONS", verb._QUESTIONS[5:6])
    monkeypatch.setattr("os.fsync", full)
    assert ended(main, runs[0].path, *OPTIONS, "--out", tmp_path) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["latent"]["rate_nats_per_datum"] > 0
    assert f"cannot write {tmp_path}/posterior.json: No space left" in printed.err
    (tmp_path / "file").touch()
    monkeypatch.setattr(verb, "to_datatree", lambda *_, **__: pytest.fail("drawn"))
    with refused(r"cannot write to .*--out"):
        posterior(runs[0], out=tmp_path / "file", **QUICK)


def test_two_runs_are_compared_on_one_draw_of_training_images(runs, tmp_path, monkeypatch) -> None:
    """Binarisation is fresh in each batch: all sections and runs get the same one.

    The path of the second has dollars, between which matplotlib would read mathematics.
    """
    path = tmp_path / "$_{$"
    shutil.copytree(runs[0].path, path)
    monkeypatch.setattr(verb, "_QUESTIONS", verb._QUESTIONS[5:])
    out = tmp_path / "out"
    found = posterior(runs[0], [ppl_vae.load(path)], split="train", out=out, **QUICK)
    (pair,) = found["comparison"]["differences"]
    # The same weights, the same images: only the noise of z is left.
    error = pair["nats_per_datum_standard_error"]
    assert abs(pair["nats_per_datum"]) < 5 * error < 0.5
    observed = read_datatree(out / "posterior-train.nc")["observed_data"]["x"].values
    again = runs[0].data.train[found["images"]].numpy()
    assert (observed != again).any()  # another draw than the one that was kept
    rates = [row["distortion_nats_per_datum"] for row in found["latent"]["runs"]]
    assert rates[0] == pytest.approx(rates[1], abs=0.3)


def test_a_guide_without_density_is_refused(runs, monkeypatch) -> None:
    monkeypatch.setattr(DiagonalNormal, "has_density", False, raising=False)
    with refused("has no density"):
        posterior(runs[0], **QUICK)


def test_without_arviz_the_remedy_is_named(runs, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    with refused(r"arviz_plots is not installed.*ppl-vae\[arviz\]"):
        posterior(runs[0], **QUICK)
