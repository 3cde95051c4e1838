"""What a run directory gives back: the pieces of its config, and the parameters that it keeps."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_vae.data import DataSet
from ppl_vae.errors import InputError, check_flags, kind
from ppl_vae.pairs.descriptions import describe, restore
from ppl_vae.pairs.pieces import ROLES
from ppl_vae.runs.checkpoints import BEST, LAST, read_checkpoint
from ppl_vae.runs.config import config_of

__all__ = ["kept_parameters", "restore_pieces"]


def restore_pieces(
    config: dict[str, Any], allow_code: bool, data: DataSet | None = None
) -> dict[str, Any]:
    """The pieces that a run's config names, by role; its data set elsewhere where one is given.

    Raises:
        InputError: If a piece cannot be restored, or what is given is no data set, or one that is
            converted in another way.
    """
    check_flags(allow_code=allow_code)
    pieces = {role: restore(role, config.get(role), allow_code) for role in ROLES}
    written = config["data"].get("init_args") or {}
    pieces["data"] = pieces["data"].of_run(written)
    if data is not None:
        if not isinstance(data, DataSet):
            raise InputError(
                f"data: expected the run's data set, {type(pieces['data']).__name__}, with its new "
                f"place; got {kind(data)}; leave it out where nothing has moved"
            )
        moved = data.of_run(written)
        _check_only_moved(moved, pieces["data"])
        pieces["data"] = moved
    return pieces


def kept_parameters(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """The best parameters of a run where it kept them, else the last ones; with other tensors.

    Returns:
        The tensors, the state beside them, and the checkpoint that has both.

    Raises:
        InputError: If there is no run, or the checkpoint cannot be read.
    """
    config_of(path)
    checkpoint = path / (BEST if (path / BEST).exists() else LAST)
    return *read_checkpoint(checkpoint), checkpoint


def _check_only_moved(moved: DataSet, trained: DataSet) -> None:
    """Refuses a data set that is converted in another way than the one of the run."""
    if type(moved) is not type(trained):
        raise InputError(
            f"expected the run's data set, {type(trained).__name__}; got {type(moved).__name__}"
        )
    now, before = ((describe(each) or {})["init_args"] for each in (moved, trained))
    for name, value in before.items():
        if name not in moved.where_read and now[name] != value:
            free = ", ".join(f"--data.{each}" for each in moved.where_read if each in before)
            raise InputError(
                f"--data.{name}: a run's data keep their conversion, here {value}; "
                f"{f'only {free} may change' if free else 'no option may change'}; leave it out, "
                "or train again"
            )
