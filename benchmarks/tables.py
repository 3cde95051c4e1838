"""The tables of the benchmarks, and runs that are trained once."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from ppl_vae.fit import fit, resume
from ppl_vae.machine.files import whole_file
from ppl_vae.runs.directory import SUMMARY

__all__ = ["mean_and_error", "measured", "page", "table_row", "trained", "write"]


def table_row(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def mean_and_error(values: ArrayLike) -> str:
    """The mean of values (N,), and its standard error."""
    numbers = torch.as_tensor(values)
    return f"{numbers.mean():.2f} +- {numbers.std() / len(numbers) ** 0.5:.2f}"


def measured(result: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """A number of a verb's results with its standard error, or nothing where it is missing."""
    if name not in result:
        return ""
    return f"{result[name]:.{digits}f} +- {result[f'{name}_standard_error']:.{digits}f}"


def page(path: Path) -> Path:
    """The same path, once it is known that a page can be written there."""
    if not path.parent.is_dir():
        raise SystemExit(f"{path}: there is no folder {path.parent}")
    return path


def write(path: Path, lines: Iterable[str]) -> None:
    """Writes a page, whole or not at all."""
    with whole_file(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def trained(path: Path, **options: Any) -> Path:
    """A run that `fit` trains with these options, unless it is there or can be gone on with."""
    if not path.exists():
        fit(run=path, **options)
    elif not (path / SUMMARY).exists():
        resume(path)
    return path
