"""Images that stay on disk: the same numbers as in memory, bit for bit, at the same memory."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import assert_equal
from own_images import SPLITS, grey, save_every_kind

import ppl_vae.fit
from models import MLP, Bernoulli
from ppl_vae.data import Arrays, ImageFolder
from ppl_vae.data.stored import Stored
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit
from ppl_vae.latents.views import interpolate, reconstruct, traverse
from ppl_vae.runs.checkpoints import read_checkpoint

# Python 3.12 and later warn of a fork beside threads, which is how torch starts its processes.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return save_every_kind(tmp_path)


CASES = [
    (Arrays, "grey.npy", "real", {}),
    (Arrays, "grey.npy", "real", {"dequantize": "none"}),
    (Arrays, "grey.npy", "bytes", {}),
    (Arrays, "grey.npy", "binary", {"binarize": "dynamic"}),
    (Arrays, "grey.npy", "binary", {"binarize": "threshold"}),
    (Arrays, "colour.npy", "real", {}),
    (Arrays, "bits.npy", "binary", {}),
    (Arrays, "real.npy", "real", {}),
    (Arrays, "unit.npy", "unit", {}),
    (Arrays, "unit.npy", "binary", {"binarize": "threshold"}),
    (Arrays, "labelled.npz", "real", {}),
    (ImageFolder, "pictures", "unit", {}),
    (ImageFolder, "pictures", "real", {}),
]


@pytest.mark.parametrize(("kind", "name", "domain", "options"), CASES)
def test_every_number_is_that_of_memory(
    files: Path, kind: type, name: str, domain, options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppl_vae.data.stored._PIECE", 150)  # seven images and a half
    held = kind(path=files / name, **options).load(domain, 0)
    data = kind(path=files / name, memory_gib=0, workers=1, **options).load(domain, 0)
    assert isinstance(data.train.raw, Stored)
    assert data.note == held.note.replace("in memory", "read from disk by 1 process")
    assert data.image_shape == held.image_shape
    for split in SPLITS:
        one, other = getattr(data, split), getattr(held, split)
        assert one.raw.shape == other.raw.shape
        assert (one.labels is None) == (other.labels is None)
        count = len(one)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
        mask = torch.arange(count) % 3 == 1
        indices = [slice(None), order, [3, 1, 1], mask, slice(5, 2), slice(2, 7)]
        some = [*order.split(17), slice(3), order[:1]]
        both = []
        for each in (one, other):
            torch.manual_seed(3)
            both.append([each[index] for index in indices])
            for labelled in (False, True):
                both[-1] += chain(*each.batches(some, labelled))
            both[-1] += [each.batch(order[:9], True)[1], each.first(4)[[2, 0]]]
        assert len(both[0]) == len(both[1])
        assert all(map(torch.equal, *both))


def test_noise_that_is_drawn_once_does_not_depend_on_who_asks_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ppl_vae.data.stored._PIECE", 40)  # two images
    np.save(tmp_path / "grey.npy", grey((400, 5, 4)))
    held, data = (
        Arrays(path=tmp_path / "grey.npy", memory_gib=gib).load("real", 0) for gib in (1, 0)
    )
    for index in ([39], [0], [20, 3, 38], slice(None)):
        assert torch.equal(data.test[index], held.test[index])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_is_that_of_memory(
    files: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    network = partial(MLP, hidden=(8,))
    options = {"network": network, "latent_dim": 2, "epochs": 3, "batch_size": 30}
    held = Arrays(files / "grey.npy", binarize="dynamic")
    streamed = replace(held, memory_gib=0, workers=workers)
    runs = [
        fit(data, likelihood=Bernoulli, run=files / name, **options).path
        for name, data in (("held", held), ("streamed", streamed))
    ]
    csvs = [(run / "metrics.csv").read_bytes() for run in runs]
    assert csvs[0] == csvs[1]
    assert_equal(*(read_checkpoint(run / "checkpoint.safetensors")[0] for run in runs))


def test_the_other_verbs_read_from_disk(files: Path) -> None:
    """Pictures, evaluation and generation of a run whose images are not held."""
    data = ImageFolder(path=files / "pictures", memory_gib=0, workers=1)
    options = {"network": partial(MLP, hidden=(8,)), "epochs": 1, "batch_size": 50}
    path = fit(data, run=files / "run", **options).path
    assert (path / "pictures" / "reconstructions.png").exists()
    results = []
    for gib, kind in ((0.0, Stored), (1.0, torch.Tensor)):
        run = ppl_vae.load(path)
        run.pieces["data"] = replace(run.pieces["data"], memory_gib=gib)
        assert isinstance(run.data.test.raw, kind)
        result = evaluate(run, particles=3)
        del result["seconds"]
        arrays = [reconstruct(run, count=3), traverse(run, steps=2), interpolate(run, count=2)]
        results.append((result, [{k: v.tolist() for k, v in each.items()} for each in arrays]))
    assert results[0] == results[1]


# Memory

READING = """
import multiprocessing, sys, torch
from ppl_vae.data import Arrays

def anonymous(process):
    # Without the pages of files, which the system takes back, and maps as many of as it likes.
    with open(f"/proc/{process}/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

torch.set_num_threads(1)
own, readers = 0, 0
for path, memory_gib in zip(sys.argv[1::2], map(float, sys.argv[2::2])):
    data = Arrays(path=path, memory_gib=memory_gib, workers=1).load("real", 0)
    for split, order in (data.train, torch.randperm), (data.validation, torch.arange):
        order, total = order(len(split)), 0
        for x in split.batches(order.split(500), labelled=False):
            total, own = total + len(x[0]), max(own, anonymous("self"))
            for reader in multiprocessing.active_children():
                readers = max(readers, anonymous(reader.pid))
        assert total == len(split)
    print(own, readers)
"""


def test_memory_is_flat_in_the_number_of_images(tmp_path: Path) -> None:
    """Peaks of one process, so far, in MiB: 20,000 images of 256 bytes, 200,000, and those held."""
    few, many = tmp_path / "few.npy", tmp_path / "many.npy"
    np.save(few, np.zeros((20_000, 16, 16), np.uint8))
    np.save(many, np.zeros((200_000, 16, 16), np.uint8))
    arguments = [str(few), "0", str(many), "0", str(many), "1"]
    done = subprocess.run(
        [sys.executable, "-c", READING, *arguments], capture_output=True, text=True, check=True
    )
    (first, reader), (second, second_reader), (held, _) = np.reshape(
        [float(line) for line in done.stdout.split()], (3, 2)
    )
    # Half of the 44 that there are more to read. A reader begins with the memory of its parent.
    assert second - first < 22
    assert second_reader - reader < 22
    assert held - second > 30  # what would be seen if they were kept
