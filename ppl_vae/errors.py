"""The one exception for bad input."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: one line that says what was expected, what came, and what to do.

    The command line prints the line and exits with code 2, without a traceback.
    """
