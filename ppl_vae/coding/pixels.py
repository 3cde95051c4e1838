"""Masses of pixels in whole numbers, from the features of a decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.ans import Masses, Stack
from ppl_vae.coding.latents import between
from ppl_vae.coding.tables import FINE, FRACTION, MASS, Floats, Table

__all__ = [
    "COUNTS",
    "EDGES",
    "BetaBinomialPixels",
    "BinaryPixels",
    "Images",
    "LogisticPixels",
    "Pixels",
    "location_of",
]

Images = NDArray[np.uint8]

_TOP = 255
COUNTS = 20  # bits after the point of the parameters of a beta-binomial
EDGES = (np.arange(2 * _TOP, step=2)[None] + 1) << (FINE - 1)  # between bytes

_MOST = 2.0 ** (COUNTS + 10)  # 1,024: 255 ratios of masses then multiply without overflow


class Pixels(ABC):
    """A likelihood of images, from features (N, F, H, W).

    Attributes:
        levels: How many values a pixel has.
    """

    levels: ClassVar[int]

    @property
    def scale(self) -> float:
        """What inputs of networks are in units of: bytes come as x / 256, not x / 255."""
        return 1.0 if self.levels == 2 else 256 / 255

    @abstractmethod
    def features(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (F, H, W) of the features of one image."""

    @abstractmethod
    def push(self, stack: Stack, features: Floats, images: Images) -> None:
        """Puts images (N, C, H, W) onto the stack."""

    @abstractmethod
    def pop(self, stack: Stack, features: Floats, shape: tuple[int, ...]) -> Images:
        """Takes images of a shape (N, C, H, W) off the stack."""


class IndependentPixels(Pixels):
    """A likelihood under which the pixels, and their channels, are independent given z."""

    def features(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """One for a binary pixel, else two."""
        channels, *sides = image_shape
        return (channels if self.levels == 2 else 2 * channels, *sides)

    def push(self, stack: Stack, features: Floats, images: Images) -> None:
        stack.push(images.astype(np.int32).ravel(), self.masses(features), self._width)

    def pop(self, stack: Stack, features: Floats, shape: tuple[int, ...]) -> Images:
        popped = stack.pop(prod(shape), self.masses(features), self._width)
        return popped.reshape(shape).astype(np.uint8)

    @property
    def _width(self) -> int:
        """How many masses a pixel has; those of a binary one are given by one."""
        return 1 if self.levels == 2 else self.levels

    @abstractmethod
    def masses(self, features: Floats) -> Masses:
        """The masses of a slice of the N C H W pixels, image by image."""


@dataclass(frozen=True, eq=False)
class BinaryPixels(IndependentPixels):
    """`Bernoulli`: the mass of 1 is sigmoid(feature).

    Args:
        sigmoid: As masses.
    """

    sigmoid: Table
    levels: ClassVar[int] = 2

    def masses(self, features: Floats) -> Masses:
        ones = self.sigmoid(features).ravel().astype(np.float32)
        return lambda piece: ones[piece]


@dataclass(frozen=True, eq=False)
class BetaBinomialPixels(IndependentPixels):
    """`BetaBinomial`: masses by their ratios, p(x + 1) / p(x) from x = 0 on.

    p(x + 1) / p(x) = (255 - x) (a + x) / ((x + 1) (b + 254 - x)). Where a or b is above 1,024 both
    are made smaller by one factor.

    Args:
        concentration: a from its feature, and b from its, in units of 2^-20.
    """

    concentration: Table
    levels: ClassVar[int] = 256

    def masses(self, features: Floats) -> Masses:
        a, b = (self.concentration(half).ravel() for half in np.split(features, 2, axis=1))
        largest = np.maximum(a, b)
        shrink = _MOST / np.maximum(largest, _MOST)
        a, b = (np.maximum(np.floor(each * shrink), 1) for each in (a, b))
        return lambda piece: _beta_binomial(a[piece], b[piece])


@dataclass(frozen=True, eq=False)
class LogisticPixels(IndependentPixels):
    """`DiscretizedLogistic`: differences of a logistic distribution function.

    Args:
        inverse_scale: 1 / scale from its feature, in bytes.
        cdf: The logistic distribution function, as masses.
    """

    inverse_scale: Table
    cdf: Table
    levels: ClassVar[int] = 256

    def masses(self, features: Floats) -> Masses:
        location, log_scale = (half.ravel() for half in np.split(features, 2, axis=1))
        loc, inverse = location_of(location), self.inverse_scale(log_scale)
        return lambda piece: between(self.cdf, EDGES, loc[piece], inverse[piece])


def location_of(feature: Floats) -> Floats:
    """The location of a logistic distribution of bytes, in units of 2^-14."""
    return _TOP * 2.0 ** (FINE - FRACTION - 1) * (2**FRACTION + feature)


def _beta_binomial(a: Floats, b: Floats) -> NDArray[np.float32]:
    """The masses (N, 256); each operation is rounded by itself, in turn, as IEEE 754 has it."""
    x = np.arange(_TOP, dtype=np.float64)
    unit = 2.0**COUNTS
    weights = np.ones((len(a), _TOP + 1))
    ratios = weights[:, 1:]
    np.add(a[:, None], unit * x, out=ratios)
    ratios *= (_TOP - x) / (x + 1)
    ratios /= b[:, None] + unit * (_TOP - 1 - x)
    np.multiply.accumulate(weights, axis=1, out=weights)
    total = np.add.accumulate(weights, axis=1)[:, -1:]
    weights *= 2.0**MASS / total
    return np.floor(weights, out=weights).astype(np.float32)
