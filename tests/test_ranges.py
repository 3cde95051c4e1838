"""Every option of every piece refuses what is out of its range, at construction and by its name."""

import inspect
from collections.abc import Iterator, Sequence
from math import inf, nan
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest

from guides import Guide, SemiAmortized
from models import VAE, Hierarchical, Network, Spec
from models.ranges import check_choice, check_count, check_flag, check_number, check_sizes
from ppl_vae.pairs.pieces import ROLES, is_outside, options_of, subclasses

# What no option of a type takes, whatever its bounds are.
WRONG: dict[Any, list[Any]] = {
    int: [-1, 2.5, nan, inf, True, "2", None, []],
    float: [nan, inf, -inf, True, "1", None, []],
    bool: [0, 1, "false", None],
    Path: [5, None, ""],
    Sequence: [5, 2.5, "abc", None, [2.5], [nan], [True], [0], [-1], {}],
    Literal: ["nonsense", "", None, 1, []],
}


def options() -> Iterator[Any]:
    for base in ROLES.values():
        for cls in subclasses(base):
            if is_outside(f"{cls.__module__}."):
                continue
            for name, parameter in options_of(cls).items():
                if name in ROLES or parameter.annotation is str:
                    continue
                yield pytest.param(cls, name, parameter.annotation, id=f"{cls.__name__}.{name}")


def build(cls: Any, **chosen: Any) -> None:
    if issubclass(cls, Network):
        cls((1, 8, 8), (3,), **chosen)
        return
    available: dict[str, Any] = {}
    parameters = inspect.signature(cls).parameters
    if "spec" in parameters:
        spec = Spec((1, 8, 8), getattr(cls, "domain", "binary"), latent_dim=3, classes=10)
        available["spec"] = spec
    if "model" in parameters:
        two = issubclass(cls, Guide) and len(cls.latents) == 2
        available["model"] = (Hierarchical if two else VAE)(spec)
    required = [n for n, p in options_of(cls).items() if p.default is inspect.Parameter.empty]
    cls(**available, **{**dict.fromkeys(required, "images.npy"), **chosen})


@pytest.mark.parametrize(("cls", "name", "annotation"), list(options()))
def test_every_option_refuses_what_it_cannot_be(cls: Any, name: str, annotation: Any) -> None:
    build(cls)
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kind = kinds[0]
    values = WRONG[kind if kind in WRONG else get_origin(kind)]
    for value in values:
        if value is None and type(None) in kinds:
            continue
        with pytest.raises(ValueError, match=rf"expected .*\b{name}\b.*; got ") as refusal:
            build(cls, **{name: value})
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [5, "DiagonalNormal", None])
def test_a_guide_inside_another_is_a_class(value: Any) -> None:
    with pytest.raises(ValueError, match="expected guide, the class of another guide; got "):
        build(SemiAmortized, guide=value)


def test_bounds() -> None:
    for allowed in (2, 3, 10**9):
        check_count("steps", allowed, least=2)
    for value in (1, 0, -1):
        with pytest.raises(ValueError, match=f"^expected steps >= 2; got {value}$"):
            check_count("steps", value, least=2)
    check_number("weight", 1e-9, above=0)
    check_number("weight", 0, least=0, most=1)
    check_number("weight", 1, least=0, most=1)
    check_number("weight", -1e9)
    with pytest.raises(ValueError, match=r"^expected weight > 0; got 0\.0$"):
        check_number("weight", 0.0, above=0)
    with pytest.raises(ValueError, match=r"^expected weight >= 0 and <= 1; got 1\.5$"):
        check_number("weight", 1.5, least=0, most=1)
    with pytest.raises(ValueError, match=r"^expected weight > 0, a finite number; got inf$"):
        check_number("weight", inf, above=0)


def test_choices_flags_and_sizes() -> None:
    check_choice("kernel", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^expected kernel of a, b; got 'c'$"):
        check_choice("kernel", "c", ("a", "b"))
    check_flag("download", False)
    with pytest.raises(ValueError, match=r"^expected download of True, False; got 'false'$"):
        check_flag("download", "false")
    check_sizes("hidden", ())
    check_sizes("hidden", [1, 500], fewest=2)
    with pytest.raises(ValueError, match=r"^expected hidden of sizes >= 1; got \[500, 0\]$"):
        check_sizes("hidden", (500, 0))
    with pytest.raises(ValueError, match=r"^expected hidden of at least 1 size\(s\); got \[\]$"):
        check_sizes("hidden", [], fewest=1)
