"""A parser whose errors are one line with the nearest choice."""

import re
from argparse import SUPPRESS
from difflib import get_close_matches
from typing import NoReturn

import jsonargparse

from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import ROLES, options_of, resolve_class, suggest

__all__ = ["Parser"]


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are one line with the nearest choice."""

    @classmethod
    def of_verb(cls, verb: str, description: str) -> "Parser":
        """The parser of `python -m ppl_vae.VERB`."""
        return cls(prog=f"python -m ppl_vae.{verb}", description=description, allow_abbrev=False)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser inside the parser, whose errors are looked at there
            super().error(message, ex)
        if isinstance(ex, InputError):
            raise ex
        raise InputError(self._one_line(message)) from ex

    def _one_line(self, message: str) -> str:
        unknown = re.search(r"[Uu]nrecognized arguments: (.*)", message)
        if unknown:
            given = next((word for word in unknown[1].split() if word.startswith("--")), None)
            if given is None:
                return f"expected no more arguments; got {unknown[1]}"
            name = given.split("=")[0]
            near = get_close_matches(name, self._option_names(), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return f"there is no option {name}{hint}; --help lists those there are"
        refused = re.search(
            r'key "(\w+)":.*class_path \'(.+?)\':.*Option \'(\S+)\' is not', message, re.S
        )
        if refused and refused[1] in ROLES:
            # Of pieces in pieces the innermost is meant, whose value the parser quotes at the end.
            innermost = re.search(r"Got value: Namespace\(class_path='(.+?)'", message)
            cls = resolve_class(refused[1], innermost[1] if innermost else refused[2])
            choices = list(options_of(cls))
            hint = suggest(refused[3], choices) if choices else f"got {refused[3]!r}; it has none"
            return f"--{refused[1]}: unknown option of {cls.__name__}: {hint}"
        optional = re.search(
            r"^(.*?)Does not validate.*?Errors:\s+- (.*)\s+- Expected a <class 'NoneType'>"
            r"\s+Given value type:.*?Given value: (.*)",
            message,
            re.S,
        )
        if optional:  # what is wrong with the value, not that it might also have been left out
            message = optional[1] + optional[2].rstrip()
            message += "" if "Got value" in message else f". Got value: {optional[3]}"
        line = re.sub(r"Problem with given class_path '\S+':", "", message)
        keys = re.findall(r'Parser key "([\w.]+)":', line)
        missing = re.search(r"the following arguments are required: (\w+)", line)
        if missing:
            return f"expected {f'--{keys[0]}.' if keys else ''}{missing[1]}; got none"
        line = line.replace("<class 'collections.abc.Sequence'>", "list, as in '[1, 2]'")
        line = re.sub(
            r"Expected a typing\.Literal\[(.*?)\]\. Got value:", r"expected one of \1; got", line
        )
        line = re.sub(r"<class '([\w.]+)'>", r"\1", line)
        line = re.sub(r'Parser key "[\w.]+":', "", line)
        line = re.sub(r"Expected an? (.+?)\. Got value:\s*$", r"expected \1; got ''", line)
        line = re.sub(r"Expected an? (.+?)\. Got value: ", r"expected \1; got ", line)
        option = f"--{'.'.join(keys)}: " if keys else ""
        return option + " ".join(line.split())

    def _option_names(self) -> list[str]:
        return [
            string
            for action in self._actions
            for string in action.option_strings
            if string.startswith("--") and action.help != SUPPRESS
        ]
