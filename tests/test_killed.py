"""Runs whose process is killed or signalled at any moment go on to the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import torch
from comparing import assert_same, assert_whole
from serving import serving

from ppl_vae.runs.checkpoints import read_checkpoint

LAST = "checkpoint.safetensors"

SERVER = """
import json, os, sys
import matplotlib, PIL, sklearn.datasets, torch.utils.tensorboard, torch
import ppl_vae.fit, ppl_vae.pictures.plots

torch.set_num_threads(1)
for line in sys.stdin:
    log, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            ppl_vae.fit.main(arguments)
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)
        os._exit(99)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs `python -m ppl_vae.fit ARGUMENTS` in forks of a process that has imported it all."""

    def __init__(self, server: subprocess.Popen, log: Path) -> None:
        self.server = server
        self.log = log

    def start(self, *arguments: str) -> int:
        """Starts a command and gives its process id."""
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps([str(self.log), arguments]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def end(self) -> int:
        """Waits for it and gives its exit code, negative where a signal killed it."""
        assert self.server.stdout
        return int(self.server.stdout.readline())

    def run(self, *arguments: str) -> int:
        self.start(*arguments)
        return self.end()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    with serving(SERVER, folder) as server:
        yield Commands(server, folder / "log.txt")


def command(run: Path, epochs: int, *options: str) -> list[str]:
    network = ["--network.hidden", "[8]", "--latent_dim", "2", "--batch_size", "50"]
    return [*network, "--epochs", str(epochs), "--device", "cpu", "--run", str(run), *options]


def kill_until_finished(
    commands: Commands, folder: Path, kills: int, epochs: int, *options: str
) -> None:
    """Compares a run that is killed so many times at random moments with one that is not."""
    options = (*options, "--checkpoint_seconds", "0.02")
    expected, path = folder / "expected", folder / "runs" / "run"
    began = time.monotonic()
    assert commands.run(*command(expected, epochs, *options)) == 0
    longest = (time.monotonic() - began) / kills
    moments = random.Random(20131220)
    killed = 0
    while killed < kills:
        again = ["--resume", str(path)] if path.exists() else command(path, epochs, *options)
        child = commands.start(*again)
        time.sleep(moments.uniform(0, longest))
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if commands.end() != -signal.SIGKILL:
            # This time it was faster, and over before it was killed often enough: from the start.
            rmtree(path)
            killed, longest = 0, longest / 2
            assert longest > 0.01, commands.log.read_text()
            continue
        killed += 1
        if path.exists():
            assert_whole(path)
    again = ["--resume", str(path)] if path.exists() else command(path, epochs, *options)
    assert commands.run(*again) == 0, commands.log.read_text()
    assert_whole(path)
    assert_same(path, expected)
    assert {p.name for p in path.rglob("*")} - {p.name for p in expected.rglob("*")} <= {
        p.name for p in (path / "tensorboard").iterdir()
    }


def test_kill_at_random_moments(commands: Commands, tmp_path: Path) -> None:
    kill_until_finished(commands, tmp_path, 3, 12, "--patience", "12")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--patience", "200")], ids=["plain", "patience"])
def test_kill_at_twenty_random_moments(
    commands: Commands, tmp_path: Path, options: tuple[str, ...]
) -> None:
    kill_until_finished(commands, tmp_path, 20, 120, *options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kill_of_compiled_steps(commands: Commands, tmp_path: Path, precision: str) -> None:
    options = ["--engine", "compiled", "--precision", precision]
    kill_until_finished(commands, tmp_path, 8, 120, *options)


def test_kill_at_random_moments_while_other_processes_read(
    commands: Commands, tmp_path: Path
) -> None:
    images = torch.randint(256, (600, 6, 6), dtype=torch.uint8)
    np.save(tmp_path / "images.npy", images.numpy())
    options = ["--data", "Arrays", "--data.path", str(tmp_path / "images.npy")]
    options += ["--data.memory_gib", "0", "--data.workers", "1"]
    kill_until_finished(commands, tmp_path, 1, 30, *options)


def wait_for_steps(run: Path) -> None:
    """Until a run that saves often has begun to train."""
    until = time.monotonic() + 120
    while not run.exists() or read_checkpoint(run / LAST)[1]["steps"] == 0:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_signal_ends_in_a_checkpoint_and_exit_code_130(
    commands: Commands, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    often = ("--checkpoint_seconds", "0.02")
    options = ("--patience", "3", "--data.binarize", "dynamic", *often)
    assert commands.run(*command(expected, 8, *options)) == 0
    for number in (signal.SIGINT, signal.SIGTERM):
        path = tmp_path / number.name
        child = commands.start(*command(path, 8, *options))
        wait_for_steps(path)
        os.kill(child, number)
        assert commands.end() == 130
        said = commands.log.read_text().splitlines()
        assert said[-1].endswith(f"go on with: python -m ppl_vae.fit --resume {path}")
        assert not (path / "summary.json").exists()
        assert_whole(path)
        assert commands.run("--resume", str(path)) == 0
        assert_same(path, expected)


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
