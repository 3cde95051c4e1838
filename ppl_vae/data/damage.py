"""Files that cannot be read, told in one line."""

from ppl_vae.errors import InputError

__all__ = ["reason", "unreadable"]


def reason(error: BaseException) -> str:
    """What a library says went wrong, on one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__


def unreadable(what: object, error: BaseException, remedy: str) -> InputError:
    """The error to raise where a library fails on a file.

    Image and array readers raise almost any exception on damaged bytes, so callers catch them all.
    """
    return InputError(f"could not read {what} ({reason(error)}); {remedy}")
