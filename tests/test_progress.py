"""Work that is not counted is named once it takes long, and ends quietly."""

import threading
import time

import pytest

from ppl_vae.machine.progress import announced


def stopped_after(seconds: float) -> None:
    time.sleep(seconds)
    raise KeyboardInterrupt


def test_work_that_takes_long_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with announced("quick"):
        pass
    monkeypatch.setattr("ppl_vae.machine.progress._PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("ppl_vae.machine.progress._PLAIN_SECONDS", 0.1)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), announced("drawing pictures"):
        stopped_after(0.5)
    assert threading.active_count() == before
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 6
    assert {line.rpartition(", ")[0] for line in lines} == {"drawing pictures"}
    assert all(line.endswith(" s so far") for line in lines)
