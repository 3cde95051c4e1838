"""The shared entry point of the verbs: the run to read, one-line errors, exit codes."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.pieces import ALLOW_CODE_HELP, data_set_of, piece_arguments, piece_of
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError, reason
from ppl_vae.machine.devices import DeviceChoice
from ppl_vae.machine.interrupts import terminated_as_interrupted
from ppl_vae.machine.processes import claims_message
from ppl_vae.machine.progress import announced
from ppl_vae.pairs.own_code import in_one_line
from ppl_vae.runs.directory import SUMMARY
from ppl_vae.runs.run import Run, load

__all__ = ["add_run", "parse_with_run", "pop_other_data", "pop_run", "pop_runs", "run_verb"]

_TRACEBACK = "--traceback"


def add_run(parser: Parser, several: bool = False, other_data: bool = False) -> None:
    """Adds the arguments of every verb that reads a run: the run, the device, leave to run code.

    Args:
        parser: The verb's.
        several: Whether it takes `runs`, one or more, rather than one `run`.
        other_data: Whether it takes another data set: `pop_other_data` gives it.
    """
    if several:
        parser.add_argument("runs", type=Path, nargs="+", help="The run directories.")
    else:
        parser.add_argument("run", type=Path, help="The run directory.")
    parser.add_argument(
        "--device",
        type=DeviceChoice,
        default="auto",
        help="Where to compute: auto, cpu, cuda or cuda:N.",
    )
    parser.add_argument("--allow_code", type=bool, default=False, help=ALLOW_CODE_HELP)
    parser.epilog = (
        "--data.NAME VALUE replaces an option that says where or how the run's data are read, as "
        "--data.path DIR where its files have moved."
    )
    if other_data:
        parser.epilog += (
            " --data CLASS takes another data set instead, with its options: --data ImageFolder "
            "--data.path DIR."
        )


def parse_with_run(parser: Parser, arguments: list[str]) -> dict[str, Any]:
    """Parses the arguments of a verb whose parser `add_run` extended.

    Returns:
        Every option by name, for `pop_run` or `pop_runs`. Under `data` are the arguments for the
        run's data set, since its options are known only once the run is read.
    """
    data, others = piece_arguments("data", arguments)
    return parser.parse_args(others).as_dict() | {"data": data}


def pop_other_data(options: dict[str, Any]) -> DataSet | None:
    """Takes a data set other than the run's out of the parsed options, before `pop_run`.

    Returns:
        The data set, or None where `--data CLASS` was not given: then the run's own is meant.
    """
    data_set: DataSet | None = piece_of("data", options["data"])
    if data_set is not None:
        options["data"] = []
    return data_set


def pop_run(options: dict[str, Any]) -> Run:
    """Takes the options that `add_run` added out of the parsed ones, and loads the run."""
    options["runs"] = [options.pop("run")]
    return pop_runs(options)[0]


def pop_runs(options: dict[str, Any]) -> list[Run]:
    """The same where `add_run` added several runs."""
    names = ("device", "allow_code", "data")
    device, allow_code, data = (options.pop(name) for name in names)
    if any(argument.partition("=")[0] == "--data" for argument in data):
        raise InputError(
            "there is no option --data here, only --data.NAME for files of the run that have "
            "moved; --help lists the options there are"
        )
    return [_load(path, device, allow_code, data) for path in options.pop("runs")]


def _load(path: Path, device: str, allow_code: bool, data: list[str]) -> Run:
    with announced(f"reading {path}"):
        run = load(path, device, allow_code, data_set_of(path, data, allow_code))
    if not (run.path / SUMMARY).exists():
        print(
            f"note: the training of {run.path} has not finished; its last checkpoint is used",
            file=sys.stderr,
        )
    return run


def run_verb(verb: Callable[[list[str]], None], arguments: list[str] | None = None) -> NoReturn:
    """Runs a verb as a program: bad input ends in one line on standard error and exit code 2.

    An error in the user's own classes is bad input too. Ctrl-C and SIGTERM end with 130. Everything
    else that is raised is a defect, and keeps its traceback. `--traceback true` among the
    arguments, or PPL_VAE_TRACEBACK=1 in the environment, shows that of every error.
    """
    try:
        given = sys.argv[1:] if arguments is None else arguments
        shown, given = _pop_traceback(given)
        with terminated_as_interrupted(), _traceback_of_errors() if shown else nullcontext():
            verb(given)
    except InputError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted", 130)
    except (MemoryError, torch.OutOfMemoryError) as error:
        _fail(
            f"out of memory ({reason(error)}); choose fewer images or draws at a time, as a "
            "smaller --batch_size, or another --device",
            2,
        )
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            _fail_in_own_code(error)
        _fail(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; choose another place", 2
        )
    except Exception as error:
        _fail_in_own_code(error)
    sys.exit(0)


def _fail_in_own_code(error: Exception) -> NoReturn:
    message = in_one_line(error)
    if message is None:
        raise error
    _fail(f"{message}; {_TRACEBACK} true shows the whole traceback", 2)


def _pop_traceback(arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether tracebacks are wanted, and the arguments without those that say so.

    Raises:
        InputError: If the option has another value than true or false.
    """
    shown = os.environ.get("PPL_VAE_TRACEBACK", "0") not in ("", "0")
    others, words = [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != _TRACEBACK:
            others.append(word)
            continue
        value = value if equals else next(words, "none")
        if value not in ("true", "false"):
            raise InputError(f"{_TRACEBACK}: expected true or false; got {value}")
        shown = value == "true"
    return shown, others


@contextmanager
def _traceback_of_errors() -> Iterator[None]:
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise


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
    if claims_message(message):
        print(f"error: {message}" if code == 2 else message, file=sys.stderr)
    sys.exit(code)
