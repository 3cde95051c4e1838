"""The pieces of a run, from its config; its data set elsewhere where the files have moved."""

from typing import Any

from ppl_vae.data import DataSet
from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import ROLES, describe, restore

__all__ = ["restore_pieces"]


def restore_pieces(
    config: dict[str, Any], allow_code: bool, data: DataSet | None = None
) -> dict[str, Any]:
    """The pieces that a run's config names, by role; its data set elsewhere where one is given.

    Raises:
        InputError: If a piece cannot be restored, or the data set is converted in another way.
    """
    pieces = {role: restore(role, config.get(role), allow_code) for role in ROLES}
    written = config["data"].get("init_args") or {}
    pieces["data"] = pieces["data"].of_run(written)
    if data is not None:
        moved = data.of_run(written)
        _check_only_moved(moved, pieces["data"])
        pieces["data"] = moved
    return pieces


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
