"""Runs whose process is killed or signalled at any moment go on to the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import torch
from comparing import assert_same, assert_whole
from serving import Processes, wait_for_steps


def command(run: Path, epochs: int, *options: str) -> list[str]:
    network = ["--network.hidden", "[8]", "--latent_dim", "2", "--batch_size", "50"]
    return [*network, "--epochs", str(epochs), "--device", "cpu", "--run", str(run), *options]


def kill_until_finished(
    processes: Processes,
    folder: Path,
    kills: int,
    epochs: int,
    *options: str,
    pictures: bool = True,
) -> None:
    """Compares a run that is killed so many times at random moments with one that is not."""
    options = (*options, "--checkpoint_seconds", "0.02")
    expected, path = folder / "expected", folder / "runs" / "run"
    began = time.monotonic()
    assert processes.run(1, command(expected, epochs, *options), pictures) == [0]
    longest = (time.monotonic() - began) / kills
    moments = random.Random(20131220)
    killed = 0
    while killed < kills:
        again = ["--resume", str(path)] if path.exists() else command(path, epochs, *options)
        (child,) = processes.start(1, again, pictures)
        time.sleep(moments.uniform(0, longest))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if processes.end() != [-signal.SIGKILL]:
            # This time it was faster, and over before it was killed often enough: from the start.
            rmtree(path)
            killed, longest = 0, longest / 2
            assert longest > 0.01, processes.said()
            continue
        killed += 1
        if path.exists():
            assert_whole(path)
    again = ["--resume", str(path)] if path.exists() else command(path, epochs, *options)
    assert processes.run(1, again, pictures) == [0], processes.said()
    assert_whole(path)
    assert_same(path, expected)
    assert {p.name for p in path.rglob("*")} - {p.name for p in expected.rglob("*")} <= {
        p.name for p in (path / "tensorboard").iterdir()
    }


def test_kill_at_random_moments(processes: Processes, tmp_path: Path) -> None:
    kill_until_finished(processes, tmp_path, 2, 8, "--patience", "8")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--patience", "200")], ids=["plain", "patience"])
def test_kill_at_twenty_random_moments(
    processes: Processes, tmp_path: Path, options: tuple[str, ...]
) -> None:
    kill_until_finished(processes, tmp_path, 20, 120, *options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kill_of_compiled_steps(processes: Processes, tmp_path: Path, precision: str) -> None:
    options = ["--engine", "compiled", "--precision", precision]
    kill_until_finished(processes, tmp_path, 8, 120, *options)


def test_kill_at_random_moments_while_other_processes_read(
    processes: Processes, tmp_path: Path
) -> None:
    images = torch.randint(256, (600, 6, 6), dtype=torch.uint8)
    np.save(tmp_path / "images.npy", images.numpy())
    options = ["--data", "Arrays", "--data.path", str(tmp_path / "images.npy")]
    options += ["--data.memory_gib", "0", "--data.workers", "1"]
    kill_until_finished(processes, tmp_path, 1, 10, *options, pictures=False)


def test_a_signal_ends_in_a_checkpoint_and_exit_code_130(
    processes: Processes, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    often = ("--checkpoint_seconds", "0.02")
    options = ("--patience", "3", "--data.binarize", "dynamic", *often)
    assert processes.run(1, command(expected, 16, *options)) == [0]
    for number in (signal.SIGINT, signal.SIGTERM):
        path = tmp_path / number.name
        (child,) = processes.start(1, command(path, 16, *options))
        wait_for_steps(path)
        os.kill(child, number)
        assert processes.end() == [130]
        said = processes.said().splitlines()
        assert said[-1].endswith(f"go on with: python -m ppl_vae.fit --resume {path}")
        assert not (path / "summary.json").exists()
        assert_whole(path)
        assert processes.run(1, ["--resume", str(path)]) == [0]
        assert_same(path, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_unfinished(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from ppl_vae.command_line.verbs import run_verb\n"
        "from ppl_vae.machine.files import unfinished_folder\n"
        "def verb(arguments):\n"
        "    with unfinished_folder(Path(arguments[0])) as folder:\n"
        "        (folder / 'a').touch()\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        time.sleep(60)\n"
        "run_verb(verb)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out" / "images")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*"))


def test_ctrl_c_while_libraries_are_imported(tmp_path: Path) -> None:
    """Of which one takes a minute here."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, sys, time\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'pyro':\n"
        "            print('importing', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "ppl_vae.evaluate", "--help"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent.parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert said == "interrupted\n"


def test_ctrl_c_of_a_command(tmp_path: Path) -> None:
    """The real command, in a process of its own."""
    path = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ppl_vae.fit"),
            *command(path, 100_000, "--checkpoint_seconds", "0.02"),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_steps(path)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith(f"python -m ppl_vae.fit --resume {path}")
