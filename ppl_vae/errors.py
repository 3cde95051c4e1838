"""The one exception for bad input."""

__all__ = ["InputError", "reason", "unreadable"]


class InputError(ValueError):
    """Bad input: one line that says what was expected, what came, and what to do.

    The command line prints the line and exits with code 2, without a traceback.
    """


def reason(error: BaseException) -> str:
    """A library's error message on one line, without the table of shapes that Pyro appends."""
    text = " ".join(str(error).partition("Trace Shapes")[0].split()).rstrip(".")
    return text or type(error).__name__


def unreadable(what: object, error: BaseException, remedy: str) -> InputError:
    """The error to raise where a library fails on a file.

    Image and array readers raise almost any exception on damaged bytes, so callers catch them all.
    """
    return InputError(f"could not read {what} ({reason(error)}); {remedy}")
