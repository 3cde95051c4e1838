"""Bad input, and files that cannot be read, each said in one line; checks that raise it."""

from collections.abc import Sequence

__all__ = ["InputError", "check_images", "check_least", "reason", "unreadable"]


class InputError(ValueError):
    """Bad input: one line that says what was expected, what came, and what to do.

    The command line prints the line and exits with code 2, without a traceback.
    """


def check_least(**values: tuple[float, float]) -> None:
    """Raises an InputError if a value, the first of each pair, is below the second."""
    for name, (value, least) in values.items():
        if not value >= least:
            raise InputError(f"expected --{name} >= {least}; got {value}")


def check_images(images: Sequence[int], size: int) -> None:
    """Raises an InputError unless there is at least one index, and each is one of `size` images."""
    if not images:
        raise InputError("--images: expected at least one index of an image; got an empty list")
    for image in images:
        if not 0 <= image < size:
            raise InputError(f"--images: expected 0 to {size - 1:,}; got {image}")


def reason(error: BaseException) -> str:
    """A library's error message on one line, without the table of shapes that Pyro appends."""
    text = " ".join(str(error).partition("Trace Shapes")[0].split()).rstrip(".")
    return text or type(error).__name__


def unreadable(what: object, error: BaseException, remedy: str) -> InputError:
    """The error to raise where a library fails on a file.

    Image and array readers raise almost any exception on damaged bytes, so callers catch them all.
    """
    return InputError(f"could not read {what} ({reason(error)}); {remedy}")
