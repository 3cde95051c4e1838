"""Data that have moved since a run was trained: every verb says how to name the new place."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import OPTIONS, exit_code

import ppl_vae.fit
import ppl_vae.posterior
from models import MLP
from ppl_vae import evaluate, features, generate, load
from ppl_vae.data import Arrays, Digits
from ppl_vae.errors import InputError

TINY = [*OPTIONS, "--batch_size", "20"]
FEW = ["--particles", "2"]

pytestmark = pytest.mark.usefixtures("no_pictures", "empty_folder")


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 5, 4), dtype=np.uint8)


def saved_array() -> list[str]:
    np.save("images.npy", pictures())
    return ["--data", "Arrays", "--data.path", "images.npy"]


def saved_folder() -> list[str]:
    Path("images").mkdir()
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(f"images/{number:02}.png")
    return ["--data", "ImageFolder", "--data.path", "images"]


@pytest.fixture(params=[saved_array, saved_folder], ids=["array", "folder"])
def place(request: pytest.FixtureRequest) -> Path:
    """The new place of the images that `run` was trained on."""
    options = request.param()
    assert exit_code(ppl_vae.fit, *options, *TINY, "--run", "run") == 0
    assert exit_code(evaluate, "run", *FEW) == 0
    Path("elsewhere").mkdir()
    return Path(shutil.move(options[-1], "elsewhere"))


def elbo() -> float:
    return json.loads(Path("run/evaluation.json").read_text())["elbo_nats_per_datum"]


def test_every_verb_goes_on_where_the_message_says(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(run: Any, others: Any, **options: Any) -> None:
        assert [len(each.data.test) for each in (run, *others)] == [6, 6]
        raise InputError("it was read")

    before = elbo()
    monkeypatch.setattr(ppl_vae.posterior, "posterior", compare)
    few = ["--train_points", "20", "--clusters", "2"]
    for verb, arguments, code in (
        (evaluate, ["run", *FEW], 0),
        (features, ["run", *few], 0),
        (generate, ["run", "reconstruct", "--count", "2"], 0),
        (ppl_vae.posterior, ["run", "run"], 2),
        (ppl_vae.fit, ["--resume", "run"], 0),
    ):
        capsys.readouterr()
        assert exit_code(verb, *arguments) == 2
        said = capsys.readouterr().err
        assert said.count("error: ") == 1
        assert "--data.path" in said
        assert exit_code(verb, "--data.path", str(place), *arguments) == code
        assert exit_code(verb, *arguments, f"--data.path={place}") == code
        assert ("it was read" in capsys.readouterr().err) == (code == 2)
    assert elbo() == before
    data = load("run").pieces["data"]
    kept = type(data)(path=place)
    assert torch.equal(load("run", data=kept).data.test.raw, kept.load("real", 0).test.raw)


def test_real_data_that_moved(data_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the place is called a root."""
    Path("root").symlink_to(data_root)
    data = ["--data", "FreyFace", "--data.root", "root"]
    assert exit_code(ppl_vae.fit, *data, *TINY, "--run", "run") == 0
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace(str(data_root.resolve()), "/nowhere"))
    assert exit_code(evaluate, "run", *FEW) == 2
    assert "--data.root" in capsys.readouterr().err
    assert exit_code(evaluate, "run", *FEW, "--data.root", "root") == 0


def test_only_options_of_the_own_data_set_are_replaced(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cls = type(load("run").pieces["data"]).__name__
    for arguments, said in (
        (["--data.pat", "x"], f"--data: unknown option of {cls}: got 'pat' (did you mean path?)"),
        (["--data.workers", "many"], "--data.workers: expected a whole number; got many"),
        (["--data.binarize", "x"], "--data.binarize: expected one of 'auto', "),
        (["--data.binarize", "threshold"], "--data.binarize: a run's data keep their conversion"),
        (["--data.dequantize", "none"], "--data.dequantize: a run's data keep their conversion"),
        (
            ["--data.rules", "1"],
            "only --data.path, --data.validation, --data.test, --data.groups, --data.memory_gib, "
            "--data.workers may change",
        ),
        (["--data.path"], "--data.path"),
    ):
        capsys.readouterr()
        for verb, run in ((evaluate, ["run"]), (ppl_vae.fit, ["--resume", "run"])):
            assert exit_code(verb, *run, *arguments) == 2
            line = capsys.readouterr().err
            assert said in line
            assert line.count("\n") == 1
    before = elbo()
    how = ["--data.memory_gib", "0", "--data.workers", "1", "--data.path", str(place)]
    assert exit_code(evaluate, "run", *FEW, *how) == 0
    assert elbo() == before


def test_in_python_too_the_data_set_of_a_run_is_only_moved() -> None:
    options = saved_array()
    assert exit_code(ppl_vae.fit, *options, *TINY, "--run", "run") == 0
    moved = load("run").pieces["data"]
    for read in (load, ppl_vae.fit.resume):
        with pytest.raises(InputError, match=r"--data.scale: a run's data keep"):
            read("run", data=replace(moved, scale="standard"))
        with pytest.raises(InputError, match=r"the run's data set, Arrays; got Digits"):
            read("run", data=Digits())


def test_other_data_at_the_new_place_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    options = saved_array()
    assert exit_code(ppl_vae.fit, *options, *TINY, "--run", "run") == 0
    np.save("more.npy", np.concatenate([pictures(), pictures()]))
    for verb, arguments in ((evaluate, ["run"]), (ppl_vae.fit, ["--resume", "run"])):
        capsys.readouterr()
        assert exit_code(verb, *arguments, "--data.path", "more.npy") == 2
        assert "expected the 60 images that the run was trained with" in capsys.readouterr().err


def test_a_data_set_of_ones_own_needs_leave(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("moved_images.py").write_text(
        "from ppl_vae.data import Arrays\n"
        "open('sprung', 'a').close()\n"
        "class Own(Arrays):\n    pass\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    np.save("images.npy", pictures())
    own = ["--data", "moved_images.Own", "--data.path", "images.npy"]
    assert exit_code(ppl_vae.fit, *own, *TINY, "--run", "run") == 0
    sys.modules.pop("moved_images")
    Path("sprung").unlink()
    moved = ["--data.path", shutil.move("images.npy", "moved.npy")]
    assert exit_code(evaluate, "run", *FEW, *moved) == 2
    assert "--allow_code true" in capsys.readouterr().err
    assert not Path("sprung").exists()
    assert exit_code(evaluate, "run", *FEW, *moved, "--allow_code", "true") == 0


def test_a_place_that_is_given_as_text_is_found_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved_array()
    options = {"network": partial(MLP, hidden=(8,)), "latent_dim": 2, "epochs": 1}
    run = ppl_vae.fit.fit(Arrays("images.npy", test="images.npy"), run="run", **options)
    here = Path.cwd()
    monkeypatch.setenv("HOME", str(here))
    for path in ("images.npy", "~/images.npy", Path("~/images.npy")):
        assert Arrays(path).path.absolute() == here / "images.npy"
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert load(here / "run").data.sizes == run.data.sizes
