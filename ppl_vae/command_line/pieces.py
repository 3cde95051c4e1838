"""Pieces on the command line: a class by name, its options after a dot, a config below both."""

import inspect
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.command_line.help import PIECE, classes_of, first_line, piece_help
from ppl_vae.command_line.parser import Parser, values_of
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError
from ppl_vae.pairs.descriptions import outside_classes, restore
from ppl_vae.pairs.pieces import (
    BASES,
    INJECTED,
    ROLES,
    class_of,
    options_of,
    resolve_class,
    subclasses,
    suggest,
    unknown_option,
)
from ppl_vae.runs.config import config_of, read_config

__all__ = [
    "ALLOW_CODE_HELP",
    "add_pieces",
    "allow_only",
    "data_set_of",
    "parse_with_pieces",
    "piece_arguments",
    "piece_of",
]


ALLOW_CODE_HELP = "Whether classes from outside the project that a config names may be imported."


def add_pieces(
    parser: Parser,
    function: Callable[..., Any],
    groups: Mapping[str, Sequence[str]],
    defaults: Mapping[str, Any],
) -> None:
    """Adds --config, and the parameters of a function in groups.

    A parameter that is a piece takes a class by name, and after a dot the class's own options.

    Args:
        parser: The verb's.
        function: Its parameters become options.
        groups: Names of parameters by the title of their group.
        defaults: Classes by role.
    """
    parser.add_argument("--config", action="config", help="A run's config.yaml, or one like it.")
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for role in ROLES:
            if role in names:
                default = class_of(defaults[role]).__name__ if role in defaults else None
                group.add_subclass_arguments(
                    ROLES[role],
                    role,
                    as_group=False,
                    skip=_skipped(),
                    metavar=PIECE,
                    help=piece_help(role, default),
                    default=None if default is None else {"class_path": default},
                )
        others = set(inspect.signature(function).parameters) - set(names)
        group.add_function_arguments(function, skip={*others, *ROLES}, as_group=False)
    group.add_argument("--allow_code", type=bool, default=False, help=ALLOW_CODE_HELP)
    for action in parser._actions:
        if action.dest.endswith(".help"):
            action.help = SUPPRESS  # of which the verb's last lines speak
        elif "--print_config" in action.option_strings:
            action.help = "Print the config that the other arguments make, and exit."


def _skipped(depth: int = 2) -> set[str]:
    """The constructor parameters that are no options, of a piece and of pieces inside of it."""
    below = _skipped(depth - 1) if depth else set()
    return set(INJECTED) | {f"{role}.init_args.{name}" for role in ROLES for name in below}


def parse_with_pieces(parser: Parser, arguments: list[str]) -> dict[str, Any]:
    """Parses the arguments of a verb that takes pieces.

    Returns:
        Every option by name, each piece restored.

    Raises:
        InputError: If an argument is wrong.
    """
    arguments = _classes_first(arguments)
    _print_help(parser, arguments)
    allowed = [value.lower() == "true" for value in values_of("--allow_code", arguments)][-1:]
    names = (action.dest for action in parser._actions)
    known = [n for n in names if not n.endswith("help") and n not in ("config", "print_config")]
    configs = {path: read_config(Path(path)) for path in values_of("--config", arguments)}
    for path, config in configs.items():
        # Plain names only: a second config, or a dotted name, would reach the parser unchecked.
        unknown = [name for name in config if name not in known]
        if unknown:
            raise InputError(f"{path}: {suggest(str(unknown[0]), known)}")
        outside = outside_classes(config)
        if outside and allowed != [True]:
            raise InputError(
                f"{path} names {outside[0]}, code from outside the project; "
                "add --allow_code true to import it"
            )
    _check_names(parser, arguments, *configs.values())
    named = {
        role: resolve_class(role, value)
        for role in ROLES
        for value in values_of(f"--{role}", arguments)
        if not value.startswith("{")
    }
    replaced = set(named)
    for path, config in configs.items():
        described = {role: config[role]["class_path"] for role in ROLES if config.get(role)}
        written = {role: resolve_class(role, name) for role, name in described.items()}
        kept = {n: v for n, v in config.items() if n != "version"}  # which reading it has checked
        left = {n: v for n, v in kept.items() if named.get(n) in (None, written.get(n))}
        text = yaml.safe_dump(left)
        given = {path: text, f"--config={path}": f"--config={text}"}
        arguments = [given.get(argument, argument) for argument in arguments]
        replaced |= set(written)
    # The parser would keep those options of a class that the one in its place has too.
    parser.set_defaults(dict.fromkeys(replaced))
    options = parser.parse_args(arguments).as_dict()
    options.pop("config")
    for role in ROLES:
        options[role] = restore(role, options[role], allow_code=True)
    return options


def piece_arguments(role: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The class and options of one piece among the arguments of a verb, and all others."""
    own, others, words = [], [], iter(arguments)
    for word in words:
        if word.partition("=")[0] != f"--{role}" and not word.startswith(f"--{role}."):
            others.append(word)
        else:
            own += [word] if "=" in word else [word, *islice(words, 1)]
    return own, others


def piece_of(role: str, arguments: list[str]) -> Any:
    """The piece that `--ROLE CLASS` and its options name; None where no class is named.

    Raises:
        InputError: If there is no such class, or an option is wrong.
    """
    if not values_of(f"--{role}", arguments):
        if any(argument in (f"--{role}", f"--{role}=") for argument in arguments):
            raise InputError(f"--{role}: expected a class; got none")
        return None
    parser = Parser()
    parser.add_subclass_arguments(BASES[role], role, skip=_skipped())
    _check_names(parser, arguments)
    options = parser.parse_args(_classes_first(arguments)).as_dict()
    return restore(role, options[role], allow_code=True)


def data_set_of(run: Path, arguments: list[str], allow_code: bool) -> DataSet | None:
    """A run's data set with those options replaced, or None where there is nothing to replace.

    Those that may be are checked where the run is loaded.

    Raises:
        InputError: If the data set has no such option, or is code from outside the project without
            `allow_code`.
    """
    if not arguments:
        return None
    description = config_of(run)["data"]
    restore("data", description, allow_code)  # before the parser imports its class
    parser = Parser()
    parser.add_subclass_arguments(DataSet, "data", default=description, skip=_skipped())
    _check_names(parser, arguments, {"data": description})
    return restore("data", parser.parse_args(arguments).as_dict()["data"], allow_code)


def allow_only(arguments: list[str], *allowed: str) -> None:
    """Refuses options that may not stand beside the first of the allowed ones."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in allowed:
            raise InputError(
                f"{allowed[0]} takes everything else from the run's config; leave out {name}"
            )


def _check_names(parser: Parser, arguments: list[str], *configs: dict[str, Any]) -> None:
    """Refuses a class that is not there, or an option that its class does not have.

    Args:
        parser: It has the default classes.
        arguments: Options such as `--guide.flows 4`.
        *configs: Pieces by role, as a config describes them.
    """

    def class_at(path: list[str]) -> type | None:
        """The class of a piece, or of a piece in a piece, that is named or there by default."""
        places: list[dict[str, Any]] = [{"init_args": config} for config in configs]
        for role in path:
            places = [(place.get("init_args") or {}).get(role) or {} for place in places]
        given: list[str] = [place["class_path"] for place in places if place]
        given += values_of(f"--{'.'.join(path)}", arguments)
        if given:
            return resolve_class(path[-1], given[-1]) if not given[-1].startswith("{") else None
        if len(path) == 1:
            default = parser.get_default(path[0])
            return default and resolve_class(path[0], default["class_path"])
        above = class_at(path[:-1])
        return above and class_of(options_of(above)[path[-1]].default)

    for place, argument in enumerate(arguments):
        option = argument.partition("=")[0]
        *path, name = option.removeprefix("--").split(".")
        if not option.startswith("--") or not {*path} <= {*BASES} or name == "help":
            continue
        cls = class_at(path) if path else None
        if path and argument == option and (arguments[place + 1 :] or ["--"])[0].startswith("--"):
            raise InputError(f"{option}: expected a value; got none")
        if path and not cls and not values_of(f"--{'.'.join(path)}", arguments):
            raise InputError(_class_wanted(option, path[-1], name))
        if cls and name not in (*options_of(cls), "class_path"):
            raise InputError(f"--{'.'.join(path)}: {unknown_option(path[-1], cls, name)}")
        if name in BASES:
            class_at([*path, name])


def _class_wanted(option: str, role: str, name: str) -> str:
    """An option was given, but not the class whose option it is."""
    above = option.removesuffix(f".{name}")
    classes = {cls.__name__: options_of(cls) for cls in subclasses(ROLES[role])}
    having = [cls for cls, options in classes.items() if name in options]
    if not having:
        every = list(dict.fromkeys(each for options in classes.values() for each in options))
        return f"{above}: no class has this option: {suggest(name, every)}"
    named = " or ".join(f"{above} {cls}" for cls in having)
    return f"{option}: expected a class that has this option beside it: {named}"


def _print_help(parser: Parser, arguments: list[str]) -> None:
    """Answers `--guide.help` with the classes, `--guide.help IAF` with the options of one."""
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        *path, last = option.removeprefix("--").split(".")
        if not option.startswith("--") or last != "help" or not path or not {*path} <= {*ROLES}:
            continue
        option = f"--{'.'.join(path)}"
        value = value or next(iter(arguments[place + 1 :]), "")
        if not value or value.startswith("--"):
            print(classes_of(option, path[-1]))
        else:
            cls = resolve_class(path[-1], value)
            typed = f"{parser.prog} {option} {value} [{option}.OPTION VALUE ...]"
            said = f"{cls.__name__}: {first_line(cls)}"
            inner = Parser(usage=typed, description=said, add_help=False)
            inner.add_class_arguments(cls, ".".join(path), as_group=False, skip=_skipped())
            inner.print_help()
        sys.exit(0)


def _classes_first(arguments: list[str]) -> list[str]:
    """A config first, `--guide.option` last: the parser needs a class before its options."""
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(argument)

    def place(group: list[str]) -> int:
        name = group[0].partition("=")[0]
        return 0 if name == "--config" else 1 + name.count(".")

    return [argument for group in sorted(groups, key=place) for argument in group]
