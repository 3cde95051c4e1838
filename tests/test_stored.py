"""Images that stay on disk: the same numbers as in memory, bit for bit, at the same memory."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import assert_equal
from own_images import SPLITS, noise
from PIL import Image

import ppl_vae.fit
from models import MLP, Bernoulli
from ppl_vae.data import Arrays, Data, ImageFolder
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit
from ppl_vae.latents.views import interpolate, reconstruct, traverse
from ppl_vae.runs.checkpoints import read_checkpoint

COUNT = 130

# Python 3.12 and later warn of a fork beside threads, which is how torch starts its processes.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def grey(shape: tuple[int, ...] = (COUNT, 5, 4)) -> np.ndarray:
    return noise(*shape)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The same kinds of images in every kind of file."""
    np.save(tmp_path / "grey.npy", grey())
    np.save(tmp_path / "colour.npy", grey((COUNT, 3, 5, 4)))
    np.save(tmp_path / "bits.npy", grey() > 99)
    np.save(tmp_path / "real.npy", (grey() / 128).astype(">f8"))
    np.save(tmp_path / "unit.npy", (grey() / 255).astype(np.float16))
    np.savez(tmp_path / "labelled.npz", labels=np.arange(COUNT) % 3, images=grey())
    for folder in ("cats", "dogs"):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
    for number, picture in enumerate(grey()):
        name = f"pictures/{('cats', 'dogs')[number % 2]}/{number}.bmp"
        Image.fromarray(picture).save(tmp_path / name)
    return tmp_path


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
import resource, sys, torch
from ppl_vae.data import Arrays

def own():
    # Without the pages of files, which the system takes back, and maps as many of as it likes.
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

torch.set_num_threads(1)
peak = 0
for path, memory_gib in zip(sys.argv[1::2], map(float, sys.argv[2::2])):
    data = Arrays(path=path, memory_gib=memory_gib, workers=1).load("real", 0)
    for split, order in (data.train, torch.randperm), (data.validation, torch.arange):
        order, total = order(len(split)), 0
        for x in split.batches(order.split(500), labelled=False):
            total, peak = total + len(x[0]), max(peak, own())
        assert total == len(split)
    print(peak)
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
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


# What goes wrong


def epoch(data: Data) -> int:
    order = torch.arange(len(data.train))
    return sum(len(x) for (x,) in data.train.batches(order.split(10), labelled=False))


def line_of(data: Data) -> str:
    with pytest.raises(InputError) as caught:
        epoch(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(
    files: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppl_vae.data.stored._READ", 20)  # the first image has enough values
    pictures = files / "pictures"
    data_set = ImageFolder(path=pictures, memory_gib=0, workers=workers)
    data = data_set.load("unit", 0)
    training = data.train.raw.rows.tolist()
    names = sorted(f"{('cats', 'dogs')[n % 2]}/{n}.bmp" for n in range(COUNT))
    victim = pictures / names[training[50]]
    content = victim.read_bytes()
    victim.write_bytes(content[:-5])  # the header is whole
    said = line_of(data_set.load("unit", 0))
    assert str(victim) in said
    assert "replace or remove it" in said
    Image.fromarray(grey((4, 4))).save(victim)
    assert "of 4 x 5 pixels, as its header said; got 4 x 4" in line_of(data)
    victim.unlink()
    assert str(victim) in line_of(data)
    victim.write_bytes(content)
    assert epoch(data) == len(data.train)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_array_that_is_cut_or_disappears(files: Path, workers: int) -> None:
    path = files / "grey.npy"
    data = Arrays(path=path, memory_gib=0, workers=workers).load("unit", 0)
    path.write_bytes(path.read_bytes()[:-1])
    assert "restore the file as it was" in line_of(data)
    path.unlink()
    assert str(path) in line_of(data)


@pytest.mark.slow  # torch looks for lost processes every five seconds
def test_a_process_that_is_lost(files: Path) -> None:
    data = Arrays(path=files / "grey.npy", memory_gib=0, workers=1).load("unit", 0)
    batches = data.train.batches([slice(5)] * 2000, labelled=False)
    next(batches)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    with pytest.raises(InputError, match="a process that reads images was lost") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def test_a_signal_to_all_processes_waits_for_the_batch(files: Path) -> None:
    """Ctrl-C on a terminal goes to the processes that read, too; what it means the run decides."""
    data = Arrays(path=files / "grey.npy", memory_gib=0, workers=1).load("unit", 0)
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        batches = data.train.batches([slice(5)] * 50, labelled=False)
        next(batches)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for process in (os.getpid(), int(children[-1])):
            os.kill(process, signal.SIGINT)
        assert sum(1 for _ in batches) == 49
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [1]


def test_what_cannot_be_read_in_pieces(refused, tmp_path: Path) -> None:
    """Each remedy of the line is followed to the end."""
    path = tmp_path / "small.npz"
    np.savez_compressed(path, images=grey())
    data_set = Arrays(path=path, memory_gib=0)
    refused(data_set, "real", "compressed", "numpy.savez")
    np.savez(path, images=grey())
    assert isinstance(data_set.load("real", 0).train.raw, Stored)
    data_set = Arrays(path=tmp_path / "columns.npy", memory_gib=0)
    np.save(tmp_path / "columns.npy", np.asfortranarray(grey()))
    refused(data_set, "real", "ascontiguousarray")
    np.save(tmp_path / "columns.npy", np.ascontiguousarray(grey()))
    assert isinstance(data_set.load("real", 0).train.raw, Stored)
    data_set = replace(data_set, binarize="fixed")
    refused(data_set, "binary", "--data.binarize fixed", "dynamic", "--data.memory_gib")
    for changed in ({"binarize": "dynamic"}, {"memory_gib": 1}):
        assert replace(data_set, **changed).load("binary", 0).levels == 256


@pytest.mark.parametrize(
    ("kind", "name"), [(Arrays, "grey.npy"), (Arrays, "masks.npy"), (ImageFolder, "pictures")]
)
def test_a_reader_can_go_to_a_process_that_is_started_afresh(
    files: Path, kind: type, name: str
) -> None:
    """As on macOS and Windows, where processes are not forked."""
    np.save(files / "masks.npy", np.where(grey() > 99, 255, 0).astype(np.uint16))
    images = kind(path=files / name, memory_gib=0).load("bytes", 0).test.raw
    read = pickle.loads(pickle.dumps(images.read))
    np.testing.assert_array_equal(read(images.rows.numpy()), images[:].numpy())


def test_images_are_held_where_they_fit(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the free memory, for all processes of the run on the machine together."""
    data_set = Arrays(path=files / "grey.npy")
    assert isinstance(data_set.load("unit", 0).train.raw, torch.Tensor)
    for free, processes, kind in (
        (4 * 2600, 1, torch.Tensor),
        (4 * 2600 - 4, 1, Stored),
        (8 * 2600, 2, torch.Tensor),
        (4 * 2600, 2, Stored),
    ):
        monkeypatch.setattr("ppl_vae.data.own_files._free_memory", lambda free=free: free)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert isinstance(data_set.load("unit", 0).train.raw, kind)


def test_free_memory_is_less_than_there_is() -> None:
    from ppl_vae.data.own_files import _free_memory

    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < _free_memory() < there


LEFT_ALONE = """
import multiprocessing, time
import torch
from ppl_vae.data import Arrays

stored = Arrays("large.npy", memory_gib=0, workers=2).load("bytes", 0).train.raw
batches = stored.batches([slice(8 * k, 8 * k + 8) for k in range(12)])
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def test_no_process_that_reads_outlives_the_one_it_reads_for(tmp_path: Path) -> None:
    """Each is handing over a batch, which is more than a pipe holds."""
    np.save(tmp_path / "large.npy", np.zeros((120, 512, 512), np.uint8))
    source = Path(__file__).parent.parent
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LEFT_ALONE],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(source)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    with parent:
        assert parent.stdout
        readers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(readers) == 2
        time.sleep(1)  # in which their pipes fill
        parent.kill()
    deadline = time.monotonic() + 15
    while any(map(_alive, readers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [pid for pid in readers if _alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
