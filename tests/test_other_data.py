"""Runs measured on other data than their own, and the scores of each image as a table."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_images import noise, save_pictures
from reports import ended, train

from guides import ConditionalNormal
from models import Conditional, Gaussian
from ppl_vae import generate
from ppl_vae.data import Arrays, Digits, ImageFolder
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate, main
from ppl_vae.runs.run import Run

GREY = noise(30, 8, 8)
FEW = ["--particles", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("other") / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "some pictures"
    save_pictures(path, GREY)
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_command_measures_a_folder(run: Run, folder: Path, capsys: Any) -> None:
    own = evaluate(run, particles=2)
    before = (run.path / "evaluation.json").read_bytes(), (run.path / "scores.csv").read_bytes()
    capsys.readouterr()
    assert ended(main, run.path, *FEW, "--data", "ImageFolder", "--data.path", folder) == 0
    after = (run.path / "evaluation.json").read_bytes(), (run.path / "scores.csv").read_bytes()
    assert after == before
    printed = capsys.readouterr()
    assert f"{run.path}: ImageFolder {folder}, 30 images, in " in printed.out
    assert "evaluation-ImageFolder-some_pictures.json" in printed.out
    assert printed.err.startswith(
        "ImageFolder: binary data, binarize dynamic, 30 images of 1 x 8 x 8, in memory"
    )
    result = json.loads((run.path / "evaluation-ImageFolder-some_pictures.json").read_text())
    assert (result["data"], result["split"], result["data_points"]) == ("ImageFolder", "all", 30)
    assert result["data_options"]["path"] == str(folder)
    assert result["elbo_nats_per_datum"] != own["elbo_nats_per_datum"]
    rows = table(run.path / "scores-ImageFolder-some_pictures.csv")
    assert [row["image"] for row in rows] == [f"{number:03}.png" for number in range(30)]
    scores = run.score(sorted(folder.glob("*.png")), particles=2)
    for name in ("elbo", "rate", "distortion", "log_likelihood"):
        column = [float(row[f"{name}_nats_per_datum"]) for row in rows]
        assert column == getattr(scores, name).tolist()
        assert np.mean(column) == pytest.approx(result[f"{name}_nats_per_datum"], rel=1e-12)


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_the_table_has_one_line_for_each_image(run: Run, split: Any) -> None:
    result = evaluate(run, split=split, particles=2, data_points=150)
    end = "" if split == "test" else f"-{split}"
    rows = table(run.path / f"scores{end}.csv")
    assert [row["image"] for row in rows] == [str(number) for number in range(150)]
    images = getattr(run.data, split)
    assert [int(row["label"]) for row in rows] == images.labels[:150].tolist()
    for name in ("elbo", "rate", "distortion", "log_likelihood"):
        mean = np.mean([float(row[f"{name}_nats_per_datum"]) for row in rows])
        assert mean == pytest.approx(result[f"{name}_nats_per_datum"], rel=1e-12)
    assert json.loads((run.path / f"evaluation{end}.json").read_text()) == result
    assert (result["data"], result["split"]) == ("Digits", split)


def test_all_images_of_the_run_are_drawn_once(run: Run) -> None:
    every = run.data.all
    assert len(every) == 1797
    assert torch.equal(every[:], every[:])
    sizes = [len(run.data.train), len(run.data.validation), len(run.data.test)]
    parts = every.labels.split(sizes)
    for part, split in zip(parts, ("train", "validation", "test"), strict=True):
        assert torch.equal(part, getattr(run.data, split).labels)
    # Where nothing is drawn, the images are those of the splits.
    grey = Digits(dequantize="none").load("real", 0)
    assert torch.equal(grey.all[:], torch.cat([grey.train[:], grey.validation[:], grey.test[:]]))


@pytest.mark.parametrize("memory_gib", [None, 0.0])
def test_images_on_disk_are_joined_there(folder: Path, memory_gib: float | None) -> None:
    data = ImageFolder(path=folder, memory_gib=memory_gib, workers=0).load("unit", 0)
    every = data.all
    assert type(every.raw) is type(data.train.raw)
    assert every.names is not None
    assert every.names.tolist() == [f"{number:03}.png".encode() for number in range(30)]
    np.testing.assert_array_equal(every[:].numpy()[:, 0], GREY / np.float32(255))
    chosen = every.first(3)
    assert chosen.names is not None
    assert chosen.names.tolist() == [b"000.png", b"001.png", b"002.png"]


def test_a_split_of_other_data(run: Run, folder: Path) -> None:
    data = ImageFolder(path=folder)
    parts = [
        evaluate(run, split=split, data=data, particles=2)["data_points"]
        for split in ("train", "validation", "test")
    ]
    assert sum(parts) == 30
    names = {
        row["image"]
        for split in ("train", "validation", "test")
        for row in table(run.path / f"scores-ImageFolder-some_pictures-{split}.csv")
    }
    assert len(names) == 30


@pytest.mark.parametrize("count", [1, 2])
def test_a_folder_of_one_picture_or_two(run: Run, tmp_path: Path, count: int) -> None:
    save_pictures(tmp_path / "few", GREY[:count])
    paths = sorted((tmp_path / "few").iterdir())
    data_set = ImageFolder(path=tmp_path / "few")
    result = evaluate(run, data=data_set, particles=2)
    scores = run.score(paths, particles=2)
    assert result["elbo_nats_per_datum"] == pytest.approx(scores.elbo.mean().item(), rel=1e-12)
    assert len(table(run.path / "scores-ImageFolder-few.csv")) == count
    if count == 1:
        with pytest.raises(InputError, match="ImageFolder has no test images; leave test out"):
            evaluate(run, data=data_set, split="test")


def test_what_auto_leaves_open_is_as_the_run_has_it(tmp_path: Path, folder: Path) -> None:
    options = {"data": Digits(dequantize="none"), "likelihood": Gaussian}
    run = train(tmp_path / "run", **options)
    other = run.other_data(ImageFolder(path=folder))
    assert other.dequantize == "none"
    np.testing.assert_array_equal(other.all[:].numpy()[:, 0], GREY / np.float32(255))
    given = run.other_data(ImageFolder(path=folder, dequantize="uniform"))
    assert given.dequantize == "uniform"
    result = evaluate(run, data=ImageFolder(path=folder), particles=2)
    assert "256 grey levels" in result["reference_measure"]


def test_other_data_are_standardised_as_the_run_was(tmp_path: Path, folder: Path) -> None:
    values = np.random.default_rng(0).normal(3, 5, size=(2, 40, 4, 3)).astype(np.float32)
    for name, array in zip(("first", "second"), values, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    data = Arrays(path=tmp_path / "first.npy", scale="standard")
    run = train(tmp_path / "run", data=data, batch_size=10)
    other = run.other_data(Arrays(path=tmp_path / "second.npy", scale="standard"))
    mean, deviation = run.data.moments
    given = np.concatenate([split.raw for split in (other.train, other.validation, other.test)])
    np.testing.assert_allclose(other.all[:].numpy(), (given - mean) / deviation, rtol=1e-5)
    with pytest.raises(InputError, match="expected images of 1 x 4 x 3"):
        run.other_data(ImageFolder(path=folder))


def test_classes_are_those_of_the_run_by_name(tmp_path: Path) -> None:
    """The digits 3 and 7 of another folder are classes 3 and 7 of the run, not 0 and 1."""
    run = train(tmp_path / "run", model=Conditional, guide=ConditionalNormal)
    for name in ("3", "7"):
        save_pictures(tmp_path / "pictures" / name, GREY[:15])
    other = run.other_data(ImageFolder(path=tmp_path / "pictures"))
    assert set(other.all.labels.tolist()) == {3, 7}
    evaluate(run, data=ImageFolder(path=tmp_path / "pictures"), particles=2)
    labels = [row["label"] for row in table(run.path / "scores-ImageFolder-pictures.csv")]
    assert labels == 15 * ["3"] + 15 * ["7"]
    save_pictures(tmp_path / "pictures" / "bird", GREY[:15])
    with pytest.raises(InputError, match=r"expected one of 0, 1, .*; got bird"):
        run.other_data(ImageFolder(path=tmp_path / "pictures"))


def test_images_in_python(run: Run) -> None:
    test = run.data.test
    own = evaluate(run, particles=2)
    given = evaluate(run, data=run.split_of(test[:], test.labels), particles=2)
    assert given["elbo_nats_per_datum"] == own["elbo_nats_per_datum"]
    assert (given["data"], given["split"]) == ("new images", "all")
    assert (run.path / "evaluation-images.json").exists()
    assert table(run.path / "scores-images.csv") == table(run.path / "scores.csv")
    pair = evaluate(run, data=(test[:].numpy(), test.labels.numpy()), particles=2)
    assert pair["elbo_nats_per_datum"] == own["elbo_nats_per_datum"]
    assert table(run.path / "scores-images.csv") == table(run.path / "scores.csv")
    with pytest.raises(InputError, match="--split: images that are given are all measured"):
        evaluate(run, data=test[:5], split="test")


def test_a_class_stands_for_its_instance(run: Run) -> None:
    own = evaluate(run, particles=2)
    result = evaluate(run, data=Digits, split="test", particles=2)
    assert result["elbo_nats_per_datum"] == own["elbo_nats_per_datum"]
    assert (run.path / "evaluation-Digits-test.json").exists()
    assert torch.equal(run.split_of(Digits)[:], run.split_of(Digits())[:])
    with pytest.raises(InputError, match="data: Arrays needs path"):
        run.score(Arrays)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "ImageFoldr"], "--data: got 'ImageFoldr' (did you mean ImageFolder?)"),
        (["--data", "ImageFolder"], "expected --data.path PATH; got none"),
        (["--data"], "--data: expected a class; got none"),
        (["--data", "ImageFolder", "--data.pth", "x"], "--data: unknown option of ImageFolder"),
        (["--data", "ImageFolder", "--data.path", "nowhere"], "expected a folder of images at"),
        (["--data", "Arrays", "--data.path", "{small}"], "those of Arrays are of 1 x 5 x 4"),
        (["--data", "Arrays", "--data.path", "{floats}"], "does not fit the values of Arrays"),
        (["--data", "Digits", "--data_points", "1798"], "1 to 1,797, the images of Digits; got"),
        (["--data_points", "some"], "--data_points: expected a whole number; got some"),
    ],
)
def test_bad_input(run: Run, tmp_path: Path, capsys: Any, arguments: list[str], said: str) -> None:
    np.save(tmp_path / "small.npy", noise(30, 5, 4))
    np.save(tmp_path / "floats.npy", np.linspace(-5, 5, 30 * 64).reshape(30, 8, 8))
    files = {name: tmp_path / f"{name}.npy" for name in ("small", "floats")}
    before = sorted(run.path.rglob("*"))
    capsys.readouterr()
    assert ended(main, run.path, *FEW, *(each.format(**files) for each in arguments)) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert all(note.startswith(("Digits: ", "Arrays: ")) for note in notes)
    assert line.startswith("error: ")
    assert said in line
    assert sorted(run.path.rglob("*")) == before


def test_verbs_without_other_data_say_so(run: Run, capsys: Any) -> None:
    capsys.readouterr()
    assert ended(generate.main, run.path, "reconstruct", "--data", "Digits") == 2
    assert "there is no option --data here, only --data.NAME for" in capsys.readouterr().err
