"""Runs on images with missing pixels, from training to every verb."""

import csv
import json
from collections.abc import Callable
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from comparing import assert_same
from oracles import refused
from own_images import noise
from tiny_runs import LAST, TINY, Crash, crash_in_second_epoch, exit_code, tiny

import ppl_vae.fit
from guides import Delta
from models import VAE, DiscretizedLogistic
from models.corruptions import Masked
from ppl_vae import load
from ppl_vae.compress import compress
from ppl_vae.data import Arrays
from ppl_vae.detect import detect
from ppl_vae.evaluate import evaluate
from ppl_vae.evaluate import main as evaluate_main
from ppl_vae.features import features
from ppl_vae.fit import fit, resume
from ppl_vae.pictures.figures import pixels_of, sheet
from ppl_vae.restore import restore
from ppl_vae.runs.run import Run

GREY = noise(80, 5, 4).astype(np.float32)
HOLED = np.where(np.random.default_rng(1).random(GREY.shape) < 0.4, np.nan, GREY)
HOLED[:, 0, 0] = GREY[:, 0, 0]
BYTES: dict[str, Any] = {"likelihood": DiscretizedLogistic}

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("holes") / "run"
    return tiny(path, data=HOLED, batch_size=16, **BYTES)


def test_only_holes_make_a_mask(run: Run, tmp_path: Path) -> None:
    whole = tiny(tmp_path / "run", data=GREY.astype(np.uint8), batch_size=16, **BYTES)
    assert (run.spec.holes, whole.spec.holes) == (True, False)
    widths = [r.guide.encoder.layers[0].in_features for r in (run, whole)]
    assert widths == [40, 20]
    assert load(run.path).spec == run.spec


def test_a_run_with_holes_goes_on_bit_for_bit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.training.loop.events", crash_in_second_epoch)
        with pytest.raises(Crash):
            tiny(path, data=HOLED, batch_size=16, **BYTES)
    assert (path / LAST).exists()
    resume(path)
    assert_same(path, run.path)


def test_evaluate_measures_the_observed_pixels_and_says_so(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run.path), "--particles", "7", "--out", str(tmp_path)]
    assert exit_code(evaluate_main, *arguments) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["quantity"] == "log p(x_observed)"
    assert "log p(x_observed), 7 particles" in said
    assert "observed pixels" in said
    assert "bits per observed dim" in said
    with open(tmp_path / "scores.csv") as file:
        log_p = [float(row["log_likelihood_nats_per_datum"]) for row in csv.DictReader(file)]
    observed = (~run.data.test[:].isnan()).flatten(1).sum(1).numpy()
    bits = -np.array(log_p) / observed / log(2)
    assert result["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-6)
    assert result["observed_pixels_percent"] == pytest.approx(100 * observed.mean() / 20)


def test_whole_images_under_a_run_with_holes_are_measured_as_whole(run: Run, tmp_path: Path):
    result = evaluate(run, data=GREY[:9], particles=3, out=tmp_path)
    assert result["quantity"] == "log p(x)"
    assert "observed_pixels_percent" not in result


def test_new_images_with_holes_are_encoded_reconstructed_and_scored(run: Run) -> None:
    x = run.split_of(HOLED[:5])[:]
    assert x.isnan().sum() == np.isnan(HOLED[:5]).sum()
    with torch.no_grad():
        z = run.guide.posterior(x).mean
    torch.testing.assert_close(run.encode(HOLED[:5]), z)
    assert run.reconstruct(HOLED[:5]).isfinite().all()
    assert run.score(HOLED[:5], particles=4).log_likelihood.isfinite().all()


def test_restore_fills_the_holes_of_the_runs_own_images(run: Run) -> None:
    filled = restore(
        run, corruption=Masked(), count=4, draws=20, particles=60, compare_with_others=False
    )
    x = run.data.test[slice(4)].numpy() / 255
    there = ~np.isnan(x)
    np.testing.assert_allclose(filled.mean[there], x[there], atol=1e-6)
    assert np.isfinite(filled.mean).all()
    assert (filled.standard_deviation[~there] > 0.01).all()
    with refused("originals without missing pixels"):
        restore(run, corruption=Masked(half="lower"), corrupt=True)


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (features, "PCA and k-means do not take"),
        (detect, "do not compare"),
        (partial(compress, images=GREY[:3].astype(np.uint8)), "no symbol for"),
    ],
)
def test_verbs_that_need_all_pixels_refuse(run: Run, verb: Callable[..., Any], said: str) -> None:
    before = sorted(run.path.rglob("*"))
    with refused(said):
        verb(run)
    assert sorted(run.path.rglob("*")) == before


def test_holes_in_validation_and_test_alone(tmp_path: Path) -> None:
    with refused(r"in training images too.*1 in the validation and 0 in the test images alone"):
        one = GREY[:10].copy()
        one[2, 3, 1] = np.nan
        fit(GREY, validation=one, test=GREY[:10], epochs=1, run=tmp_path / "run", network=TINY)
    assert not (tmp_path / "run").exists()


def test_an_image_without_a_pixel_ends_fit_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = HOLED.copy()
    values[11] = np.nan
    np.save(tmp_path / "holed.npy", values)
    options = ["--data", "Arrays", "--data.path", str(tmp_path / "holed.npy")]
    assert exit_code(ppl_vae.fit, *options, "--run", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 80 in" in error
    assert "at index 11" in error
    assert not (tmp_path / "run").exists()


def test_other_data_with_holes_for_a_run_without(tmp_path: Path) -> None:
    whole = tiny(tmp_path / "run", data=GREY.astype(np.uint8), batch_size=16, epochs=1, **BYTES)
    np.save(tmp_path / "holed.npy", HOLED)
    with refused("expected all pixels, as the run's training images have"):
        evaluate(whole, data=Arrays(path=tmp_path / "holed.npy"), particles=2)
    with refused("expected all pixels, as the run's training images have"):
        whole.score(HOLED)


class Forgetful(VAE):
    """A model of one's own that takes images with holes as they are."""

    def forward(self, x=None, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            return pyro.sample("x", self.decode(pyro.sample("z", self.prior())), obs=x)


def test_a_model_that_forgets_the_holes_is_told_how_to_observe(tmp_path: Path) -> None:
    binary = np.where(np.isnan(HOLED), np.nan, HOLED > 99).astype(np.float32)
    with refused(r"Forgetful.*the site x takes self\.observed"):
        tiny(tmp_path / "run", data=binary, model=Forgetful)


def test_a_point_is_measured_on_the_observed_pixels(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run", data=HOLED / 255, guide=Delta, epochs=1)
    result = evaluate(run, out=tmp_path)
    assert 0 < result["squared_error_per_pixel"] < 1


def test_a_missing_pixel_is_grey_and_a_missing_tile_is_left_out() -> None:
    tiles = np.zeros((1, 2, 1, 2, 2))
    tiles[0, 0, 0, 0, 1] = np.nan
    tiles[0, 1] = np.nan
    picture = pixels_of(sheet(tiles))
    assert {tuple(c) for c in picture.reshape(-1, 3)} == {
        (0, 0, 0), (128, 128, 128), (159, 179, 200), (255, 255, 255)
    }  # fmt: skip
    half = picture.shape[1] // 2
    assert (picture[:, half + 4 :] == 255).all()
