"""Images that stay on disk: files that fail, processes that are lost, and images that are held."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import MANY, grey, save_every_kind
from PIL import Image

from ppl_vae.data import Arrays, Data, ImageFolder
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError

# Python 3.12 and later warn of a fork beside threads, which is how torch starts its processes.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return save_every_kind(tmp_path)


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
    names = sorted(f"{('cats', 'dogs')[n % 2]}/{n}.bmp" for n in range(MANY))
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
        monkeypatch.setattr("ppl_vae.data.own_files.free_memory", lambda free=free: free)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert isinstance(data_set.load("unit", 0).train.raw, kind)


def test_free_memory_is_less_than_there_is() -> None:
    from ppl_vae.machine.memory import free_memory

    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < free_memory() < there


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
