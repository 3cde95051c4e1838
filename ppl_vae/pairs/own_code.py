"""Where in the user's own classes an error was raised, and in which piece."""

import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import guides
import models
from guides import Guide
from models import Model
from ppl_vae.errors import reason
from ppl_vae.pairs.pieces import ROLES

__all__ = ["in_one_line", "in_own_code"]

_PIECES = tuple(ROLES.values())
_HOME = Path(__file__).resolve().parent.parent
_LIBRARIES = [
    _HOME,
    *(Path(place).resolve() for package in (guides, models) for place in package.__path__),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
]


def in_one_line(error: BaseException) -> str | None:
    """An error in the user's own code, with the piece and the place where it was raised.

    Args:
        error: An exception that was caught.

    Returns:
        A line such as "encoder Skip, mine.py, line 14: KeyError: 'z'", of the innermost line of the
        user's own between here and the line that raised it; None where no piece of the user's own
        took part.
    """
    piece = _own_piece(error)
    said = f": {reason(error)}" if str(error).strip() else ""
    return piece and f"{piece}: {type(error).__name__}{said}"


def in_own_code(error: BaseException) -> str:
    """The piece and the place in brackets, to follow a message; empty where there is none."""
    piece = _own_piece(error)
    return f" ({piece})" if piece else ""


def _own_piece(error: BaseException) -> str | None:
    frames = list(traceback.walk_tb(error.__traceback__))
    selves = [frame.f_locals.get("self") for frame, _ in frames]
    own = [place for place, (frame, _) in enumerate(frames) if _is_own(frame.f_code.co_filename)]
    if own:
        frame, line = frames[own[-1]]
        piece = _piece(selves[: own[-1] + 1])
        return piece and f"{piece}, {_shown(frame.f_code.co_filename)}, line {line}"
    # torch hides an AttributeError inside of a property, and says that the property is missing.
    file = getattr(sys.modules.get(type(selves[-1]).__module__), "__file__", None)
    if isinstance(selves[-1], _PIECES) and file and _is_own(file):
        return f"{_piece(selves)}, {_shown(file)}"
    return None


def _is_own(file: str) -> bool:
    path = Path(file).resolve()
    made_by_python = file.startswith("<")  # as the constructor of a dataclass is
    return not made_by_python and not any(path.is_relative_to(library) for library in _LIBRARIES)


def _shown(file: str) -> Path:
    path = Path(file)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _piece(selves: list[Any]) -> str | None:
    """The innermost piece among the objects whose methods run, by what it is for."""
    pieces = [each for each in selves if isinstance(each, _PIECES)]
    if not pieces:
        return None
    role = next(name for name, base in ROLES.items() if isinstance(pieces[-1], base))
    if role == "network":
        program = next((each for each in reversed(pieces) if isinstance(each, Guide | Model)), None)
        role = "encoder" if isinstance(program, Guide) else "decoder" if program else role
    return f"{role} {type(pieces[-1]).__name__}"
