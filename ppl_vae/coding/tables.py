"""Functions of one number as tables of integers, the same on every machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "FINE",
    "FRACTION",
    "MASS",
    "Floats",
    "Function",
    "Ints",
    "Table",
    "activation_table",
    "exp",
    "normal_cdf",
    "sigmoid",
    "softplus",
    "tabulate",
]

FRACTION = 12  # bits after the point of activations, features and latents
MASS = 23  # bits after the point of probabilities: float32 adds them without rounding

FINE = 14  # bits after the point of the numbers at which a distribution function is read
_STEP = 9  # bits after the point of the numbers at which a function is tabulated
_RANGE = 16  # tables go from -16 to 16
_FINER = 1 << (FINE - _STEP)
_DIGITS = 30

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Function = Callable[[Decimal], Decimal]


@dataclass(frozen=True, eq=False)
class Table:
    """f(x) at the nearest number where it is known; x and f(x) are whole numbers.

    Args:
        seconds: The second differences of f from -16 to 16 in steps of 2^-9, as from 0 and 0 on: an
            archive has small numbers in place of large ones.
        fraction: Bits after the point of f(x).
        rising: Whether f goes on above 16 with slope one, rather than staying as it is.
    """

    seconds: Ints
    fraction: int
    rising: bool = False

    def __post_init__(self) -> None:
        if self.seconds.shape != (2 * (_RANGE << _STEP) + 1,):
            raise ValueError("expected a table from -16 to 16 in steps of 2^-9")

    @cached_property
    def values(self) -> Ints:
        """f from -16 to 16 in steps of 2^-9."""
        return self.seconds.cumsum().cumsum()

    def __call__(self, x: Floats) -> Floats:
        """f of x, in units of 2^-12."""
        place = np.floor(x * 2.0 ** (_STEP - FRACTION) + 0.5) + (_RANGE << _STEP)
        value = self.values[np.clip(place, 0, len(self.seconds) - 1).astype(np.int64)]
        above = np.maximum(x - (_RANGE << FRACTION), 0) if self.rising else 0
        return value + above * 2.0 ** (self.fraction - FRACTION)

    @cached_property
    def finely(self) -> NDArray[np.int32]:
        """f from -16 to 16 in steps of 2^-14, on straight lines between the known numbers."""
        between = np.arange(_FINER)[None]
        first, rise = self.values[:-1, None], np.diff(self.values)[:, None]
        lines = (first + (rise * between + _FINER // 2) // _FINER).ravel()
        return np.append(lines, self.values[-1]).astype(np.int32)

    def bound(self, inputs: int) -> int:
        """The largest size of f(x), in the units of x, for x up to a size."""
        most = int(np.abs(self.values).max())
        return max(most, inputs + most) if self.rising else most


def tabulate(function: Function, fraction: int, rising: bool = False) -> Table:
    """A function in units of 2^-fraction, rounded.

    It is computed in decimal arithmetic, whose standard fixes the last digit of every result, exp
    and ln among them (Cowlishaw, General Decimal Arithmetic). Floating-point libraries differ.
    """
    with localcontext(prec=_DIGITS):
        ends = _RANGE << _STEP
        points = (Decimal(k) / (1 << _STEP) for k in range(-ends, ends + 1))
        values = [int((function(x) * (1 << fraction)).to_integral_value()) for x in points]
    seconds = np.diff(np.array([0, 0, *values]), 2).astype(np.int64)
    return Table(seconds, fraction, rising)


def exp(values: Sequence[float]) -> Floats:
    """exp of each value, the same on every machine."""
    with localcontext(prec=_DIGITS):
        return np.array([float(Decimal(value).exp()) for value in values])


def sigmoid(x: Decimal) -> Decimal:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + (-x).exp())


def softplus(x: Decimal) -> Decimal:
    """log(1 + exp(x))."""
    return max(x, Decimal(0)) + (1 + (-abs(x)).exp()).ln()


def _normal(x: Decimal) -> Decimal:
    """Phi(x) = 1/2 + phi(x) (x + x^3 / 3 + x^5 / (3 5) + ...); below 1e-15 it is taken for 0."""
    if abs(x) > 8:
        return Decimal(int(x > 0))
    term = total = x
    odd = 1
    while abs(term) > Decimal("1e-20"):
        odd += 2
        term = term * x * x / odd
        total += term
    return Decimal("0.5") + total * (-x * x / 2).exp() / _ROOT


_ROOT = Decimal("2.50662827463100050241576528481")  # of 2 pi

ACTIVATIONS: dict[str, tuple[Function, bool]] = {
    "Tanh": (lambda x: 2 * sigmoid(2 * x) - 1, False),
    "ELU": (lambda x: x if x > 0 else x.exp() - 1, True),
    "GELU": (lambda x: x * _normal(x), True),
    "SiLU": (lambda x: x * sigmoid(x), True),
    "Softplus": (softplus, True),
}


@cache
def activation_table(name: str) -> Table:
    """One of `ACTIVATIONS`."""
    function, rising = ACTIVATIONS[name]
    return tabulate(function, FRACTION, rising)


@cache
def normal_cdf() -> Table:
    """Phi as masses, in units of 2^-23."""
    return tabulate(_normal, MASS)
