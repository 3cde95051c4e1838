"""What `--help` says: the type of each option in words, and the classes of each piece."""

import inspect
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

from ppl_vae.machine.progress import table
from ppl_vae.pairs.pieces import ROLES, subclasses

__all__ = ["PIECE", "Formatter", "classes_of", "first_line", "in_words", "piece_help"]

PIECE = "CLASS"  # the placeholder that marks the option of a piece

_MEANINGS = {
    "data": "The data set",
    "model": "The model p(x, z)",
    "prior": "The prior p(z), where the model has one to choose",
    "likelihood": "The likelihood p(x|z), where the model has one to choose",
    "network": "The architecture of encoder and decoder",
    "guide": "The guide q(z|x)",
    "objective": "What is minimised",
}


class Formatter(DefaultHelpFormatter):
    """Names types as a person would, and no default where there is none."""

    def _get_help_string(self, action: Action) -> str:
        hint = getattr(action, "_typehint", None)
        if hint is None:
            return super()._get_help_string(action)
        notes = [] if action.metavar == PIECE else [in_words(hint)]
        if notes and action.default not in (None, SUPPRESS):
            notes.append("default: %(default)s")
        said = "; ".join(filter(None, notes))
        return f"{action.help} ({said})" if said else str(action.help)


def in_words(hint: Any) -> str:
    """A type as a person would name it; nothing where the help shows the choices."""
    if get_origin(hint) is Literal or hint in (NoneType, bool):
        return ""
    if isinstance(hint, type) and not get_args(hint):
        return _WORDS.get(hint, hint.__name__)
    if get_origin(hint) in (list, tuple, Sequence):
        return "a list, as '[1, 2]'"
    among = [each for each in get_args(hint) if each is not str or Path not in get_args(hint)]
    return " or ".join(dict.fromkeys(filter(None, map(in_words, among))))


_WORDS = {int: "a whole number", float: "a number", Path: "a path", str: "text"}


def piece_help(role: str, default: str | None) -> str:
    """The classes that one may name for a piece, in a sentence."""
    names = ", ".join(cls.__name__ for cls in subclasses(ROLES[role]))
    usual = default or ("that of the model" if role == "prior" else "one that fits the data")
    return f"{_MEANINGS[role]}: {names}, or a dotted path to a class of yours (default: {usual})"


def classes_of(option: str, role: str) -> str:
    """The classes that one may name for a piece, with a line for each."""
    meanings = {cls.__name__: first_line(cls) for cls in subclasses(ROLES[role])}
    return table(f"{option} takes one of these; {option}.help NAME lists its options", meanings)


def first_line(cls: type) -> str:
    """What a class says of itself first."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]
