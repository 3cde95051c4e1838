"""The ranges of options, checked where a piece is constructed."""

from collections.abc import Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

__all__ = ["check_choice", "check_count", "check_flag", "check_number", "check_sizes"]


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises ValueError where an option is not a whole number, or below the least one allowed."""
    if not _is_count(value):
        raise ValueError(f"expected {name} >= {least}, a whole number; got {value!r}")
    if value < least:
        raise ValueError(f"expected {name} >= {least}; got {value}")


def check_number(
    name: str,
    value: Any,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raises ValueError where an option is not a finite number, or out of its range.

    Args:
        name: Of the option.
        value: Its value.
        above: It has to be larger.
        least: The least that is allowed.
        most: The most that is allowed.
        below: It has to be smaller.
    """
    bounds = ((" >", above), (" >=", least), (" <=", most), (" <", below))
    expected = " and".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)
    if not _is_number(value) or not -inf < value < inf:
        raise ValueError(f"expected {name}{expected}, a finite number; got {value!r}")
    too_small = (above is not None and value <= above) or (least is not None and value < least)
    too_large = (most is not None and value > most) or (below is not None and value >= below)
    if too_small or too_large:
        raise ValueError(f"expected {name}{expected}; got {value}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises ValueError where an option is none of the choices."""
    if value not in choices:
        raise ValueError(f"expected {name} of {', '.join(choices)}; got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raises ValueError where an option is not true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected {name} of True, False; got {value!r}")


def check_sizes(name: str, sizes: Any, fewest: int = 0) -> None:
    """Raises ValueError where an option is not a list of whole numbers, each at least 1.

    Args:
        name: Of the option.
        sizes: Its value.
        fewest: How many there have to be.
    """
    if not isinstance(sizes, (list, tuple)) or not all(map(_is_count, sizes)):
        raise ValueError(f"expected {name} as a list of whole numbers >= 1; got {sizes!r}")
    if any(size < 1 for size in sizes):
        raise ValueError(f"expected {name} of sizes >= 1; got {[*sizes]}")
    if len(sizes) < fewest:
        raise ValueError(f"expected {name} of at least {fewest} size(s); got {[*sizes]}")


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
