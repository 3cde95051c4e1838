"""Files that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ppl_vae.errors import InputError

__all__ = [
    "check_writable",
    "remove_unfinished",
    "unfinished_folder",
    "whole_file",
    "whole_folder",
]

_UNFINISHED = ".unfinished"


def check_writable(path: Path, remedy: str = "choose another place", make: bool = False) -> None:
    """Checks before long work that its results can be written into a folder.

    Args:
        path: The folder, or a place where one can be made.
        remedy: What to do where it cannot.
        make: Whether to make it now.

    Raises:
        InputError: If nothing can be written there.
    """
    try:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        there = next(place for place in (path, *path.parents) if place.exists())
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(4096))  # a full disk may still take an empty file
    except OSError as error:
        why = "it is a file" if path.is_file() else error.strerror
        raise InputError(f"cannot write to {path}: {why}; {remedy}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears at `path` only when the block ends without an error.

    The bytes go to a temporary file beside it, which is flushed to the disk and then renamed, so
    that a reader sees the old content or the new one and never a part.

    Args:
        path: Where the file is to be; its folder must exist.

    Yields:
        The open temporary file.

    Raises:
        OSError: If the disk is full or read-only; it names the file, whose old content stays.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        if os.name != "nt":  # where a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill that appears at `path` only when the block ends without an error.

    Args:
        path: Where the folder is to be; nothing, or an empty folder.

    Raises:
        InputError: If something is there, or it cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} exists, and is no empty folder; choose another place")
    check_writable(path.parent)
    with unfinished_folder(path) as unfinished:
        yield unfinished
        os.replace(unfinished, path)


@contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill beside `path`; unless the block renames it, nothing of it stays.

    Args:
        path: Where the folder is to be once it is filled.

    Raises:
        InputError: If it cannot be written.
    """
    absent = [parent for parent in path.parents if not parent.exists()]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in absent:
            with suppress(OSError):  # a parent that holds the folder is not empty
                parent.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Deletes the half-written files of killed processes in a folder and below it."""
    for path in folder.rglob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
