"""The data set that a script gives to `fit`: an instance, a class, or images in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppl_vae.data import Arrays, DataSet, Digits
from ppl_vae.errors import InputError
from ppl_vae.pairs.descriptions import describe
from ppl_vae.pairs.pieces import instance

__all__ = ["data_set", "described", "save_with_images", "saved_in"]


def data_set(data: Any, validation: Any, test: Any) -> DataSet:
    """The data set that is given as an instance, as a class, or as images in memory."""
    data = instance("data", Digits if data is None else data)
    if not isinstance(data, DataSet):
        return Arrays.of(data, validation, test)
    for name, images in {"validation": validation, "test": test}.items():
        if images is not None:
            remedy = "give images as data too, or leave it out"
            if isinstance(data, Arrays) and data.in_memory is not None:
                remedy = f"give it there, as in Arrays.of(images, {name}=...)"
            raise InputError(f"{name}: {type(data).__name__} has its own {name} images; {remedy}")
    return data


def described(pieces: Mapping[str, Any]) -> dict[str, Any]:
    """All pieces as plain data; images in memory as the files that the run directory has."""
    config: dict[str, Any] = {role: describe(piece) for role, piece in pieces.items()}
    if isinstance(pieces["data"], Arrays):
        config["data"]["init_args"] |= pieces["data"].files
    return config


def save_with_images(data: DataSet, save: Callable[[Path], None], folder: Path) -> None:
    """Fills a new run directory: with what `save` writes, and with images in memory."""
    save(folder)
    if isinstance(data, Arrays):
        data.save(folder)


def saved_in(folder: Path, data: DataSet) -> DataSet:
    """The data set of a run directory; it reads what were images in memory."""
    return data.saved_in(folder) if isinstance(data, Arrays) else data
