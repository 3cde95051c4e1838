"""Where a verb writes, looked at before the work; and numbers that a full disk does not lose."""

import json
from math import isfinite
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ppl_vae.errors import InputError
from ppl_vae.runs.directory import write_json

__all__ = ["plain", "writable", "write_numbers"]

_TRIAL = bytes(4096)


def writable(folder: Path) -> Path:
    """The folder, made where there is none, if a file can be written there.

    Raises:
        InputError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder, buffering=0) as file:
            file.write(_TRIAL)
    except OSError as error:
        why = "it is a file; name a" if folder.is_file() else f"{error.strerror}; name another"
        raise InputError(f"cannot write to {folder}: {why} folder with --out") from error
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
