"""Nested dataclasses of whole numbers as bytes, and back; nothing that is read can run code."""

import json
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from math import prod
from typing import Any

import numpy as np

from ppl_vae.errors import InputError

__all__ = ["DAMAGED", "from_bytes", "to_bytes"]

DAMAGED = "the model in the archive is damaged; name the run with --run RUN"

_TYPES = ("<i1", "<i2", "<i4", "<i8")


def to_bytes(value: Any) -> bytes:
    """A tree of dataclasses, tuples, whole numbers and arrays of these.

    A line of JSON says how the tree is made; the arrays follow, each in the smallest type that
    holds it. A keyword-only field is left out where it has its default: so a model that does not
    need a new field keeps its bytes. The same tree gives the same bytes on every machine.
    """
    arrays: list[bytes] = []
    line = json.dumps(_described(value, arrays), separators=(",", ":"))
    return b"".join([line.encode(), b"\n", *arrays])


def _described(value: Any, arrays: list[bytes]) -> Any:
    if is_dataclass(value):
        parts = {
            each.name: getattr(value, each.name) for each in fields(value) if _written(value, each)
        }
        described = {name: _described(part, arrays) for name, part in parts.items()}
        return {"class": _name_of(type(value)), **described}
    if isinstance(value, np.ndarray):
        kind = next(t for t in _TYPES if np.array_equal(value.astype(t), value))
        arrays.append(value.astype(kind).tobytes())
        return {"type": kind, "shape": value.shape}
    return [_described(each, arrays) for each in value] if isinstance(value, tuple) else value


def _written(value: Any, part: Field[Any]) -> bool:
    return not part.kw_only or getattr(value, part.name) != part.default


def _name_of(kind: type) -> str:
    """Its name in archives, which may be older than that in the code."""
    return str(getattr(kind, "written_as", kind.__name__))


def from_bytes(data: bytes, classes: tuple[type, ...]) -> Any:
    """The tree that `to_bytes` was given.

    Args:
        data: What it returned.
        classes: The dataclasses that may be in it.

    Raises:
        InputError: If it is none.
    """
    line, _, arrays = data.partition(b"\n")
    reader = _Reader(arrays, {_name_of(each): each for each in classes})
    try:
        return reader.built(json.loads(line))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(DAMAGED) from error


class _Reader:
    """Builds a tree, its arrays being read in the order in which they were written."""

    def __init__(self, arrays: bytes, classes: Mapping[str, type]) -> None:
        self.arrays = arrays
        self.classes = classes
        self.place = 0

    def built(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self.built(each) for each in value)
        if not isinstance(value, dict):
            return value
        if "class" not in value:
            return self.array(value["type"], value["shape"])
        parts = {name: self.built(part) for name, part in value.items() if name != "class"}
        return self.classes[value["class"]](**parts)

    def array(self, kind: str, shape: list[int]) -> np.ndarray:
        count = prod(shape)
        if kind not in _TYPES or not 0 <= count <= len(self.arrays):
            raise ValueError("no array")
        values = np.frombuffer(self.arrays, kind, count, self.place).reshape(shape)
        self.place += values.nbytes
        return values.astype(np.int64)
