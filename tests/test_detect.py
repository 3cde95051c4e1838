"""What `detect` writes and returns, on runs of the digits that take a second."""

import csv
import json
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import save_pictures
from reports import ended, train
from sklearn.metrics import average_precision_score, roc_auc_score

import ppl_vae
from ppl_vae.data import Digits, ImageFolder
from ppl_vae.densities.weights import log_terms
from ppl_vae.detect import detect, main
from ppl_vae.evaluate import evaluate
from ppl_vae.measures.anomaly_scores import SCORES
from ppl_vae.measures.conformal import conformal_p_values, discoveries
from ppl_vae.runs.run import Run

ALL = [
    "complexity",
    "exemplar_complexity",
    "zlib_complexity",
    "log_likelihood",
    "elbo",
    "distortion",
    "rate",
]
FILES = {"detection.json", "histograms.png", "images.png", "scores.csv"}
QUICK = {"particles": 5, "shown": 3}
DEFAULT = "exemplar_complexity"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has seen no 8."""
    path = tmp_path_factory.mktemp("detect") / "run"
    return train(path, data=Digits(without_classes=[8]), epochs=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Digits of a user's own, upside down, 24 of 8 x 8 pixels."""
    images = Digits().load("bytes", 0).test[:24, 0].flip(1).numpy().astype(np.uint8)
    return save_pictures(tmp_path_factory.mktemp("own") / "images", images)


def table_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_writes_what_it_returns(run: Run, tmp_path: Path) -> None:
    found = detect(run, scores=ALL, out=tmp_path / "out", **QUICK)
    assert files(tmp_path / "out") == FILES
    rows = table_of(tmp_path / "out")
    assert len(rows) == len(run.data.test) == found.summary["data_points"]
    names = run.data.class_names or ()
    assert [row["label"] for row in rows] == [names[y] for y in run.data.test.labels.tolist()]
    assert [row["image"] for row in rows] == [str(place) for place in range(len(rows))]
    for name in ALL:
        assert [float(row[f"{name}_nats"]) for row in rows] == found.scores[name].tolist()
        assert [float(row[f"{name}_p_value"]) for row in rows] == found.p_values[name].tolist()
        again = conformal_p_values(found.calibration[name], found.scores[name])
        assert np.array_equal(again, found.p_values[name])
        assert len(found.calibration[name]) == len(run.data.validation)
    flags = found.p_values["complexity"] <= 0.05
    assert np.array_equal(flags, found.flagged)
    assert [row["flagged"] for row in rows] == [str(int(flag)) for flag in flags]
    written = json.loads((tmp_path / "out" / "detection.json").read_text())
    assert written == found.summary
    assert written["flagged"] == flags.sum()
    # The test images of the run are normal ones: the flags among them are false alarms.
    assert written["false_alarm_rate"] == flags.mean()
    assert written["false_alarm_rate_low"] < flags.mean() < written["false_alarm_rate_high"]
    assert "ranking" not in written


def test_the_scores_are_those_of_evaluate(run: Run, tmp_path: Path) -> None:
    found = detect(run, scores=ALL, out=tmp_path, **QUICK | {"particles": 200})
    numbers = evaluate(run, particles=200, seed=1, out=tmp_path)
    x = run.data.test[:]
    terms = log_terms(run.model, run.guide, x, 200)
    draws = {
        "log_likelihood": -terms.log_weights,
        "elbo": -terms.log_weights,
        "distortion": -terms.log_likelihood,
        "rate": terms.log_guide - terms.log_prior,
    }
    for name, values in draws.items():
        sign = -1 if name in ("log_likelihood", "elbo") else 1
        error = (2 * values.var(0).sum() / 200).sqrt().item() / len(x)  # of the difference of two
        mean = sign * numbers[f"{name}_nats_per_datum"]
        assert abs(found.scores[name].mean() - mean) < 4 * error, name


def test_one_seed_gives_one_result(run: Run, tmp_path: Path) -> None:
    first, second, other = (
        detect(run, out=tmp_path / str(place), seed=seed, **QUICK)
        for place, seed in enumerate((0, 0, 1))
    )
    for name in FILES - {"detection.json"}:
        texts = [(tmp_path / str(place) / name).read_bytes() for place in range(3)]
        assert texts[0] == texts[1] != texts[2]
    assert np.array_equal(first.maps, second.maps)
    (name,) = first.scores
    assert name == DEFAULT
    assert not np.array_equal(first.scores[name], other.scores[name])


def test_curves_where_labels_say_what_is_normal(run: Run, tmp_path: Path) -> None:
    found = detect(
        run,
        Digits(),
        split="test",
        scores=["distortion", "rate"],
        normal_classes=[0, "1", 2, 3, 4, 5, 6, 7, 9],
        out=tmp_path,
        **QUICK,
    )
    eights = (Digits().load("binary", 0).test.labels == 8).numpy()
    assert files(tmp_path) == FILES | {"curves.png"}
    assert np.array_equal(found.anomalous, eights)
    for name, scores in found.summary["ranking"].items():
        assert scores["auroc"] == pytest.approx(roc_auc_score(eights, found.scores[name]))
        precision = average_precision_score(eights, found.scores[name])
        assert scores["average_precision"] == pytest.approx(precision)
    it = found.summary
    assert (it["data"], it["split"]) == ("Digits", "test")
    assert it["normal_classes"] == [0, "1", 2, 3, 4, 5, 6, 7, 9]
    assert it["false_alarm_rate"] == found.flagged[~eights].mean()
    assert it["found_rate"] == found.flagged[eights].mean()
    assert it["false_discovery_rate"] == pytest.approx((~eights)[found.flagged].mean())
    # Without the knowledge the curves of an earlier call do not stay.
    detect(run, out=tmp_path, **QUICK)
    assert files(tmp_path) == FILES


def test_a_folder_beside_the_normal_images_of_the_run(
    run: Run, folder: ImageFolder, tmp_path: Path
) -> None:
    found = detect(run, folder, normal_classes=[], out=tmp_path, **QUICK)
    rows = table_of(tmp_path)
    assert [row["image"] for row in rows] == [f"{place:03}.png" for place in range(24)]
    assert found.anomalous is not None
    assert found.anomalous.all()
    fresh = found.fresh[DEFAULT]
    assert len(fresh) == len(run.data.test)
    truth = [True] * 24 + [False] * len(fresh)
    auroc = roc_auc_score(truth, [*found.scores[DEFAULT], *fresh])
    assert found.summary["ranking"][DEFAULT]["auroc"] == pytest.approx(auroc)
    alarms = conformal_p_values(found.calibration[DEFAULT], fresh) <= 0.05
    assert np.array_equal(alarms, fresh > found.threshold)
    assert found.summary["false_alarm_rate"] == alarms.mean()
    assert found.summary["data_options"]["path"] == str(folder.path)
    assert found.summary["false_alarm_rate_expected"] == 8 / 179  # of 178 calibration images
    assert files(tmp_path) == FILES | {"curves.png"}


def test_arrays_in_python(run: Run, folder: ImageFolder, tmp_path: Path) -> None:
    """The same images, from files and as an array."""
    images = Digits().load("bytes", 0).test[:24].flip(2).numpy().astype(np.uint8)
    by_files = detect(run, folder, out=tmp_path, **QUICK)
    levels = np.rint(images / 255.0 * 16).astype(np.uint8)
    by_array = detect(run, levels, out=tmp_path, **QUICK)
    assert by_files.anomalous is None
    assert np.corrcoef(by_files.scores[DEFAULT], by_array.scores[DEFAULT])[0, 1] > 0.9


def test_the_map_of_an_image_that_was_altered_points_there(run: Run, tmp_path: Path) -> None:
    """Two corners, which no digit has, are inked in one image."""
    images = run.data.test[:20].clone()
    images[7, 0, 0, 0] = images[7, 0, 7, 0] = 1
    found = detect(run, images, scores=["distortion"], out=tmp_path, **QUICK | {"shown": 20})
    place = int(np.flatnonzero(found.shown[:20] == 7)[0])
    brightest = found.maps[place, 0].ravel().argsort()[-2:]
    assert set(brightest.tolist()) == {0, 56}


def test_false_discoveries_are_those_of_benjamini_and_hochberg(run: Run, tmp_path: Path) -> None:
    found = detect(
        run, Digits(), split="test", scores=["distortion"], false_discoveries=0.5, out=tmp_path,
        **QUICK,
    )  # fmt: skip
    p_values = found.p_values["distortion"]
    assert np.array_equal(found.flagged, discoveries(p_values, 0.5))
    assert np.array_equal(found.flagged, found.scores["distortion"] > found.threshold)
    assert found.summary["false_discoveries"] == 0.5


def test_a_rate_just_below_a_rank_is_that_rank(run: Run, tmp_path: Path) -> None:
    """1 - 0.9 is below 0.1 as a floating-point number; p-values are multiples of 1 / 100."""
    options = {"calibration_points": 99, "scores": ["distortion"], "out": tmp_path, **QUICK}
    found = detect(run, false_alarms=1 - 0.9, **options)
    assert found.summary["false_alarm_rate_expected"] == 0.1
    assert np.array_equal(found.flagged, found.p_values["distortion"] <= 0.1)
    assert np.array_equal(found.flagged, found.scores["distortion"] > found.threshold)
    assert (found.p_values["distortion"] == 0.1).any()


def test_the_other_scores(run: Run, tmp_path: Path) -> None:
    """Typicality, the ratio with a background run, and the regret, each by its definition."""
    data = Digits(without_classes=[8], perturb=0.3)
    background = train(tmp_path / "background", data=data, epochs=3)
    names = ["log_likelihood", "typicality", "likelihood_ratio", "likelihood_regret"]
    options = {"data_points": 6, "calibration_points": 19, "out": tmp_path / "out"}
    found = detect(run, scores=names, background=background, **QUICK | options | {"particles": 400})
    x = run.data.test[:6]
    torch.manual_seed(0)
    noisy = ppl_vae.inference.log_weights(background.model, background.guide, x, 400)
    log_p = noisy.logsumexp(0).detach() - log(400)
    ratio = found.scores["likelihood_ratio"] - found.scores["log_likelihood"]
    assert ratio == pytest.approx(log_p.numpy(), abs=0.3)
    usual = run.data.train.first(1000)
    typical = evaluate(run, split="train", particles=400, data_points=len(usual), out=tmp_path)
    entropy = -typical["log_likelihood_nats_per_datum"]
    distance = np.abs(found.scores["log_likelihood"] - entropy)
    assert found.scores["typicality"] == pytest.approx(distance, abs=0.3)  # other binarisations
    assert (found.scores["likelihood_regret"] > -0.5).all()
    assert SCORES.keys() >= set(names)


def test_the_command_line(
    run: Run, folder: ImageFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--particles", 5, "--out", tmp_path, "--scores", "[elbo, rate]"]
    data = ["--data", "ImageFolder", "--data.path", folder.path]
    assert ended(main, run.path, *data, *quick, "--normal_classes", "[]") == 0
    said = capsys.readouterr()
    assert "flagged" in said.out
    assert "of 24 images, --false_alarms 0.05" in said.out
    assert "AUROC, elbo" in said.out
    assert "scores: 24/24 image passes" in said.err
    assert files(tmp_path) == FILES | {"curves.png"}
    (folder.path / "999.png").write_bytes(b"no image")
    try:
        assert ended(main, run.path, *data, *quick, "--skip_unreadable", "true") == 0
        said = capsys.readouterr()
        assert "left out 1 that cannot be read (999.png)" in said.err
        assert "of 24 images" in said.out
    finally:
        (folder.path / "999.png").unlink()
