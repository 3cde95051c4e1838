"""What all verbs share on the command line: parsing, one-line errors, exit codes."""

import errno
import re
import sys
from argparse import SUPPRESS
from collections.abc import Callable
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml

from ppl_vae.devices import DeviceChoice
from ppl_vae.distributed import first_to_say
from ppl_vae.errors import InputError
from ppl_vae.pieces import (
    INJECTED,
    ROLES,
    class_of,
    options_of,
    outside_classes,
    resolve_class,
    restore,
    suggest,
)
from ppl_vae.runs import CONFIG_VERSION, SUMMARY, Run, load, read_config

__all__ = [
    "Parser",
    "add_pieces",
    "add_run",
    "allow_only",
    "parse_with_pieces",
    "pop_run",
    "pop_runs",
    "run_verb",
]


_ALLOW_CODE = "Whether classes from outside the project that a config names may be imported."


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


def add_pieces(parser: Parser, defaults: dict[str, Any]) -> None:
    """Adds --config and, for each piece, its class by name and the class's own options."""
    parser.add_argument("--config", action="config", help="A run's config.yaml, or one like it.")
    parser.add_argument("--version", type=int, default=CONFIG_VERSION, help=SUPPRESS)
    parser.add_argument(
        "--allow_code",
        type=bool,
        default=False,
        help=_ALLOW_CODE,
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
    """What is no option of a piece, nor of a piece that is an option of a piece, ..."""
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
    named: dict[str, type] = {}
    replaced: set[str] = set()
    for option in {argument.partition("=")[0] for argument in arguments}:
        role = option.removeprefix("--").rpartition(".")[2]
        if option.startswith("--") and role in ROLES:
            for value in _values_of(option, arguments):
                if not value.startswith("{"):
                    cls = resolve_class(role, value)
                    if option == f"--{role}":
                        named[role] = cls
    allowed = [value.lower() == "true" for value in _values_of("--allow_code", arguments)][-1:]
    names = (action.dest for action in parser._actions)
    known = [n for n in names if not n.endswith("help") and n not in ("config", "print_config")]
    for path in _values_of("--config", arguments):
        config = read_config(Path(path))
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
        written = {
            role: resolve_class(role, config[role]["class_path"])
            for role in ROLES
            if config.get(role)
        }
        left = {n: v for n, v in config.items() if named.get(n) in (None, written.get(n))}
        if left != config:
            text = yaml.safe_dump(left)
            given = {path: text, f"--config={path}": f"--config={text}"}
            arguments = [given.get(argument, argument) for argument in arguments]
        replaced |= set(written)
    # The parser would keep those options of a class that the one in its place has too.
    parser.set_defaults(dict.fromkeys(replaced | set(named)))
    options = parser.parse_args(arguments).as_dict()
    if options.pop("version") != CONFIG_VERSION:
        raise InputError(
            f"--version: expected {CONFIG_VERSION}, the version of this program's configs"
        )
    options.pop("config")
    for role in ROLES:
        options[role] = restore(role, options[role], allow_code=True)
    return options


def add_run(parser: Parser, several: bool = False) -> None:
    """Adds what every verb that reads a run takes: the run, the device, and whether to run code.

    Args:
        parser: The verb's.
        several: Whether it takes `runs`, one or more, rather than one `run`.
    """
    if several:
        parser.add_argument("runs", type=Path, nargs="+", help="The run directories.")
    else:
        parser.add_argument("run", type=Path, help="The run directory.")
    parser.add_argument("--device", type=DeviceChoice, default="auto", help="Where to compute.")
    parser.add_argument("--allow_code", type=bool, default=False, help=_ALLOW_CODE)


def pop_run(options: dict[str, Any]) -> Run:
    """Takes what `add_run` added out of the parsed options, and loads the run."""
    return _load(options.pop("run"), options.pop("device"), options.pop("allow_code"))


def pop_runs(options: dict[str, Any]) -> list[Run]:
    """The same where `add_run` added several runs."""
    device, allow_code = options.pop("device"), options.pop("allow_code")
    return [_load(path, device, allow_code) for path in options.pop("runs")]


def _load(path: Path, device: str, allow_code: bool) -> Run:
    run = load(path, device, allow_code)
    if not (run.path / SUMMARY).exists():
        print(
            f"note: the training of {run.path} has not finished; its last checkpoint is used",
            file=sys.stderr,
        )
    return run


def allow_only(arguments: list[str], *allowed: str) -> None:
    """Refuses options that may not stand beside the first of the allowed ones."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in allowed:
            raise InputError(
                f"{allowed[0]} takes everything else from the run's config; leave out {name}"
            )


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


def run_verb(verb: Callable[[list[str]], None], arguments: list[str] | None = None) -> NoReturn:
    """Runs a verb as a program: bad input ends in one line on standard error and exit code 2.

    Ctrl-C ends with 130. Everything else that is raised is a defect, and keeps its traceback.
    """
    try:
        verb(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _fail(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; choose another place", 2
        )
    sys.exit(0)


_DISK_ERRORS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


def _fail(message: str, code: int) -> NoReturn:
    if first_to_say(message):
        print(f"error: {message}" if code == 2 else message, file=sys.stderr)
    sys.exit(code)
