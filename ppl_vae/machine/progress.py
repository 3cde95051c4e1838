"""Progress of long work: a live line on a terminal, plain lines now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress", "table"]

_PLAIN_SECONDS = 10.0


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
        self._bar = _terminal_bar(title, total, done) if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        self._start = self._last_line = time.monotonic()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
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
            self._bar.update(task, completed=self.done, note=self.note, rate=self._rate_text())
        elif time.monotonic() - self._last_line >= _PLAIN_SECONDS and self.done < self.total:
            self._print_line()

    def _rate(self) -> float:
        """Items a second; on the way without the first ones, whose time has in it what is once."""
        warm = self._advances > 1 and self.done < self.total
        done, start = (self._warm, self._warm_start) if warm else (self.first, self._start)
        elapsed = time.monotonic() - start
        return (self.done - done) / elapsed if elapsed > 0 else 0.0

    def _rate_text(self) -> str:
        return f"{self._rate():,.0f} {self.unit}/s"

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        rate = self._rate()
        known = rate > 0 and (self._advances > 1 or self.done == self.total)
        left = f", {(self.total - self.done) / rate:,.0f} s left" if known else ""
        note = f"  {self.note}" if self.note else ""
        print(
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit}, "
            f"{self._rate_text()}{left}{note}",
            file=sys.stderr,
            flush=True,
        )


def _terminal_bar(title: str, total: int, done: int) -> "rich.progress.Progress":
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(title, total=total, completed=done, note="", rate="")
    return bar


def table(title: str, rows: dict[str, str]) -> str:
    """A short two-column table for the end of a verb."""
    width = max(len(name) for name in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
