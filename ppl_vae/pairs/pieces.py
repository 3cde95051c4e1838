"""Pieces that swap: a class and its options, as Python and as configuration.

In Python a piece is a class (`IAF`), a class with options (`functools.partial(IAF, flows=4)`), or,
for data sets and objectives, an instance (`MNIST(root="data")`). In a configuration it is the
mapping `{class_path: guides.IAF, init_args: {flows: 4}}`. This file goes from one to the other.
An option of a piece may be a piece itself, of the role that the option is named after.
"""

import dataclasses
import inspect
import sys
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from guides import Guide
from models import Likelihood, Model, Network, Prior
from models.corruptions import Corruption
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError, reason
from ppl_vae.objectives import Objective

__all__ = [
    "BASES",
    "INJECTED",
    "ROLES",
    "check_options",
    "class_of",
    "describe",
    "instance",
    "options_of",
    "outside_classes",
    "resolve_class",
    "restore",
    "subclasses",
    "suggest",
    "unknown_option",
]

ROLES: dict[str, type] = {
    "data": DataSet,
    "model": Model,
    "prior": Prior,
    "likelihood": Likelihood,
    "network": Network,
    "guide": Guide,
    "objective": Objective,
}

# The pieces of a run, and those that a verb takes beside it.
BASES: dict[str, type] = {**ROLES, "corruption": Corruption}

# Passed to a constructor that names them; every other parameter is an option of the class.
# The images of a data set that are in memory are no option: a run has them in a file.
INJECTED = frozenset(
    {"spec", "prior", "likelihood", "network", "inputs", "outputs", "model", "in_memory"}
)

PROJECT_PACKAGES = ("models", "guides", "ppl_vae")


def class_of(piece: Any) -> type:
    """The class behind a class, a partial of one, or an instance."""
    while isinstance(piece, partial):
        piece = piece.func
    return piece if inspect.isclass(piece) else type(piece)


def instance(role: str, piece: Any) -> Any:
    """The instance that a class, or a partial of one, means; anything else as it is.

    Args:
        role: Which piece it is: `data` or `objective`.
        piece: What was given.

    Raises:
        InputError: If it cannot be made.
    """
    if not (inspect.isclass(piece) or isinstance(piece, partial)):
        return piece
    cls = class_of(piece)
    if not issubclass(cls, ROLES[role]) or inspect.isabstract(cls):
        raise InputError(f"{role}: expected a concrete {ROLES[role].__name__}; got {cls.__name__}")
    check_options(role, piece)
    parameters = inspect.signature(piece).parameters
    missing = [name for name, each in parameters.items() if each.default is each.empty]
    if missing:
        raise InputError(
            f"{role}: {cls.__name__} needs {', '.join(missing)}; give an instance, as in "
            f"{role}={cls.__name__}({missing[0]}=...)"
        )
    try:
        return piece()
    except (TypeError, ValueError) as error:
        raise InputError(f"{role}: {cls.__name__}: {error}") from error


def options_of(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters that are options of the class, by name."""
    parameters = inspect.signature(cls).parameters
    return {name: value for name, value in parameters.items() if name not in INJECTED}


def check_options(role: str, piece: Any) -> None:
    """Refuses a partial with an option that its class does not have.

    Raises:
        InputError: If there is one.
    """
    if not isinstance(piece, partial):
        return
    cls = class_of(piece)
    parameters = inspect.signature(cls).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    unknown = [name for name in piece.keywords if name not in parameters]
    if unknown:
        raise InputError(f"{role}: {unknown_option(role, cls, unknown[0])}")


def unknown_option(role: str, cls: type, name: str) -> str:
    """Says that a class has no such option, which it has, and which classes have this one."""
    choices = list(options_of(cls))
    hint = suggest(name, choices) if choices else f"got {name!r}; it has none"
    having = [other.__name__ for other in subclasses(BASES[role]) if name in options_of(other)]
    others = f"; classes with this option: {', '.join(having)}" if having else ""
    return f"unknown option of {cls.__name__}: {hint}{others}"


def subclasses(base: type) -> list[type]:
    """The concrete classes below a base that have been imported, by name."""
    found: set[type] = set()
    children: list[type] = base.__subclasses__()
    for child in children:
        found |= {child, *subclasses(child)}
    concrete = (cls for cls in found if not inspect.isabstract(cls))
    return sorted(concrete, key=lambda cls: cls.__name__)


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
    return {"class_path": _class_path(cls), "init_args": options}


def _is_class(value: Any) -> bool:
    return inspect.isclass(value) or isinstance(value, partial)


def _class_path(cls: type) -> str:
    for package in (cls.__module__.split(".")[0], cls.__module__.rpartition(".")[0]):
        if package and getattr(import_module(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__name__}"


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


def resolve_class(role: str, path: str) -> type:
    """Finds the class that a name or dotted path means, for one role.

    Raises:
        InputError: If there is none, or it is not of the role's kind.
    """
    base = BASES[role]
    # Of two classes with one name the project's own is meant; the other has its dotted path.
    ranked = sorted(subclasses(base), key=lambda cls: not is_outside(f"{cls.__module__}."))
    known = {cls.__name__: cls for cls in ranked}
    if path in known:
        return known[path]
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"--{role}: {suggest(path, known)}, or a dotted path to a class of yours")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        missing = error.name is not None and f"{path}.".startswith(f"{error.name}.")
        hint = "is its folder the current one, or on PYTHONPATH?" if missing else "mend the module"
        hint = _hidden(module) or hint
        raise InputError(f"--{role}: cannot import {path} ({error}); {hint}") from error
    except Exception as error:  # raised by the lines of the module
        where = list(traceback.walk_tb(error.__traceback__))[-1]
        file, line = where[0].f_code.co_filename, where[1]
        if isinstance(error, SyntaxError):
            file, line = error.filename or file, error.lineno or line
        raise InputError(
            f"--{role}: cannot import {path} ({type(error).__name__} in {file}, line {line}: "
            f"{reason(error)}); mend the module"
        ) from error
    if found is None:
        hint = f"; {_hidden(module)}" if _hidden(module) else ""
        raise InputError(f"--{role}: the module {module} has no class {name}{hint}")
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise InputError(f"--{role}: {path} is not a subclass of {_class_path(base)}")
    if inspect.isabstract(found):
        undefined = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise InputError(f"--{role}: {path} is abstract; it has to define {undefined}")
    return found


def _hidden(module: str) -> str:
    """Says which file of the current folder is hidden by a module that Python finds before it."""
    name = module.partition(".")[0]
    found = getattr(sys.modules.get(name), "__file__", None)
    for place in (Path(name), Path(f"{name}.py")):
        if place.exists() and found and place.resolve() not in (*Path(found).parents, Path(found)):
            return f"{place} in the current folder is hidden by {found}; rename it"
    return ""


def suggest(name: str, choices: Mapping[str, Any] | list[str]) -> str:
    """'expected one of ...; got ..., did you mean ...?' for a misspelt name."""
    near = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    lower = {choice.lower(): choice for choice in choices}
    near = [lower[name.lower()]] if name.lower() in lower else near
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"got {name!r}{hint}; expected one of {', '.join(choices)}"


def is_outside(class_path: str) -> bool:
    """Whether a class path leads out of the project's own packages."""
    return "." in class_path and class_path.split(".")[0] not in PROJECT_PACKAGES


def outside_classes(config: Any) -> list[str]:
    """Every class path in a configuration that leads out of the project's own packages."""
    if isinstance(config, Mapping):
        own = config.get("class_path")
        below = [path for value in config.values() for path in outside_classes(value)]
        return [own, *below] if isinstance(own, str) and is_outside(own) else below
    if isinstance(config, list):
        return [path for value in config for path in outside_classes(value)]
    return []
