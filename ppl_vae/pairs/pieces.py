"""Pieces that swap: their roles, the classes of each role, and the options of a class.

A piece is a class (`IAF`), a class with options (`functools.partial(IAF, flows=4)`), or, for data
sets and objectives, an instance (`MNIST(root="data")`).
"""

import inspect
import sys
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

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
    "class_path",
    "instance",
    "is_outside",
    "options_of",
    "resolve_class",
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


def class_path(cls: type) -> str:
    """The dotted path of a class; that of its package where it is known there by its name."""
    for package in (cls.__module__.split(".")[0], cls.__module__.rpartition(".")[0]):
        if package and getattr(import_module(package), cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__name__}"


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
        raise InputError(f"--{role}: {path} is not a subclass of {class_path(base)}")
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
