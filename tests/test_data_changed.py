"""Data of a run that have changed since: what moves between splits, and what is refused."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from own_images import noise, save_pictures, sizes
from PIL import Image

import ppl_vae.fit
from models import MLP
from ppl_vae.data import Arrays, DataSet, Digits, ImageFolder
from ppl_vae.data.source import fixed_order, split_by_name
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.features import features
from ppl_vae.fit import fit, resume
from ppl_vae.generate import generate
from ppl_vae.posterior import posterior
from ppl_vae.runs.checkpoints import read_checkpoint, write_checkpoint
from ppl_vae.runs.run import Run, load

LAST = "checkpoint.safetensors"


def write(folder: Path, count: int) -> None:
    save_pictures(folder, noise(count, 5, 4))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[DataSet], Path]:
    """Trains a small pair, and gives the run directory."""
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)

    def train(data: DataSet) -> Path:
        options = {"network": partial(MLP, hidden=(8,)), "latent_dim": 2, "epochs": 2}
        return fit(data, batch_size=20, run=tmp_path / "run", **options).path

    return train


def as_written_before(path: Path) -> None:
    """Takes out of a run what runs of earlier releases do not have."""
    config = yaml.safe_load((path / "config.yaml").read_text())
    config["data"]["init_args"].pop("rules", None)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    tensors, state = read_checkpoint(path / LAST)
    state["sizes"] = [int(each.partition("-")[0]) for each in state.pop("fingerprint")]
    write_checkpoint(path / LAST, tensors, state)


# Splits


def test_the_split_of_a_name_is_that_of_its_hash() -> None:
    names = [b"cats/%04d.png" % number for number in range(5000)]
    parts = [part.tolist() for part in split_by_name(names)]
    assert sorted(number for part in parts for number in part) == list(range(5000))
    for split, (low, high) in enumerate([(0.2, 1), (0.1, 0.2), (0, 0.1)]):
        shares = [int(hashlib.sha256(names[n]).hexdigest()[:16], 16) / 2**64 for n in parts[split]]
        assert shares == sorted(shares)
        assert all(low <= share < high for share in shares)
        expected = (high - low) * 5000
        assert abs(len(shares) - expected) < 5 * np.sqrt(expected * (1 - high + low))


def test_a_file_that_comes_goes_or_is_renamed_moves_no_other() -> None:
    names = [b"%04d.png" % number for number in range(600)]

    def split_of(names: list[bytes]) -> dict[bytes, int]:
        parts = split_by_name(names)
        return {names[n]: split for split, part in enumerate(parts) for n in part.tolist()}

    before = split_of(names)
    for changed in (names[1:], [b"zzz.png", *names[1:]], [*names, b"zzz.png"], names[::-1]):
        after = split_of(changed)
        assert all(after[name] == split for name, split in before.items() if name in after)


@pytest.mark.parametrize("count", range(3, 12))
def test_no_split_of_few_images_is_empty(count: int) -> None:
    for first in range(50):
        names = [b"%d" % number for number in range(first, first + count)]
        parts = split_by_name(names)
        assert min(map(len, parts)) >= 1
        assert sorted(torch.cat(parts).tolist()) == list(range(count))


# Runs


def verbs(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: load(path).data,
        lambda: evaluate(load(path), particles=2),
        lambda: posterior(load(path), count=2),
        lambda: generate(load(path), "reconstruct"),
        lambda: features(load(path)),
        lambda: resume(path),
    ]


def refused_by_all(path: Path, said: str) -> None:
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    for verb in verbs(path):
        with pytest.raises(InputError) as caught:
            verb()
        assert said in str(caught.value)
        assert "put the old ones back, or train again" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_picture_that_is_renamed_or_altered(
    tiny: Callable[[DataSet], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    write(folder, 60)
    path = tiny(ImageFolder(path=folder))
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    result = evaluate(load(path), particles=2)

    (folder / "000.png").rename(folder / "zzz.png")
    refused_by_all(path, "expected the images that the run was trained with; of ImageFolder the ")
    (folder / "zzz.png").rename(folder / "000.png")
    for name in ("000.png", "031.png"):
        Image.fromarray(np.full((5, 4), 7, np.uint8)).save(folder / name)
        with pytest.raises(InputError, match="images are others by now"):
            load(path).data  # noqa: B018
        shutil.copy(kept / name, folder / name)
    (folder / "059.png").unlink()
    refused_by_all(path, "expected the 60 images that the run was trained with; ImageFolder has 59")

    # What is said to do, to the end.
    shutil.copy(kept / "059.png", folder)
    again = evaluate(load(path), particles=2)
    assert again["elbo_nats_per_datum"] == result["elbo_nats_per_datum"]
    moved = load(path)
    moved.pieces["data"] = replace(moved.pieces["data"], path=kept)
    assert len(moved.data.test) == result["data_points"]
    (folder / "000.png").rename(folder / "zzz.png")
    shutil.rmtree(path)
    evaluate(load(tiny(ImageFolder(path=folder))), particles=2)
    assert "earlier release" not in capsys.readouterr().err


@pytest.mark.parametrize(("side", "rows"), [(80, 1), (148, 1), (400, 40)])
def test_a_change_in_the_middle_of_uncompressed_pictures(
    tmp_path: Path, side: int, rows: int
) -> None:
    """One row of up to 64 KiB, and a tenth of any larger picture."""
    images = np.random.default_rng(0).integers(256, size=(3, side, side, 3), dtype=np.uint8)
    data_set = ImageFolder(path=tmp_path)

    def fingerprint() -> tuple[str, ...]:
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{number}.bmp")
        return data_set.load("unit", 0).fingerprint

    before = fingerprint()
    for row in range(0, side - rows, 3 * rows):
        kept = images.copy()
        images[:, row : row + rows] = 0
        assert all(a != b for a, b in zip(before, fingerprint(), strict=True))
        images = kept
    assert fingerprint() == before


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_with_other_content_of_the_same_shape(
    tiny: Callable[[DataSet], Path], tmp_path: Path, suffix: str
) -> None:
    images = noise(60, 5, 4)
    file = tmp_path / f"images.{suffix}"

    def save(array: np.ndarray, labels: np.ndarray) -> None:
        if suffix == "npy":
            np.save(file, array)
        else:
            np.savez(file, images=array, labels=labels)

    labels = np.arange(60) % 3
    save(images, labels)
    path = tiny(Arrays(path=file))
    changed = images.copy()
    changed[7, 2, 2] ^= 1
    save(changed, labels)
    refused_by_all(path, "of Arrays the training images are others by now")
    if suffix == "npz":
        save(images, labels[::-1])
        refused_by_all(path, "training and validation and test images are others by now")
    save(images, labels)
    assert load(path).data.sizes == [48, 6, 6]


@pytest.mark.parametrize("kind", [Arrays, ImageFolder])
def test_images_in_memory_and_on_disk_have_one_fingerprint(tmp_path: Path, kind: type) -> None:
    write(tmp_path / "pictures", 60)
    np.save(tmp_path / "pictures.npy", np.random.default_rng(0).random((60, 5, 4)))
    path = tmp_path / ("pictures" if kind is ImageFolder else "pictures.npy")
    held, stored = (kind(path=path, memory_gib=gib).load("real", 0) for gib in (1, 0))
    assert held.fingerprint == stored.fingerprint
    assert held.sizes == stored.sizes == [*sizes(held)]


def test_the_fingerprint_of_large_images_is_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Digits().load("binary", 0).fingerprint
    assert whole == Digits().load("real", 1).fingerprint
    monkeypatch.setattr("ppl_vae.data.fingerprint._DIGESTED", 64 * 100)
    part = Digits().load("binary", 0).fingerprint
    assert all(a != b for a, b in zip(whole, part, strict=True))


# Runs of earlier releases


def test_a_run_without_a_fingerprint_goes_on_with_the_old_split(
    tiny: Callable[[DataSet], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in range(11):
        write(tmp_path / "pictures" / str(label), 10)
    path = tiny(ImageFolder(path=tmp_path / "pictures", rules=1))
    expected = read_checkpoint(path / LAST)[0]
    as_written_before(path)
    (path / "metrics.csv").unlink()
    capsys.readouterr()
    data = load(path).data
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the run is of an earlier release and has no fingerprint")
    names = sorted(f"{label}/{number:03}.png" for label in range(11) for number in range(10))
    order = fixed_order(110).tolist()
    for split, numbers in zip(("test", "validation"), (order[:11], order[11:22]), strict=True):
        pixels = [np.asarray(Image.open(tmp_path / "pictures" / names[n])) for n in numbers]
        assert data.class_names == tuple(sorted(map(str, range(11))))
        assert [data.class_names[y] for y in getattr(data, split).labels] == [
            names[n].split("/")[0] for n in numbers
        ]
        levels = (getattr(data, split)[:, 0] * 256).floor()
        np.testing.assert_array_equal(levels, np.array(pixels))
    resume(path)
    assert capsys.readouterr().err.count("earlier release") == 1
    tensors, state = read_checkpoint(path / LAST)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert state["fingerprint"] == list(data.fingerprint)


def test_the_rules_of_a_run_are_in_its_config(
    tiny: Callable[[DataSet], Path], tmp_path: Path
) -> None:
    write(tmp_path / "pictures", 60)
    run: Run = load(tiny(ImageFolder(path=tmp_path / "pictures")))
    assert run.pieces["data"].rules == 3
