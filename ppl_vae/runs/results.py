"""Where a verb writes, looked at before the work; and numbers that a full disk does not lose."""

import json
from math import isfinite
from pathlib import Path
from typing import Any

from ppl_vae.errors import as_path
from ppl_vae.machine.files import check_writable
from ppl_vae.runs.directory import write_json

__all__ = ["plain", "writable", "write_numbers"]


def writable(folder: Path | str) -> Path:
    """The folder, made if missing; raises an InputError if no file can be written there."""
    folder = as_path("--out", folder)
    check_writable(folder, "name another folder with --out", make=True)
    return folder


def write_numbers(path: Path, numbers: dict[str, Any]) -> None:
    """Writes JSON; where that fails, the numbers go to standard output, so that they are not lost.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        write_json(path, numbers)
    except OSError:
        print(json.dumps(numbers, indent=2, allow_nan=False))
        raise


def plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
