"""The run directory: made whole or not at all, and locked while a process trains."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ppl_vae.errors import InputError
from ppl_vae.machine.files import check_writable, unfinished_folder, whole_file
from ppl_vae.runs.checkpoints import LAST, read_checkpoint
from ppl_vae.runs.config import config_of, write_config

__all__ = ["PICTURES", "SUMMARY", "create", "free_path", "locked", "unused", "write_json"]

SUMMARY = "summary.json"
PICTURES = "pictures"
_LOCK = ".lock"


def free_path(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that does not exist."""
    number = 1
    while (path := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return path


def create(
    path: Path,
    config: dict[str, Any],
    fill: Callable[[Path], None],
    fallback: Callable[[], Path] | None = None,
    overwrite: bool = False,
) -> Path:
    """Makes a run directory that appears with its config and first checkpoint, or not at all.

    Args:
        path: Where it is to be.
        config: The content of `config.yaml`.
        fill: Writes the other first files into the folder that it is given.
        fallback: Gives another place if this one has been taken meanwhile.
        overwrite: Whether it takes the place of a run that is there.

    Returns:
        Where it is.

    Raises:
        InputError: If the path exists or cannot be written.
    """
    if fallback is None:
        unused(path, overwrite)
    with unfinished_folder(path) as unfinished:
        write_config(unfinished, config)
        fill(unfinished)
        while True:
            try:
                if overwrite and path.exists():
                    return _replace(path, unfinished)
                unfinished.rename(path)
                return path
            except OSError as error:
                if fallback is None or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                path = fallback()


def _replace(path: Path, new: Path) -> Path:
    """Puts a folder in the place of a run, which nobody else may be training then."""
    old = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    with locked(path):
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a run directory for one process that trains.

    The lock ends with the process. Forked workers, which may outlive it, do not inherit it.

    Raises:
        InputError: If another process holds it, or it cannot be written to.
    """
    check_writable(path)
    lock = FileLock(path / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{path} is being trained by another process; wait for it, or stop it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def unused(path: Path, overwrite: bool = False) -> Path:
    """The path of a new run.

    Args:
        path: Where it is to be.
        overwrite: Whether there may be a run that it replaces; never anything else.

    Raises:
        InputError: If it is taken or cannot be written to.
    """
    if path.exists() and not overwrite:
        raise InputError(
            f"{path} exists; go on with --resume {path}, replace it with --overwrite true, or "
            "choose another name with --run"
        )
    if path.exists():
        _check_replaceable(path)
    check_writable(path)
    return path


def _check_replaceable(path: Path) -> None:
    remedy = "--overwrite replaces runs only; choose another name with --run"
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link; {remedy}")
    try:
        config_of(path)
        read_checkpoint(path / LAST)
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from error
    with locked(path):
        pass


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes plain data as indented JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
