"""A run directory appears whole or not at all, and is locked while it trains."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from tiny_runs import LAST, tiny

from ppl_vae.errors import InputError
from ppl_vae.runs.config import read_config
from ppl_vae.runs.directory import create, free_path, locked, write_json

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_the_first_free_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_path("a") == Path("runs/a-1")
    for name in ("a-1", "a-2", "a-4"):
        Path("runs", name).mkdir(parents=True)
    assert free_path("a") == Path("runs/a-3")
    assert tiny(None, epochs=1).path == Path("runs/Digits-VAE-1")


def test_a_run_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "below" / "run"

    def fill(folder: Path) -> None:
        assert not path.exists()
        assert (folder / "config.yaml").exists()
        (folder / LAST).touch()

    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device; choose another place"):
        create(path, {"seed": 1}, fail)
    assert not list(tmp_path.iterdir())
    create(path, {"seed": 1}, fill)
    assert sorted(p.name for p in path.iterdir()) == [LAST, "config.yaml"]
    assert [p.name for p in path.parent.iterdir()] == ["run"]
    with pytest.raises(InputError, match="exists; go on with --resume"):
        create(path, {"seed": 2}, fill)
    assert read_config(path / "config.yaml") == {"seed": 1}


def test_a_lock_ends_with_its_process_though_a_worker_of_it_lives(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        with locked(tmp_path):
            worker = os.fork()
            if worker:
                os.write(writer, str(worker).encode())
            signal.pause()
    worker = int(os.read(reader, 20))
    with pytest.raises(InputError, match="is being trained by another process"), locked(tmp_path):
        pytest.fail("it is held")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with locked(tmp_path):
        os.kill(worker, signal.SIGKILL)  # it was alive
    os.close(reader)
    os.close(writer)


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"value": 0.1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 0.1}


def test_two_runs_that_were_named_alike_get_two_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was free when a run began may be another's when it is written."""
    monkeypatch.chdir(tmp_path)
    places = [create(Path("runs/A-1"), {"seed": seed}, lambda folder: None, partial(free_path, "A"))
              for seed in (1, 2)]  # fmt: skip
    assert places == [Path("runs/A-1"), Path("runs/A-2")]
    assert [read_config(place / "config.yaml") for place in places] == [{"seed": 1}, {"seed": 2}]
    assert sorted(p.name for p in Path("runs").iterdir()) == ["A-1", "A-2"]
