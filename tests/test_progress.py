"""The time left follows from the pieces done after the first; what has no pieces is named."""

import io
import sys
import threading
import time

import pytest
from rich.console import Console

from ppl_vae.machine import progress
from ppl_vae.machine.progress import Progress, announced


def test_what_is_done_once_is_no_part_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first piece waits 40 s for a compiler; all others take 1 s an image."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("measuring", 100, "images") as shown:
        for wait, items in ((41, 1), (12, 12), (87, 87)):
            now += wait
            shown.advance(items)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "measuring: 1/100 images, 41 s each",
        "measuring: 13/100 images, 1 images/s, 87 s left",
        "measuring: 100/100 images, 0.71 images/s, 0 s left",
    ]


def test_work_that_goes_on_counts_its_own_items(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("training", 100, "images", done=50) as shown:
        for _ in range(2):
            now += 10
            shown.advance(20)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 70/100 images, 2 images/s",
        "training: 90/100 images, 2 images/s, 5 s left",
        "training: 90/100 images, 2 images/s, 5 s left",
    ]


def test_a_terminal_of_80_columns_shows_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bound = "epoch 999  IWAE bound -123.45 nats per datum"
    screen = io.StringIO()
    with Progress("training on FashionMNIST", 60_000_000, "images") as shown:
        for _ in range(2):
            now += 1
            shown.advance(23_456, bound)
        Console(width=80, file=screen).print(shown._bar)
    lines = screen.getvalue().splitlines()
    assert "training on FashionMNIST" in lines[0]
    assert "images/s" in lines[0]
    assert bound in lines[1]
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds_each", "done", "said"),
    [
        (0.01, 3000, "100 images/s, 70 s left"),
        (0.3, 3000, "3.3 images/s, 35 min left"),
        (2.5, 5392, "0.4 images/s, 3 h 12 min left"),
        (12.0, 3000, "12 s each, 23 h 20 min left"),
        (180.0, 8000, "3 min each, 4 days 4 h left"),
    ],
)
def test_rates_and_times_are_in_the_units_that_one_would_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds_each: float,
    done: int,
    said: str,
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("reading", 10_000, "images") as shown:
        for items in (1000, done - 1000):
            now += seconds_each * items
            shown.advance(items)
        line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"reading: {done:,}/10,000 images, {said}"


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
