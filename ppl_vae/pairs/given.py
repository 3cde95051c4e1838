"""The data set that a script gives to `fit`: an instance, a class, or images in memory."""

from typing import Any

from ppl_vae.data import Arrays, DataSet, Digits
from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import instance

__all__ = ["data_set", "in_memory"]


def data_set(data: Any, validation: Any, test: Any) -> DataSet:
    """The data set that is given as an instance, as a class, or as images in memory."""
    data = instance("data", Digits if data is None else data)
    if not isinstance(data, DataSet):
        return Arrays.of(data, validation, test)
    for name, images in {"validation": validation, "test": test}.items():
        if images is not None:
            raise InputError(
                f"{name}: {type(data).__name__} has its own {name} images; give images as data "
                "too, or leave it out"
            )
    return data


def in_memory(data: DataSet) -> Arrays | None:
    """The data set if its images are in memory, for the run directory to keep them."""
    return data if isinstance(data, Arrays) and data.in_memory is not None else None
