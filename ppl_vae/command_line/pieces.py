"""Pieces on the command line: a class by name, its options after a dot, a config below both."""

from argparse import SUPPRESS
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.command_line.parser import Parser
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import (
    BASES,
    INJECTED,
    ROLES,
    class_of,
    options_of,
    outside_classes,
    resolve_class,
    restore,
    suggest,
)
from ppl_vae.runs.config import CONFIG_VERSION, config_of, read_config

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


def add_pieces(parser: Parser, defaults: dict[str, Any]) -> None:
    """Adds --config and, for each piece, its class by name and the class's own options."""
    parser.add_argument("--config", action="config", help="A run's config.yaml, or one like it.")
    parser.add_argument("--version", type=int, default=CONFIG_VERSION, help=SUPPRESS)
    parser.add_argument(
        "--allow_code",
        type=bool,
        default=False,
        help=ALLOW_CODE_HELP,
    )
    for role, base in ROLES.items():
        default = defaults.get(role)
        parser.add_subclass_arguments(
            base,
            role,
            skip=_skipped(),
            default=None if default is None else {"class_path": class_of(default).__name__},
            required=False,
        )


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
    allowed = [value.lower() == "true" for value in _values_of("--allow_code", arguments)][-1:]
    names = (action.dest for action in parser._actions)
    known = [n for n in names if not n.endswith("help") and n not in ("config", "print_config")]
    configs = {path: read_config(Path(path)) for path in _values_of("--config", arguments)}
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
        for value in _values_of(f"--{role}", arguments)
        if not value.startswith("{")
    }
    replaced = set(named)
    for path, config in configs.items():
        described = {role: config[role]["class_path"] for role in ROLES if config.get(role)}
        written = {role: resolve_class(role, name) for role, name in described.items()}
        left = {n: v for n, v in config.items() if named.get(n) in (None, written.get(n))}
        if left != config:
            text = yaml.safe_dump(left)
            given = {path: text, f"--config={path}": f"--config={text}"}
            arguments = [given.get(argument, argument) for argument in arguments]
        replaced |= set(written)
    # The parser would keep those options of a class that the one in its place has too.
    parser.set_defaults(dict.fromkeys(replaced))
    options = parser.parse_args(arguments).as_dict()
    if options.pop("version") != CONFIG_VERSION:
        raise InputError(
            f"--version: expected {CONFIG_VERSION}, the version of this program's configs"
        )
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
    if not _values_of(f"--{role}", arguments):
        if any(argument in (f"--{role}", f"--{role}=") for argument in arguments):
            raise InputError(f"--{role}: expected a class; got none")
        return None
    parser = Parser()
    parser.add_subclass_arguments(BASES[role], role)
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
    parser.add_subclass_arguments(DataSet, "data", default=description)
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
        given += _values_of(f"--{'.'.join(path)}", arguments)
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
        if cls and name not in (*options_of(cls), "class_path"):
            choices = list(options_of(cls))
            hint = suggest(name, choices) if choices else f"got {name!r}; it has none"
            raise InputError(f"--{'.'.join(path)}: unknown option of {cls.__name__}: {hint}")
        if name in BASES:
            class_at([*path, name])


def _values_of(option: str, arguments: list[str]) -> list[str]:
    values = [value for name, value in pairwise(arguments) if name == option]
    return values + [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]


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
