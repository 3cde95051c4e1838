"""Progress of long work: a live line on a terminal or in a notebook, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING

from ppl_vae.machine.notebook import Place, in_notebook

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress", "announced", "table"]

_PLAIN_SECONDS = 10.0
_PATIENCE_SECONDS = 2.0
_NOTEBOOK_SECONDS = 0.25
_SLOW = 0.1  # items a second, below which the seconds of one are shown


class Progress:
    """Shows how far a piece of work is, its rate and the time left, on standard error.

    Args:
        title: A name of the work.
        total: How many items there are.
        unit: A name of the items, in the plural.
        done: How many were done before.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.first = self.done = done
        self._advances = 0
        self.note = ""
        self._notebook = Place() if in_notebook() else None
        live = sys.stderr.isatty() or self._notebook
        self._bar = _bar(title, total, done) if live else None

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        if self._notebook:
            self._notebook.show(self._bar)
        elif self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar and self._notebook:
            self._notebook.show(self._bar)
        elif self._bar:
            self._bar.stop()
        elif kind is None:
            self._print_line()

    def advance(self, items: int, note: str | None = None) -> None:
        """Counts items as done; a note, such as the current bound, stays until the next one."""
        self.done += items
        self._advances += 1
        if self._advances == 1:
            self._warm, self._warm_start = self.done, time.monotonic()
        if note is not None:
            self.note = note
        if self._bar:
            task = self._bar.task_ids[0]
            # Two lines, or 80 columns would be too few.
            text = "\n".join(filter(None, (self.title, self.note)))
            self._bar.update(task, completed=self.done, description=text, rate=self._rate_text())
            if self._notebook and time.monotonic() - self._last_line >= _NOTEBOOK_SECONDS:
                self._last_line = time.monotonic()
                self._notebook.show(self._bar)
        elif time.monotonic() - self._last_line >= _PLAIN_SECONDS and self.done < self.total:
            self._print_line()

    def _rate(self) -> float:
        """Items a second; on the way without the first ones, whose time has in it what is once."""
        warm = self._advances > 1 and self.done < self.total
        done, start = (self._warm, self._warm_start) if warm else (self.first, self._start)
        elapsed = time.monotonic() - start
        return (self.done - done) / elapsed if elapsed > 0 else 0.0

    def _rate_text(self) -> str:
        rate = self._rate()
        if 0 < rate < _SLOW:
            return f"{_duration(1 / rate)} each"
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        rate = self._rate()
        known = rate > 0 and (self._advances > 1 or self.done == self.total)
        left = f", {_duration((self.total - self.done) / rate)} left" if known else ""
        note = f"  {self.note}" if self.note else ""
        print(
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, "
            f"{self._rate_text()}{left}{note}",
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds: float) -> str:
    """Seconds in the units that a person would name them in."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    days, hours_of_day = divmod(hours, 24)
    return f"{hours} h {minutes} min" if days < 2 else f"{days:,} days {hours_of_day} h"


def _bar(title: str, total: int, done: int) -> "rich.progress.Progress":
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(title, total=total, completed=done, rate="")
    return bar


@contextmanager
def announced(work: str) -> Iterator[None]:
    """Names work that is not counted on standard error, should it take over 2 seconds.

    Args:
        work: What is done, such as "drawing pictures".
    """
    done, began, place = Event(), time.monotonic(), sys.stderr

    def tell() -> None:
        wait = _PATIENCE_SECONDS
        while not done.wait(wait):
            print(f"{work}, {_duration(time.monotonic() - began)} so far", file=place, flush=True)
            wait = _PLAIN_SECONDS

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def table(title: str, rows: dict[str, str]) -> str:
    """A short two-column table for the end of a verb."""
    width = max(len(name) for name in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
