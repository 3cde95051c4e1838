"""Small runs and quick settings for the tests of the report."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny, without_pictures

from ppl_vae.data import Digits
from ppl_vae.report.inspection import Effort, Inspection, Selection, choose_images
from ppl_vae.runs.run import Run

QUICK: dict[str, Any] = {
    "count": 12,
    "draws": 100,
    "predictive_draws": 8,
    "particles": 50,
    "gap_images": 3,
    "gap_steps": 10,
    "shown": 2,
    "nuts_draws": 8,
    "temperatures": 4,
    "simulations": 100,
}


def train(path: Path, **options: Any) -> Run:
    """A run of the digits that takes a second, without pictures."""
    with without_pictures():
        return tiny(path, **{"device": "cpu", "data": Digits()} | options)


def ended(main: Callable[[list[str]], None], *arguments: object) -> int:
    """The exit code of a verb."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def full(file: int) -> None:
    """Stands in for `os.fsync` on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def first_images(run: Run, count: int, split: str = "test") -> Selection:
    """The first images of a split."""
    return choose_images(run, getattr(run.data, split), count, choose="first")


def inspection_of(run: Run, count: int, split: str = "test", **effort: int) -> Inspection:
    """An inspection of the first images, without draws."""
    quick = {name: QUICK[name] for name in Effort.__annotations__}
    tree: Any = None
    return Inspection(
        run, [], split, first_images(run, count, split), tree, Effort(**quick | effort), 0
    )
