"""A run that was stopped, however it was, goes on as if it never had been: bit for bit."""

import os
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from comparing import assert_same, assert_whole
from tiny_runs import LAST, Crash, at_step, crash, tiny, without_pictures
from torch import Tensor

import ppl_vae.fit
import ppl_vae.training.loop
import ppl_vae.training.preparation
from models import MLP
from ppl_vae import load
from ppl_vae.data import Arrays
from ppl_vae.errors import InputError
from ppl_vae.fit import fit, resume
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.runs.directory import locked
from ppl_vae.runs.run import Run
from ppl_vae.training.step import SVIStep

STEPS_PER_EPOCH = 4  # 1,297 images in batches of 400
EPOCHS = 3

pytestmark = pytest.mark.usefixtures("no_pictures")


def small(path: Path, **options: Any) -> Run:
    chosen = {"epochs": EPOCHS, "batch_size": 400, "checkpoint_seconds": 0.0}
    return tiny(path, **(chosen | options))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, Path]:
    """Runs that nothing stopped, by their patience."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with without_pictures():
        return {p: small(folder / f"{p}", patience=p).path for p in (None, 1)}


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


# In the first step, before and after the end of an epoch, in the middle of one and at the last.
@pytest.mark.parametrize(
    ("step", "checkpoint_seconds"),
    [(1, 0.0), (4, 0.0), (5, 0.0), (7, 0.0), (8, 0.0), (12, 0.0), (1, 1000.0), (9, 1000.0)],
)
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
            small(path, checkpoint_seconds=checkpoint_seconds)
    saved = read_checkpoint(path / LAST)[1]["steps"]
    assert saved == (step - 1 if checkpoint_seconds == 0 else 0)
    torch.manual_seed(77)  # the process that goes on is another one
    resume(path)
    assert_same(path, uninterrupted[None])


def test_a_compiled_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "run"
    with monkeypatch.context() as patch:
        keep = partial(shutil.copytree, whole, path)
        patch.setattr(SVIStep, "__call__", at_step(6, keep))
        small(whole, engine="compiled")
    assert read_checkpoint(path / LAST)[1]["steps"] == 5
    resume(path)
    assert_same(path, whole)


def test_two_processes_do_not_train_one_run(tmp_path: Path) -> None:
    path = small(tmp_path / "run").path
    before = (path / LAST).read_bytes()
    with locked(path), pytest.raises(InputError, match="trained by another process"):
        resume(path)
    assert (path / LAST).read_bytes() == before


def test_a_run_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a child, which is no longer root."""
    path = small(tmp_path / "run").path
    monkeypatch.setattr(ppl_vae.fit, "prepare", lambda *arguments: pytest.fail("it began"))
    for place in (path, tmp_path):
        place.chmod(0o555)
    for parent in tmp_path.parents:
        if parent.is_relative_to(tempfile.gettempdir()) and parent.owner() == path.owner():
            parent.chmod(parent.stat().st_mode | 0o055)
    for begin in (partial(resume, path), partial(fit, run=tmp_path / "new")):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                begin()
            except InputError as error:
                line = f"cannot write to {begin.keywords.get('run', path)}: Permission denied; "
                code = 0 if str(error) == line + "choose another place" else 98
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for place in (tmp_path, path):
        place.chmod(0o755)


def test_resume_computes_where_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "run", device="cpu").path
    asked: list[str] = []

    def choose(choice: str) -> torch.device:
        asked.append(choice)
        return torch.device("cpu")

    monkeypatch.setattr(ppl_vae.training.preparation, "choose_device", choose)
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
            small(path, patience=patience, checkpoint_seconds=1000.0)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(path / LAST)[1]["steps"] == step
    resume(path)
    assert_same(path, uninterrupted[patience])


def test_many_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[int | None, Path]
) -> None:
    """A run that is stopped after every single step."""
    path = tmp_path / "run"
    monkeypatch.setattr(ppl_vae.training.loop, "asked_to_stop", lambda: _AfterOneStep())
    with pytest.raises(KeyboardInterrupt):
        small(path, patience=1)
    stops = 1
    while not (path / "summary.json").exists():
        try:
            resume(path)
        except KeyboardInterrupt:
            stops += 1
    assert stops >= (STEPS_PER_EPOCH + 1) * EPOCHS - 1  # after each step, in each validation
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
            small(path, patience=1)
    if path.exists():
        assert_whole(path)
        resume(path)
    else:
        assert not list(tmp_path.iterdir())
        small(path, patience=1)
    assert_same(path, uninterrupted[1])


def test_a_finished_run_stays_as_it_is(
    tmp_path: Path, uninterrupted: dict[int | None, Path]
) -> None:
    for patience, expected in uninterrupted.items():
        path = tmp_path / f"{patience}"
        small(path, patience=patience)
        resume(path)
        assert_same(path, expected)


def test_resume_refuses_a_checkpoint_that_does_not_fit(
    tmp_path: Path, uninterrupted: dict[int | None, Path]
) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        resume(tmp_path / "nowhere")
    path = tmp_path / "run"
    small(path, patience=1)
    best, last = path / "best.safetensors", path / LAST
    good = {file: file.read_bytes() for file in (best, last)}
    last.write_bytes(good[best])
    with pytest.raises(InputError, match="has parameters only"):
        resume(path)
    last.write_bytes(good[last])
    other = small(tmp_path / "other", network=partial(MLP, hidden=(9,)), patience=1).path
    best.write_bytes((other / "best.safetensors").read_bytes())
    with pytest.raises(InputError, match="not a checkpoint of the pair"):
        resume(path)
    best.unlink()
    with pytest.raises(InputError, match=r"best.safetensors: .* there is no such file"):
        resume(path)
    best.write_bytes(good[best])
    config = yaml.safe_load((path / "config.yaml").read_text())
    for name, value in (("epochs", "ten"), ("batch_size", "many"), ("learning_rate", "fast")):
        (path / "config.yaml").write_text(yaml.safe_dump(config | {name: value}))
        with pytest.raises(InputError) as caught:
            resume(path)
        assert "\n" not in str(caught.value)


def test_data_that_have_changed_are_refused(tmp_path: Path) -> None:
    """Another number of images would be split in another way."""
    images = (np.random.default_rng(0).random((60, 5, 4)) * 255).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    data = Arrays(path=tmp_path / "images.npy")
    path = small(tmp_path / "run", data=data, batch_size=20).path
    np.save(tmp_path / "images.npy", np.concatenate([images, images]))
    before = (path / LAST).read_bytes()
    said = "expected the 60 images that the run was trained with; Arrays has 120 by now"
    with pytest.raises(InputError, match=said):
        resume(path)
    with pytest.raises(InputError, match=said):
        load(path).data  # noqa: B018
    assert (path / LAST).read_bytes() == before


@pytest.mark.usefixtures("traced_steps")
def test_a_finished_run_is_not_compiled_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small(tmp_path / "run", engine="compiled").path
    assert load(path).summary["engine"] == "compiled"
    assert load(path).summary["precision"] == "float32"
    assert "engine: compiling the step (12 steps to run)" in capsys.readouterr().err
    resume(path)
    assert "engine" not in capsys.readouterr().err


@pytest.mark.usefixtures("traced_steps")
def test_another_engine_than_before_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(step: SVIStep, *arguments: Any) -> Tensor:
        raise Crash

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ppl_vae.training.loop.Training, "_end_epoch", stop)
        with pytest.raises(Crash):
            small(path, engine="compiled")
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(config | {"engine": "eager"}))
    capsys.readouterr()
    resume(path)
    said = "engine: eager, where the run was compiled so far; it goes on up to rounding only"
    assert said in capsys.readouterr().err
