"""What holds of every function that Python code calls: modes of torch, errors in own classes."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ppl_vae.errors import InputError
from ppl_vae.machine.modes import usual_modes
from ppl_vae.pairs.own_code import in_one_line

__all__ = ["called_anywhere"]

P = ParamSpec("P")
R = TypeVar("R")


def called_anywhere(function: Callable[P, R]) -> Callable[P, R]:
    """A function that gives the same numbers, bit for bit, wherever it is called from.

    That is inside `torch.no_grad`, `torch.inference_mode`, `torch.autocast` and under another
    default type or device; and numbers among its arguments may be NumPy's. An exception that a
    piece of the user's own raises comes with a note that names the piece and the line.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = [_plain(value) for value in args]
        named: Any = {name: _plain(value) for name, value in kwargs.items()}
        try:
            with usual_modes():
                return function(*given, **named)
        except InputError:
            raise  # which says it already
        except Exception as error:
            line = in_one_line(error)
            # One such function may call another.
            if line and line not in getattr(error, "__notes__", ()):
                error.add_note(line)
            raise

    return call


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
