"""The run directory: what `fit` writes and every other verb reads."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from guides import Guide
from models import Model, Spec
from ppl_vae.checkpoints import load_parameters, read_checkpoint
from ppl_vae.data import Data, DataSet, check_sizes
from ppl_vae.devices import choose_device
from ppl_vae.errors import InputError
from ppl_vae.files import whole_file
from ppl_vae.pairs import build_pair, choose_domain
from ppl_vae.pieces import ROLES, restore
from ppl_vae.training import BEST, LAST

__all__ = [
    "CONFIG",
    "CONFIG_VERSION",
    "PICTURES",
    "SUMMARY",
    "Run",
    "config_of",
    "create",
    "free_path",
    "load",
    "locked",
    "read_config",
    "restore_pieces",
    "unused",
    "write_json",
]

CONFIG = "config.yaml"
CONFIG_VERSION = 1
SUMMARY = "summary.json"
PICTURES = "pictures"


@dataclasses.dataclass
class Run:
    """A trained pair, as `fit` returns it and `load` reads it.

    Attributes:
        path: The run directory.
        config: What `config.yaml` says.
        pieces: The data set, the objective and the classes of the pair, by role.
        spec: What the pair was built for.
        model: p(x, z), in evaluation mode.
        guide: q(z|x), in evaluation mode.
        device: Where both are.
        sizes: How many training, validation and test images it was trained with, where known.
    """

    path: Path
    config: dict[str, Any]
    pieces: dict[str, Any]
    spec: Spec
    model: Model
    guide: Guide
    device: torch.device
    sizes: list[int] | None = None

    @cached_property
    def data(self) -> Data:
        """The data set that the run was trained on, on its device; read when first asked for.

        Raises:
            InputError: If it cannot be read, or has another number of images by now.
        """
        data_set: DataSet = self.pieces["data"]
        data = data_set.load(choose_domain(self.pieces), self.config["seed"])
        check_sizes(data.name, data.sizes, self.sizes)
        return data.to(self.device)

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says about the training."""
        return json.loads((self.path / SUMMARY).read_text())


def load(path: str | Path, device: str = "auto", allow_code: bool = False) -> Run:
    """Reads a run: the model, the guide and what they were built for, on any device.

    The parameters are the best ones where the run stopped early by its validation bound, else the
    last ones. Only `config.yaml` and a safetensors file are read, and neither can run code.

    Args:
        path: The run directory.
        device: `auto`, `cpu` or `cuda`.
        allow_code: Whether classes from outside the project that the config names may be imported.

    Raises:
        InputError: If it is no run directory, or something in it is missing, damaged or of
            another version.
    """
    path = Path(path)
    config = config_of(path)
    pieces = restore_pieces(config, allow_code)
    target = choose_device(device)
    checkpoint = path / (BEST if (path / BEST).exists() else LAST)
    tensors, state = read_checkpoint(checkpoint)
    spec = Spec(**{**state["spec"], "image_shape": tuple(state["spec"]["image_shape"])})
    model, guide = build_pair(spec, pieces)
    pair = nn.ModuleDict({"model": model, "guide": guide})
    load_parameters(pair, tensors, checkpoint)
    pair.to(target).eval()
    return Run(path, config, pieces, spec, model, guide, target, state.get("sizes"))


def restore_pieces(config: dict[str, Any], allow_code: bool) -> dict[str, Any]:
    """The pieces that a config names, by role."""
    return {role: restore(role, config.get(role), allow_code) for role in ROLES}


def config_of(run: Path) -> dict[str, Any]:
    """Reads the config of a run directory.

    Raises:
        InputError: If it is none, or its config cannot be read.
    """
    if not run.is_dir():
        raise InputError(f"{run}: expected a run directory; there is no such folder")
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: expected a run directory; it has no {CONFIG}")
    config = read_config(run / CONFIG)
    for name in ("data", "model", "network", "guide", "objective", "seed"):
        if config.get(name) is None:
            raise InputError(f"{run / CONFIG}: expected the config of a run; it has no {name}")
    return config


def read_config(path: Path) -> dict[str, Any]:
    """Reads a `config.yaml`.

    Raises:
        InputError: If it is missing, no YAML mapping, or of another version.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: expected a config file; {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a mapping of options; got {type(config).__name__}")
    if config.get("version", CONFIG_VERSION) != CONFIG_VERSION:
        raise InputError(
            f"{path} is a config of version {config['version']}; this program reads version "
            f"{CONFIG_VERSION}: use the release that wrote it"
        )
    for role in ROLES:
        piece = config.get(role)
        if piece is not None and not _is_description(piece):
            raise InputError(
                f"{path}: expected {role} as a mapping of class_path and init_args; got {piece!r}"
            )
    return config


def _is_description(piece: Any) -> bool:
    return (
        isinstance(piece, dict)
        and isinstance(piece.get("class_path"), str)
        and isinstance(piece.get("init_args", {}), dict)
        and piece.keys() <= {"class_path", "init_args"}
    )


def free_path(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2, ... that does not exist."""
    number = 1
    while (path := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return path


def create(
    path: Path,
    config: dict[str, Any],
    fill: Callable[[Path], None],
    instead: Callable[[], Path] | None = None,
) -> Path:
    """Makes a run directory that appears with its config and first checkpoint, or not at all.

    Args:
        path: Where it is to be.
        config: What `config.yaml` is to say.
        fill: Writes the rest of the first content into the folder that it is given.
        instead: Another place, where somebody else has taken this one meanwhile.

    Returns:
        Where it is.

    Raises:
        InputError: If the path exists or cannot be written.
    """
    if instead is None:
        unused(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    absent = [parent for parent in path.parents if not parent.exists()]
    try:
        unfinished.mkdir(parents=True)
        with whole_file(unfinished / CONFIG) as file:
            file.write(yaml.safe_dump(config, sort_keys=False).encode())
        fill(unfinished)
        while True:
            try:
                unfinished.rename(path)
                return path
            except OSError as error:
                if instead is None or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                path = instead()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in absent:
            with suppress(OSError):  # where the run is there, its parents are not empty
                parent.rmdir()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a run directory for one process that trains.

    Raises:
        InputError: If another process holds it.
    """
    folder = os.open(path, os.O_RDONLY)
    _held.add(folder)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(
            f"{path} is being trained by another process; wait for it, or stop it"
        ) from error
    finally:
        _held.discard(folder)
        os.close(folder)


def _let_go() -> None:
    """Processes that read images outlive a run that is killed by seconds, and shall not hold it."""
    for folder in _held:
        os.close(folder)
    _held.clear()


_held: set[int] = set()
os.register_at_fork(after_in_child=_let_go)


def unused(path: Path) -> Path:
    """The path of a new run; raises an InputError if it is taken."""
    if path.exists():
        raise InputError(
            f"{path} exists; go on with --resume {path}, or choose another name with --run"
        )
    return path


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes plain data as indented JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
