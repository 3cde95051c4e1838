"""Pieces as plain data, for a run's config, and back.

The class `IAF` with 4 flows is the mapping `{class_path: guides.IAF, init_args: {flows: 4}}`. An
option of a piece may be a piece itself, of the role that the option is named after.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import ROLES, class_of, class_path, is_outside, options_of, resolve_class

__all__ = ["describe", "outside_classes", "restore"]


def describe(piece: Any) -> dict[str, Any] | None:
    """A piece as plain data: its class path, and every option with its value or default.

    Raises:
        InputError: If the piece cannot be found again by a path, as a lambda or a local class.
    """
    if piece is None:
        return None
    cls = class_of(piece)
    if isinstance(piece, partial):
        chosen: Mapping[str, Any] = piece.keywords
    elif inspect.isclass(piece):
        chosen = {}
    elif dataclasses.is_dataclass(piece):
        chosen = {field.name: getattr(piece, field.name) for field in dataclasses.fields(piece)}
    else:
        raise InputError(
            f"expected a class or functools.partial of one with options; got {piece!r}"
        )
    if "<" in cls.__qualname__ or "." in cls.__qualname__:
        raise InputError(
            f"{cls.__qualname__} cannot be found again from a run's config; "
            "define it at the top level of a module"
        )
    values = {
        name: chosen.get(name, parameter.default)
        for name, parameter in options_of(cls).items()
        if name in chosen or parameter.default is not inspect.Parameter.empty
    }
    options = {
        name: describe(value) if name in ROLES and _is_class(value) else _plain(cls, name, value)
        for name, value in values.items()
    }
    return {"class_path": class_path(cls), "init_args": options}


def _is_class(value: Any) -> bool:
    return inspect.isclass(value) or isinstance(value, partial)


def _plain(cls: type, name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve())
    if isinstance(value, (list, tuple)):
        return [_plain(cls, name, item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    hint = options_of(cls)[name].annotation
    choices = ", ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else ""
    expected = f"one of {choices}" if choices else "what a config can hold (numbers, text, lists)"
    raise InputError(f"option {name} of {cls.__name__}: expected {expected}; got {value!r}")


def restore(role: str, description: Mapping[str, Any] | None, allow_code: bool = False) -> Any:
    """The piece that `describe` described.

    Args:
        role: Which piece it is, a key of `BASES`.
        description: Its class path and options, or None for none.
        allow_code: Whether a class from outside the project may be imported.

    Returns:
        An instance of a data set or objective, a partial of another class, or None.

    Raises:
        InputError: If the class is missing, of the wrong kind, or outside the project without
            `allow_code`; or if an option has a bad value.
    """
    if description is None:
        return None
    path, options = description["class_path"], dict(description.get("init_args") or {})
    if is_outside(path) and not allow_code:
        raise InputError(
            f"{role}: {path} is code from outside the project; add --allow_code true to import it"
        )
    cls = resolve_class(role, path)
    unknown = sorted(set(options) - set(options_of(cls)))
    if unknown:
        raise InputError(f"{role}: {cls.__name__} has no option {unknown[0]!r}")
    for name, value in options.items():
        if name in ROLES and isinstance(value, Mapping):
            options[name] = restore(name, value, allow_code)
    if dataclasses.is_dataclass(cls):
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise InputError(f"{role}: {cls.__name__}: {error}") from error
    return partial(cls, **options) if options else cls


def outside_classes(config: Any) -> list[str]:
    """Every class path in a configuration that leads out of the project's own packages."""
    if isinstance(config, Mapping):
        own = config.get("class_path")
        below = [path for value in config.values() for path in outside_classes(value)]
        return [own, *below] if isinstance(own, str) and is_outside(own) else below
    if isinstance(config, list):
        return [path for value in config for path in outside_classes(value)]
    return []
