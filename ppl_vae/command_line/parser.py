"""Errors of the command line on one line, with the nearest choice."""

from argparse import SUPPRESS, ArgumentError
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NoReturn

import jsonargparse

from ppl_vae.command_line.help import Formatter
from ppl_vae.errors import InputError

__all__ = ["Parser", "values_of"]


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are one line with the nearest choice."""

    given: Sequence[str] = ()  # as typed: the parser's errors show what it read in them

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": Formatter, **options})

    @classmethod
    def of_verb(cls, verb: str, description: str, **options: Any) -> "Parser":
        """The parser of `python -m ppl_vae.VERB`."""
        prog = f"python -m ppl_vae.{verb}"
        parser = cls(prog=prog, description=description, allow_abbrev=False, **options)
        own = f"ppl-vae {version('ppl-vae')}"
        parser.add_argument("--version", action="version", version=own, help="Print the version.")
        # `run_verb` has taken it out by then.
        parser.add_argument(
            "--traceback",
            type=bool,
            default=SUPPRESS,
            help="Whether an error shows its whole traceback.",
        )
        return parser

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        self.given = args or ()
        shown = {action: action.option_strings for action in self._actions}
        known = [name for names in shown.values() for name in names]
        for word in args or []:
            name = word.partition("=")[0]
            if name.startswith("--") and name.partition(".")[0] not in ("--", *known):
                public = [n for action in shown if action.help != SUPPRESS for n in shown[action]]
                near = get_close_matches(name, public, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise InputError(f"there is no option {name}{hint}; --help lists those there are")
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a nested parser; the outer one reports its errors
            super().error(message, ex)
        if isinstance(ex, InputError):
            raise ex
        raise InputError(_one_line(message, ex, self)) from ex


def values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """What was typed as the value of an option, each time that it was given."""
    values = [value for name, value in pairwise(arguments) if name == option]
    return values + [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]


def _one_line(message: str, error: Exception | None, parser: Parser) -> str:
    """The option at fault, and what was expected and came.

    jsonargparse raises one exception for each level of nested options, each the cause of the next;
    the first alternative of a union, which is never None, is the cause of the union's.
    """
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    last = causes[-1] if causes else None
    levels = [str(each) for each in causes if isinstance(each, TypeError)]
    keys = [text.split('"')[1] for text in levels if text.startswith(_KEY)]
    option = f"--{'.'.join(keys)}" if keys else ""
    text = str(last) if last else message
    if isinstance(last, ArgumentError) and last.argument_name:
        return f"{last.argument_name}: {last.message}; got none"
    if text.startswith(_STRAY):
        return f"expected no more arguments; got {text.removeprefix(_STRAY)}"
    if text.startswith(_REQUIRED):
        missing = text.removeprefix(_REQUIRED).partition(",")[0]
        if option:
            return f"expected {option}.{missing} {missing.upper()}; got none"
        run = f"the run directory, as in {parser.prog} runs/Digits-VAE-1"
        return f"expected {run if missing in ('run', 'runs') else missing}; got none"
    expected, got, value = text.removeprefix(_EXPECTED).partition(_GOT)
    if got:
        typed = values_of(option, parser.given)
        value = typed[-1] if typed else value
        finite = "finite " if value.strip("+-.").lower() in ("nan", "inf", "infinity") else ""
        name = _type_name(expected).replace("a number", f"a {finite}number")
        text = f"expected {name}; got {value or repr(value)}"
    return " ".join(f"{option}: {text}".split()) if option else text


# The wording of jsonargparse and argparse; a test compares it with the installed versions.
_KEY = 'Parser key "'
_EXPECTED = "Expected a "
_GOT = ". Got value: "
_STRAY = "unrecognized arguments: "
_REQUIRED = "the following arguments are required: "


def _type_name(text: str) -> str:
    """A type as a person would name it, from Python's text for it."""
    if text == "<class 'collections.abc.Sequence'>":
        return "a list, as '[1, 2]'"
    choices = text.removeprefix("typing.Literal[")
    if choices != text:
        return f"one of {choices.removesuffix(']')}"
    name = text.removeprefix("<class '").removesuffix("'>")
    return {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(name, name)
