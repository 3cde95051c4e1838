"""Bad input, and files that cannot be read, each said in one line; checks that raise it."""

import re
from collections.abc import Sequence
from math import inf
from numbers import Integral
from pathlib import Path
from typing import Any

__all__ = [
    "InputError",
    "as_path",
    "check_images",
    "check_least",
    "check_within",
    "kind",
    "reason",
    "unreadable",
]


class InputError(ValueError):
    """Bad input: one line that says what was expected, what came, and what to do.

    The command line prints the line and exits with code 2, without a traceback.
    """


def kind(value: Any) -> str:
    """The type of something that was not expected, for a message."""
    return "None" if value is None else type(value).__name__


def as_path(name: str, value: Any) -> Path:
    """A path that was given as one or as text; raises an InputError if it is something else."""
    if not isinstance(value, (Path, str)):
        raise InputError(f"expected {name} as a path; got {kind(value)}")
    return Path(value)


def check_least(**values: tuple[Any, int]) -> None:
    """Raises an InputError if a value, the first of each pair, is no count or below the second."""
    for name, (value, least) in values.items():
        if not _is_whole(value):
            raise InputError(f"expected --{name} >= {least}, a whole number; got {value!r}")
        if value < least:
            raise InputError(f"expected --{name} >= {least}; got {value}")


def check_within(name: str, value: Any, least: int, most: float = inf, which: str = "") -> None:
    """Raises an InputError if the value of an option is no whole number of a range.

    Args:
        name: Of the option.
        value: Its value.
        least: The least that is allowed.
        most: The most that is allowed.
        which: What the numbers up to the most are of, as a phrase.
    """
    if _is_whole(value) and least <= value <= most:
        return
    expected = f"at least {least}" if most == inf else f"{least} to {most:,}"
    which = f", {which}" if which else ""
    got = f"{value:,}" if _is_whole(value) else f"{value!r}, which is no whole number"
    raise InputError(f"--{name}: expected {expected}{which}; got {got}")


def check_images(images: Sequence[int], size: int) -> None:
    """Raises an InputError unless there is at least one index, and each is one of `size` images."""
    try:
        indices = list(images)
    except TypeError as error:
        raise InputError(f"--images: expected a list of indices; got {images!r}") from error
    if not indices:
        raise InputError("--images: expected at least one index of an image; got an empty list")
    for image in indices:
        if not _is_whole(image) or not 0 <= image < size:
            got = image if _is_whole(image) else repr(image)
            raise InputError(f"--images: expected 0 to {size - 1:,}; got {got}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


_REFUSED_VALUES = re.compile(r"invalid values: tensor\(\[*([^,\]]+?)\.?[,\]].*")


def reason(error: BaseException) -> str:
    """A library's error message on one line.

    Without the table of shapes that Pyro appends, and with the first number in place of the tensor
    that torch's distributions print where its values are refused.
    """
    text = " ".join(str(error).partition("Trace Shapes")[0].split()).rstrip(".")
    text = _REFUSED_VALUES.sub(r"invalid values, such as \1", text)
    return text or type(error).__name__


def unreadable(what: object, error: BaseException, remedy: str) -> InputError:
    """The error to raise where a library fails on a file.

    Image and array readers raise almost any exception on damaged bytes, so callers catch them all.
    """
    return InputError(f"could not read {what} ({reason(error)}); {remedy}")
