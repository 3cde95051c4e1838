"""Images that a script has in memory: every kind, and a run that is as complete as any other."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from own_images import SPLITS, noise, sizes
from PIL import Image
from tiny_runs import LAST, OPTIONS, Crash, crash_in_second_epoch, exit_code, metrics, tiny
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import ppl_vae.fit
from ppl_vae import evaluate, load
from ppl_vae.data import Arrays, Digits
from ppl_vae.data.source import fixed_order
from ppl_vae.errors import InputError
from ppl_vae.fit import resume
from ppl_vae.objectives import ELBO
from ppl_vae.runs.checkpoints import read_checkpoint

IMAGES = noise(60, 5, 4)
LABELS = np.arange(60) % 3

pytestmark = pytest.mark.usefixtures("no_pictures")


class Items(Dataset):
    """A map-style data set of whatever it is given."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def in_memory(kind: str) -> tuple[Any, np.ndarray]:
    """Images of one kind, and the array that they are."""
    real = (IMAGES / 128).astype(np.float32)
    colour = noise(60, 3, 5, 4)
    values: dict[str, tuple[Any, np.ndarray]] = {
        "array": (IMAGES, IMAGES),
        "columns first": (np.asfortranarray(IMAGES), IMAGES),
        "bool": (IMAGES > 99, IMAGES > 99),
        "colour": (colour, colour),
        "tensor": (torch.from_numpy(real).requires_grad_(), real),
        "bfloat16": (torch.from_numpy(IMAGES).bfloat16(), IMAGES.astype(np.float32)),
        "items": (Items(*IMAGES), IMAGES),
        "subset": (Subset(Items(*IMAGES, 0, 1), range(60)), IMAGES),
        "one-tuples": (TensorDataset(torch.from_numpy(real)), real),
        "pictures": (Items(*map(Image.fromarray, IMAGES)), IMAGES[:, None]),
        "bits": (Items(*(Image.fromarray(each) for each in IMAGES > 99)), 255 * (IMAGES > 99)),
        "mixed pictures": (
            Items(*(Image.fromarray(i).convert("RGB" if i[0, 0] % 2 else "L") for i in IMAGES)),
            IMAGES[:, None].repeat(3, 1),
        ),
        "deep pictures": (
            Items(*(Image.fromarray(i.astype(np.uint16) * 200) for i in IMAGES)),
            IMAGES.astype(np.int32)[:, None] * 200,
        ),
    }
    return values[kind]


KINDS = [
    "array", "columns first", "bool", "colour", "tensor", "bfloat16", "items", "subset",
    "one-tuples", "pictures", "bits", "mixed pictures", "deep pictures",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_images_in_memory_are_those_of_the_same_file(kind: str, arrays) -> None:
    value, array = in_memory(kind)
    array = array.astype(np.uint8) if kind == "bits" else array
    held, read = Arrays.of(value), arrays(array)
    assert held.default_domain == read.default_domain
    domain = held.default_domain
    one, other = held.load(domain, 0), read.load(domain, 0)
    assert one.fingerprint == other.fingerprint
    assert one.note == other.note
    for split in SPLITS:
        torch.manual_seed(0)
        expected = getattr(other, split)[:]
        torch.manual_seed(0)
        assert torch.equal(getattr(one, split)[:], expected)


@pytest.mark.parametrize(
    "value",
    [
        (IMAGES, LABELS),
        (IMAGES, LABELS.tolist()),
        (torch.from_numpy(IMAGES), torch.from_numpy(LABELS)),
        Items(*zip(IMAGES, LABELS, strict=True)),
        Items(*([image, int(label)] for image, label in zip(IMAGES, LABELS, strict=True))),
        TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS)),
    ],
)
def test_labels_in_memory_are_those_of_the_same_file(value, tmp_path) -> None:
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    data, other = (d.load("real", 0) for d in (Arrays.of(value), Arrays(tmp_path / "images.npz")))
    assert data.fingerprint == other.fingerprint
    assert data.classes == 3


def test_splits_of_ones_own_stay_as_they_are() -> None:
    given = Arrays.of(
        (IMAGES, LABELS + 4), validation=(IMAGES[:7], LABELS[:7] + 5), test=IMAGES[:9]
    )
    data = given.load("bytes", 0)
    assert sizes(data) == (60, 7, 9)
    np.testing.assert_array_equal(data.train[:][:, 0], IMAGES[fixed_order(60).numpy()])
    np.testing.assert_array_equal(data.validation[:][:, 0], IMAGES[:7])
    np.testing.assert_array_equal(data.test[:][:, 0], IMAGES[:9])
    assert data.class_names == ("4", "5", "6", "7")
    assert data.validation.labels.tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert data.test.labels.tolist() == [-1] * 9
    assert "; classes 4 20, 5 23, 6 22, 7 2; 9 unlabeled" in data.note


# Runs


def test_the_run_is_that_of_the_same_file_and_keeps_its_images(tmp_path, capsys) -> None:
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    test = IMAGES[:5] // 2
    np.save(tmp_path / "test.npy", test)
    of_files = tiny(
        tmp_path / "a", data=Arrays(tmp_path / "images.npz", test=tmp_path / "test.npy")
    )
    run = tiny(tmp_path / "b", data=(IMAGES, LABELS), test=test)
    assert metrics(run.path) == metrics(of_files.path)
    assert run.data.name == "Arrays"
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["data"]["class_path"] == "ppl_vae.data.Arrays"
    assert config["data"]["init_args"]["path"] == "data/images.npz"
    assert config["data"]["init_args"]["test"] == "data/test.npz"
    capsys.readouterr()
    moved = shutil.move(run.path, tmp_path / "moved")
    (tmp_path / "images.npz").unlink()
    read = load(moved)
    assert torch.equal(read.data.test.raw, of_files.data.test.raw)
    assert torch.equal(read.data.test.labels, torch.full((5,), -1))
    assert evaluate.evaluate(read, particles=2)["data_points"] == 5
    assert exit_code(evaluate, str(moved), "--particles", "2") == 0
    again = tmp_path / "again"
    config = f"{moved}/config.yaml"
    assert exit_code(ppl_vae.fit, "--config", config, "--run", str(again)) == 0
    assert metrics(again) == metrics(moved)


def test_a_stopped_run_goes_on_from_the_images_that_it_keeps(tmp_path, monkeypatch) -> None:
    train = partial(tiny, data=IMAGES, validation=IMAGES[:6], epochs=3, checkpoint_seconds=0.0)
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.training.loop.events", crash_in_second_epoch)
        with pytest.raises(Crash):
            train(tmp_path / "stopped")
    moved = Path(shutil.move(tmp_path / "stopped", tmp_path / "moved"))
    resume(moved)
    assert metrics(moved) == metrics(whole.path)
    ours, theirs = (read_checkpoint(path / LAST)[0] for path in (moved, whole.path))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "seconds" not in name)


def test_a_class_is_an_instance_of_its_defaults(tmp_path) -> None:
    run = tiny(tmp_path / "run", data=Digits, objective=ELBO)
    assert run.pieces["data"] == Digits()
    assert run.pieces["objective"] == ELBO()
    some = tiny(
        tmp_path / "some",
        data=partial(Digits, classes=[1, 2]),
        objective=partial(ELBO, particles=2),
    )
    assert some.pieces["data"] == Digits(classes=[1, 2])
    assert load(some.path).pieces["objective"] == ELBO(particles=2)


def test_a_large_copy_is_said_before_it_is_made(tmp_path, capsys) -> None:
    part = Arrays.of(np.broadcast_to(np.zeros((1, 1), np.uint8), (2**15, 2**8, 2**8)))
    assert part.in_memory is not None
    (tmp_path / "data").write_text("in the way of the copy")
    with pytest.raises(FileExistsError):
        part.save(tmp_path)
    assert "keeps a copy of the images, 2.0 GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"data": Arrays},
            "data: Arrays needs path; give an instance, as in data=Arrays(path=...)",
        ),
        ({"data": partial(Digits, classes=3)}, "data: Digits: expected --data.classes as a list"),
        ({"data": ELBO}, "data: expected a concrete DataSet; got ELBO"),
        ({"objective": Digits}, "objective: expected a concrete Objective; got Digits"),
        ({"data": "MNIST"}, "got the text 'MNIST'; a data set is given as in data=MNIST(root="),
        ({"data": [IMAGES, IMAGES]}, "got a list of 2; stack images with numpy.stack"),
        ({"data": DataLoader(Items(*IMAGES))}, "got a DataLoader; give its .dataset"),
        ({"data": Stream()}, "got an IterableDataset, which has no length"),
        ({"data": Items()}, "data: expected images; the Items is empty"),
        ({"data": Items("x")}, "data[0]: expected an array, a tensor or a picture"),
        ({"data": Items((IMAGES[0], 0.5))}, "data[0]: expected a whole number as label; got 0.5"),
        ({"data": Items((IMAGES[0], 1), IMAGES[0])}, "data[1]: expected labels of all images or"),
        ({"data": Items(IMAGES[0], (IMAGES[0], 1))}, "data[1]: expected labels of all images or"),
        (
            {"data": Items(IMAGES[0], IMAGES[0].T)},
            "(5, 4) and uint8 of shape (4, 5) in data[0] and",
        ),
        ({"data": IMAGES[0, 0]}, "expected images of shape (N, H, W)"),
        ({"data": (IMAGES, LABELS[:5])}, "expected one label for each of 60 images in data"),
        ({"data": (IMAGES, LABELS / 2)}, "expected labels of shape (N,) and an integer type"),
        ({"data": IMAGES, "test": IMAGES[:, :2]}, "expected images of one size and type in all"),
        ({"data": IMAGES, "test": IMAGES / 2}, "uint8 of 1 x 5 x 4 in data and float64 of"),
        ({"data": Digits, "test": IMAGES}, "test: Digits has its own test images"),
        (
            {"data": Arrays.of(IMAGES), "validation": IMAGES},
            "validation: Arrays has its own validation images; give it there, as in Arrays.of(",
        ),
        ({"validation": IMAGES}, "validation: Digits has its own validation images"),
        (
            {"data": IMAGES[:2]},
            "expected training, validation and test images; got 1 / 0 / 1",
        ),
        ({"data": np.full((9, 5, 4), np.nan)}, "all of Arrays are missing (NaN)"),
    ],
)
def test_what_are_no_images_is_refused_in_one_line(tmp_path, options, said: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny(tmp_path / "run", **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": LABELS}, "groups: expected the path of a .npy file; got ndarray; save them"),
        ({"binarize": "always"}, "data: expected --data.binarize of"),
    ],
)
def test_wrong_options_beside_images(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Arrays.of((IMAGES, LABELS), **options)
    assert said in str(caught.value)


def test_groups_of_images_in_memory_are_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "groups.npy", LABELS)
    data = Arrays.of((IMAGES, LABELS), groups=tmp_path / "groups.npy").load("bytes", 0)
    labels = [{*getattr(data, split).labels.tolist()} for split in SPLITS]
    assert sorted(map(list, labels)) == [[0], [1], [2]]


def test_the_command_line_takes_files_only(capsys) -> None:
    for option in ("--validation", "--data.in_memory"):
        assert exit_code(ppl_vae.fit, *OPTIONS, "--data", "Arrays", option, "x") == 2
        assert option.removeprefix("--data.") in capsys.readouterr().err
