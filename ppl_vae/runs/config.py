"""What a run's `config.yaml` says, and whether it can be read."""

from pathlib import Path
from typing import Any

import yaml

from ppl_vae.errors import InputError, reason
from ppl_vae.pairs.pieces import ROLES

__all__ = ["CONFIG", "CONFIG_VERSION", "config_of", "read_config"]


CONFIG = "config.yaml"


CONFIG_VERSION = 1


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
        raise InputError(f"{path} is not valid YAML: {reason(error)}") from error
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
