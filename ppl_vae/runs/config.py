"""The `config.yaml` of a run: writing, reading, and refusing one that is not safe to use."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.data.arrays import KEPT
from ppl_vae.errors import InputError, reason
from ppl_vae.machine.files import whole_file
from ppl_vae.pairs.pieces import ROLES, suggest
from ppl_vae.runs.settings import Settings

__all__ = ["CONFIG", "CONFIG_VERSION", "config_of", "read_config", "write_config"]

CONFIG = "config.yaml"
CONFIG_VERSION = 1
_ARRAYS = "ppl_vae.data.Arrays"


def config_of(run: Path) -> dict[str, Any]:
    """Reads the config of a run directory.

    Raises:
        InputError: If it is none, or its config cannot be read or has an entry of another name.
    """
    if not run.is_dir():
        raise InputError(f"{run}: expected a run directory; there is no such folder")
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: expected a run directory; it has no {CONFIG}")
    config = read_config(run / CONFIG)
    known = ["version", *ROLES, *(field.name for field in fields(Settings))]
    for name in config:
        if name not in known:
            raise InputError(f"{run / CONFIG}: {suggest(str(name), known)}")
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
        raise InputError(f"{path} is not valid YAML: {reason(error)}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected a mapping of options; got {type(config).__name__}")
    if config.get("version", CONFIG_VERSION) != CONFIG_VERSION:
        raise InputError(
            f"{path} is a config of version {config['version']}; this program reads version "
            f"{CONFIG_VERSION}: use the release that wrote it"
        )
    try:
        _check_pieces(path, config)
    except RecursionError as error:  # an alias inside of its own anchor
        raise InputError(f"{path}: expected pieces in pieces, but not without end") from error
    _find_images(path.parent, config.get("data") or {})
    return config


def _find_images(run: Path, data: dict[str, Any]) -> None:
    """Images that a run keeps are in its directory, wherever that is by now."""
    options = data.get("init_args") or {}
    for name in ("path", "validation", "test"):
        value = options.get(name) if data.get("class_path") == _ARRAYS else None
        if isinstance(value, str) and Path(value).parent.name == KEPT:
            kept = run / KEPT / Path(value).name
            options |= {name: str(kept.absolute())} if kept.is_file() else {}


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Writes the `config.yaml` of a run, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    with whole_file(run / CONFIG) as file:
        file.write(yaml.safe_dump(config, sort_keys=False).encode())


def _check_pieces(path: Path, options: dict[str, Any], above: str = "") -> None:
    """Refuses pieces in any other form than a mapping: the parser would import a class from text.

    An option of a piece that has the name of a role is a piece too.
    """
    for role in ROLES:
        piece = options.get(role)
        if piece is None:
            continue
        below = piece.get("init_args") or {} if isinstance(piece, dict) else None
        if not (
            isinstance(piece, dict)
            and isinstance(below, dict)
            and isinstance(piece.get("class_path"), str)
            and piece.keys() <= {"class_path", "init_args"}
            and all(isinstance(name, str) and name.isidentifier() for name in below)
        ):
            raise InputError(
                f"{path}: expected {above}{role} as a mapping of class_path and init_args; got "
                f"{piece!r}"
            )
        _check_pieces(path, below, f"{above}{role}.")
