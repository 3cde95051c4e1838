"""The numbers of each epoch: as CSV, and as TensorBoard events where that is installed."""

import csv
import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppl_vae.machine.files import whole_file

__all__ = [
    "ELBO_COLUMN",
    "IWAE_COLUMN",
    "METRICS",
    "Row",
    "bound_column",
    "epochs_since_best",
    "events",
    "write_metrics",
]

METRICS = "metrics.csv"

ELBO_COLUMN = "validation_elbo_nats_per_datum"
IWAE_COLUMN = "validation_iwae_nats_per_datum"

Row = dict[str, Any]


def bound_column(rows: list[Row]) -> str:
    """The column by which the epochs of a run compare."""
    # A run of an earlier version goes on by the ELBO, by which it began.
    return IWAE_COLUMN if rows and IWAE_COLUMN in rows[0] else ELBO_COLUMN


def epochs_since_best(rows: list[Row]) -> int:
    """How many epochs ago the validation bound was at its best; 0 before the first."""
    bounds = [row[bound_column(rows)] for row in rows]
    return len(bounds) - 1 - bounds.index(max(bounds)) if bounds else 0


def write_metrics(folder: Path, rows: list[Row]) -> None:
    """Writes one line for each epoch to `metrics.csv`, every digit kept."""
    text = io.StringIO()
    if rows:
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with whole_file(folder / METRICS) as file:
        file.write(text.getvalue().encode())


@contextmanager
def events(folder: Path, next_epoch: int, wanted: bool = True) -> Iterator[Callable[[Row], None]]:
    """Gives a function that logs a row as TensorBoard events, or does nothing without TensorBoard.

    Args:
        folder: The run directory; the events go to its folder `tensorboard`.
        next_epoch: The epoch that comes next; events of it and later ones, which a killed run
            may have left, are no longer shown.
        wanted: Whether this process is to write at all.
    """
    if not wanted or importlib.util.find_spec("tensorboard") is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard"), purge_step=next_epoch) as writer:

        def log(row: Row) -> None:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, value, row["epoch"])

        yield log
