"""Masses of `MixtureOfLogistics` in whole numbers, one channel after the other."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.ans import Masses, Stack
from ppl_vae.coding.latents import between
from ppl_vae.coding.pixels import EDGES, Images, Pixels, location_of
from ppl_vae.coding.tables import FINE, FRACTION, Floats, Ints, Table

__all__ = ["MixturePixels"]

_TOP = 255
_SHARES = 2.0**20  # of all components of a pixel together
_BEYOND = 1 << 50  # no location lies beyond


@dataclass(frozen=True, eq=False)
class MixturePixels(Pixels):
    """`MixtureOfLogistics`: the channels of a pixel follow one component, which none knows.

    The mass of v_c given v_<c is sum_k p(k | v_<c) P(v_c; loc_kc(v_<c), scale_kc). Here
    p(k | v_<c) is proportional to the weight of k times the masses that k gave to v_<c.

    Args:
        components: K.
        exponential: exp(x) for x up to 0.
        slope: tanh.
        inverse_scale: 1 / scale from its feature, in bytes.
        cdf: The logistic distribution function, as masses.
    """

    components: int
    exponential: Table
    slope: Table
    inverse_scale: Table
    cdf: Table
    levels: ClassVar[int] = 256

    def features(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, *sides = image_shape
        return (self.components * (1 + 2 * channels + channels * (channels - 1) // 2), *sides)

    def push(self, stack: Stack, features: Floats, images: Images) -> None:
        channels = _Channels(self, features, images.shape[1])
        values = [images[:, c].ravel() for c in range(images.shape[1])]
        masses = []
        for each in values:
            masses.append(channels.masses())
            channels.take(each)
        for each, given in zip(reversed(values), reversed(masses), strict=True):
            stack.push(each.astype(np.int32), given, self.levels)

    def pop(self, stack: Stack, features: Floats, shape: tuple[int, ...]) -> Images:
        channels, images = _Channels(self, features, shape[1]), np.empty(shape, np.uint8)
        for c in range(shape[1]):
            values = stack.pop(images[:, c].size, channels.masses(), self.levels)
            images[:, c] = values.reshape(images[:, c].shape)
            channels.take(values)
        return images


class _Channels:
    """The mixture of each pixel's next channel, given those before.

    Attributes:
        seen: The channels before, times 2 and from the middle of the range, each (N H W,).
        shares: p(k | v_<c), (N H W, K), in units of 2^-20.
    """

    def __init__(self, pixels: MixturePixels, features: Floats, channels: int) -> None:
        self.pixels = pixels
        count, _, height, width = features.shape
        by_component = features.reshape(count, pixels.components, -1, height * width)
        by_part = by_component.transpose(2, 0, 3, 1)
        parts = by_part.reshape(len(by_part), count * height * width, pixels.components)
        logits, location, log_scale, slopes = np.split(parts, [1, 1 + channels, 1 + 2 * channels])
        self.shares = _shares(pixels.exponential(logits[0] - logits[0].max(1, keepdims=True)))
        self.loc, self.inverse = location_of(location), pixels.inverse_scale(log_scale)
        self.slopes, self.seen = pixels.slope(slopes), list[Floats]()

    def masses(self) -> Masses:
        """Those of the next channel."""
        (loc, inverse), shares = self._next(), self.shares

        def masses(piece: slice) -> NDArray[np.float32]:
            each = self._between(EDGES, loc[piece], inverse[piece]).astype(np.float64)
            mixed = shares[piece, None] @ each  # of whole numbers below 2^43
            return np.floor(mixed[:, 0] / _SHARES).astype(np.float32)

        return masses

    def take(self, values: NDArray[np.integer]) -> None:
        """Goes on to the channel after the next one, whose values are given."""
        upper = (2 * values.astype(np.int64) + 1) << (FINE - 1)
        lower = upper - (1 << FINE)
        lower = np.where(values == 0, -_BEYOND, lower)
        upper = np.where(values == _TOP, _BEYOND, upper)
        ends = np.stack([lower, upper], 1).repeat(self.pixels.components, 0)
        each = self._between(ends, *self._next())[:, :, 1]
        likely = self.shares * each
        none = likely.sum(1, keepdims=True) == 0
        self.shares = np.where(none, self.shares, _shares(likely + none))
        self.seen.append(2 * values.astype(np.float64) - _TOP)

    def _next(self) -> tuple[Floats, Floats]:
        """Location, in units of 2^-14, and 1 / scale of each component, (N H W, K)."""
        channel = len(self.seen)
        first = channel * (channel - 1) // 2
        loc = self.loc[channel]
        for slope, seen in zip(self.slopes[first : first + channel], self.seen, strict=True):
            loc = loc + slope * seen[:, None] * 2.0 ** (FINE - FRACTION - 1)
        return loc, self.inverse[channel]

    def _between(self, edges: Ints, loc: Floats, inverse: Floats) -> NDArray[np.float32]:
        """The masses of each component, (n, K, number of edges + 1)."""
        each = between(self.pixels.cdf, edges, loc.ravel(), inverse.ravel())
        return each.reshape(*loc.shape, -1)


def _shares(weights: Floats) -> Floats:
    """Weights (N, K) as shares, in units of 2^-20."""
    return np.floor(weights * (_SHARES / weights.sum(1, keepdims=True)))
