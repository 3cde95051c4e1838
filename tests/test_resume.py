"""A run that was stopped, however it was, goes on as if it never had been: bit for bit."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import ppl_vae.fit
import ppl_vae.preparation
import ppl_vae.training
from models import MLP
from ppl_vae.checkpoints import read_checkpoint
from ppl_vae.errors import InputError
from ppl_vae.fit import fit, resume
from ppl_vae.runs import Run, locked
from ppl_vae.svi import SVIStep

STEPS_PER_EPOCH = 4  # 1,297 images in batches of 400
EPOCHS = 3
LAST = "checkpoint.safetensors"


class Crash(BaseException):
    """Stops a run without giving it a chance to save anything more."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and no pictures."""
    torch.set_num_threads(1)
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)


def tiny(path: Path, **options: Any) -> Run:
    chosen = {
        "network": partial(MLP, hidden=(8,)),
        "latent_dim": 2,
        "epochs": EPOCHS,
        "batch_size": 400,
        "checkpoint_seconds": 0.0,
    }
    return fit(run=path, **(chosen | options))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, Path]:
    """Runs that nothing stopped, by their patience."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
        return {p: tiny(folder / f"{p}", patience=p).path for p in (None, 1)}


def assert_same(run: Path, expected: Path) -> None:
    """Metrics, parameters, optimizer and random states are equal to the last bit."""
    name = "metrics.csv"
    assert (run / name).read_bytes() == (expected / name).read_bytes()
    files = {path.name for path in expected.glob("*.safetensors")}
    assert {path.name for path in run.glob("*.safetensors")} == files
    for file in files:
        tensors, state = read_checkpoint(run / file)
        expected_tensors, expected_state = read_checkpoint(expected / file)
        assert_equal(tensors, expected_tensors)
        for each in (state, expected_state):
            each.pop("seconds", None)
            each.get("random", {}).pop("python", None)  # imports draw from it, training does not
        assert state == expected_state
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, expected)]
    for each in summaries:
        for measured in ("training_seconds", "images_per_second", "process_peak_memory_bytes"):
            del each[measured]
    assert summaries[0] == summaries[1]


def assert_equal(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        assert torch.equal(value, expected[name]), name


def at_step(number: int, what: Any) -> Any:
    """`SVIStep.__call__` that does something once, before its step of this number."""
    steps = 0
    original = SVIStep.__call__

    def call(self: SVIStep, *arguments: Any) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == number:
            what()
        return original(self, *arguments)

    return call


def crash() -> None:
    raise Crash


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


# In the first epoch, before and after the end of one, in the middle and at the last step.
@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 8, 9, 12])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
def test_a_crash_at_a_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[int | None, Path],
    step: int,
    checkpoint_seconds: float,
) -> None:
    """From the last step's checkpoint, or from the very first one."""
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(step, crash))
        with pytest.raises(Crash):
            tiny(path, checkpoint_seconds=checkpoint_seconds)
    saved = read_checkpoint(path / LAST)[1]["steps"]
    assert saved == (step - 1 if checkpoint_seconds == 0 else 0)
    torch.manual_seed(77)  # the process that goes on is another one
    resume(path)
    assert_same(path, uninterrupted[None])


def test_a_compiled_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path / "whole", engine="compiled")
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(6, crash))
        with pytest.raises(Crash):
            tiny(path, engine="compiled")
    resume(path)
    assert_same(path, tmp_path / "whole")


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    path = tiny(tmp_path / "run").path
    before = (path / LAST).read_bytes()
    with locked(path), pytest.raises(InputError, match="trained by another process"):
        resume(path)
    assert (path / LAST).read_bytes() == before


def test_resume_computes_where_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny(tmp_path / "run", device="cpu").path
    asked: list[str] = []

    def choose(choice: str) -> torch.device:
        asked.append(choice)
        return torch.device("cpu")

    monkeypatch.setattr(ppl_vae.preparation, "choose_device", choose)
    resume(path)
    resume(path, device="auto")
    assert asked == ["cpu", "auto"]


@pytest.mark.parametrize("patience", [None, 1])
@pytest.mark.parametrize("step", [1, 4, 6, 8, 12])
def test_ctrl_c_at_a_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[int | None, Path],
    patience: int | None,
    step: int,
) -> None:
    """The step is finished and saved; also where it is the last of an epoch or of the run."""
    path = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(step, ctrl_c))
        with pytest.raises(KeyboardInterrupt, match=f"--resume {path}"):
            tiny(path, patience=patience, checkpoint_seconds=1000.0)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(path / LAST)[1]["steps"] == step
    resume(path)
    assert_same(path, uninterrupted[patience])


def test_many_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[int | None, Path]
) -> None:
    """A run that is stopped after every single step."""
    path = tmp_path / "run"
    monkeypatch.setattr(ppl_vae.training, "asked_to_stop", lambda: _AfterOneStep())
    with pytest.raises(KeyboardInterrupt):
        tiny(path, patience=1)
    stops = 1
    while not (path / "summary.json").exists():
        try:
            resume(path)
        except KeyboardInterrupt:
            stops += 1
    assert stops >= STEPS_PER_EPOCH * EPOCHS
    assert_same(path, uninterrupted[1])


class _AfterOneStep:
    """In the place of `asked_to_stop`: yes, as soon as the loop asks for the second time."""

    def __enter__(self):
        self.questions = 0
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self) -> bool:
        self.questions += 1
        return self.questions > 1


@pytest.mark.parametrize("rename", range(1, 41, 5))
def test_a_crash_while_files_are_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[int | None, Path],
    rename: int,
) -> None:
    """Between any two files of a checkpoint: the best, the last and the metrics."""
    path = tmp_path / "run"
    done = 0
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == rename:
            raise Crash
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(Crash):
            tiny(path, patience=1)
    if path.exists():
        assert_whole(path)
        resume(path)
    else:
        assert not list(tmp_path.iterdir())
        tiny(path, patience=1)
    assert_same(path, uninterrupted[1])


def test_a_finished_run_stays_as_it_is(
    tmp_path: Path, uninterrupted: dict[int | None, Path]
) -> None:
    for patience, expected in uninterrupted.items():
        path = tmp_path / f"{patience}"
        tiny(path, patience=patience)
        resume(path)
        assert_same(path, expected)


def test_resume_refuses_a_checkpoint_that_does_not_fit(
    tmp_path: Path, uninterrupted: dict[int | None, Path]
) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        resume(tmp_path / "nowhere")
    path = tmp_path / "run"
    tiny(path, patience=1)
    best, last = path / "best.safetensors", path / LAST
    good = {file: file.read_bytes() for file in (best, last)}
    last.write_bytes(good[best])
    with pytest.raises(InputError, match="has parameters only"):
        resume(path)
    last.write_bytes(good[last])
    other = tiny(tmp_path / "other", network=partial(MLP, hidden=(9,)), patience=1).path
    best.write_bytes((other / "best.safetensors").read_bytes())
    with pytest.raises(InputError, match="not a checkpoint of the pair"):
        resume(path)
    best.unlink()
    with pytest.raises(InputError, match=r"best.safetensors: .* there is no such file"):
        resume(path)
    best.write_bytes(good[best])
    config = yaml.safe_load((path / "config.yaml").read_text())
    for name, value in (("epochs", "ten"), ("batch_size", None), ("learning_rate", None)):
        (path / "config.yaml").write_text(yaml.safe_dump(config | {name: value}))
        with pytest.raises(InputError) as caught:
            resume(path)
        assert "\n" not in str(caught.value)


# Processes that are killed

SERVER = """
import json, os, sys
import matplotlib, PIL, sklearn.datasets, torch.utils.tensorboard, torch
import ppl_vae.fit, ppl_vae.plots

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
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Commands(server, folder / "log.txt")
        assert server.stdin
        server.stdin.close()


def command(run: Path, epochs: int, *options: str) -> list[str]:
    network = ["--network.hidden", "[8]", "--latent_dim", "2", "--batch_size", "50"]
    return [*network, "--epochs", str(epochs), "--device", "cpu", "--run", str(run), *options]


def assert_whole(run: Path) -> None:
    """Every file of a run that is there can be read to its end."""
    yaml.safe_load((run / "config.yaml").read_text())["seed"]
    rows = list(csv.reader((run / "metrics.csv").read_text().splitlines()))
    assert all(len(row) == len(rows[0]) for row in rows)
    read_checkpoint(run / LAST)
    for path in run.rglob("*"):
        if path.name.endswith(".unfinished") or path.is_dir() or path.parent.name == "tensorboard":
            continue
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            read_checkpoint(path)
        else:
            assert path.name in ("config.yaml", "metrics.csv")


def kill_until_finished(
    commands: Commands, folder: Path, kills: int, epochs: int, longest: float, *options: str
) -> None:
    """Compares a run that is killed so many times at random moments with one that is not."""
    options = (*options, "--checkpoint_seconds", "0.02")
    expected, path = folder / "expected", folder / "runs" / "run"
    assert commands.run(*command(expected, epochs, *options)) == 0
    moments = random.Random(20131220)
    killed = 0
    while killed < kills:
        again = ["--resume", str(path)] if path.exists() else command(path, epochs, *options)
        child = commands.start(*again)
        time.sleep(moments.uniform(0, longest))
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            break
        if commands.end() != -signal.SIGKILL:
            break
        killed += 1
        if path.exists():
            assert_whole(path)
    assert killed == kills, "the run was over too soon"
    again = ["--resume", str(path)] if path.exists() else command(path, epochs, *options)
    assert commands.run(*again) == 0, commands.log.read_text()
    assert_whole(path)
    assert_same(path, expected)
    assert {p.name for p in path.rglob("*")} - {p.name for p in expected.rglob("*")} <= {
        p.name for p in (path / "tensorboard").iterdir()
    }


def test_kill_at_random_moments(commands: Commands, tmp_path: Path) -> None:
    kill_until_finished(commands, tmp_path, 3, 12, 0.9, "--patience", "12")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--patience", "200")], ids=["plain", "patience"])
def test_kill_at_twenty_random_moments(
    commands: Commands, tmp_path: Path, options: tuple[str, ...]
) -> None:
    kill_until_finished(commands, tmp_path, 20, 120, 3.0, *options)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kill_of_compiled_steps(commands: Commands, tmp_path: Path, precision: str) -> None:
    options = ["--engine", "compiled", "--precision", precision]
    kill_until_finished(commands, tmp_path, 8, 120, 10.0, *options)


def test_kill_at_random_moments_while_other_processes_read(
    commands: Commands, tmp_path: Path
) -> None:
    images = torch.randint(256, (600, 6, 6), dtype=torch.uint8)
    np.save(tmp_path / "images.npy", images.numpy())
    options = ["--data", "Arrays", "--data.path", str(tmp_path / "images.npy")]
    options += ["--data.memory_gib", "0", "--data.workers", "1"]
    kill_until_finished(commands, tmp_path, 1, 30, 0.5, *options)


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
