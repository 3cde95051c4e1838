"""The images that a verb measures: of the run's own data, of another data set, or as given."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

from ppl_vae.data import DataSet, Facts, Split
from ppl_vae.errors import InputError
from ppl_vae.runs.run import Run

__all__ = ["Choice", "chosen_images", "said_of"]

Choice = Literal["train", "validation", "test", "all"]


def chosen_images(run: Run, split: Choice, data: Any) -> tuple[Facts, Split]:
    """The images to measure, and the facts of their data.

    Args:
        run: A trained run.
        split: Of its own data or of another data set.
        data: None for its own, or else a `DataSet` or whatever `Run.split_of` takes.

    Raises:
        InputError: If there is no such split, or other data do not fit the run.
    """
    if split not in get_args(Choice):
        raise InputError(f"--split: expected one of {', '.join(get_args(Choice))}; got {split!r}")
    if data is None:
        return run.data, getattr(run.data, split)
    if isinstance(data, DataSet):
        other = run.other_data(data)
        images = getattr(other, split)
        if not len(images):
            raise InputError(f"--split: {other.name} has no {split} images; leave {split} out")
        return other, run.split_of(images)
    if split != "all":
        raise InputError(f"--split: images that are given are all measured; leave {split} out")
    return run.facts, run.split_of(data)


def said_of(data: Any, facts: Facts) -> dict[str, Any]:
    """What a file of results says of the data: their name, and the options of another data set.

    Args:
        data: As for `chosen_images`.
        facts: Of the images.
    """
    if isinstance(data, DataSet):
        return {"data": facts.name, "data_options": _options_of(data)}
    return {"data": facts.name if data is None else "new images"}


def _options_of(data: DataSet) -> dict[str, Any]:
    """The options of a data set, for JSON; a path is absolute, anything else unknown is text."""
    options = {field.name: getattr(data, field.name) for field in fields(data)}
    options = {
        n: v.expanduser().resolve() if isinstance(v, Path) else v for n, v in options.items()
    }
    known = bool | int | float | str | list | tuple | None
    return {n: v if isinstance(v, known) else str(v) for n, v in options.items()}
