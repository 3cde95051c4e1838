"""Standard normal latents, each dimension in as many bins as it needs."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.ans import Masses, Stack, Symbols
from ppl_vae.coding.latents import INVERSE, Bins, between, even_bins
from ppl_vae.coding.tables import Floats, Ints, Table

__all__ = ["MOST_BITS", "StandardLatents", "needed_bits"]

MOST_BITS = 10  # of a latent

_LOSS = 3e-4  # nats of a latent
_MOST_CURVATURE = 2.0**10
_EXACT = 2.0**20  # the unit of sums, whose order does not matter since they are whole numbers


@dataclass(frozen=True, eq=False)
class StandardLatents:
    """Independent e_d ~ N(0, 1), the d-th in 2^(b_d) bins of equal mass.

    Under N(0, 1) a bin costs b_d bits, whichever it is. Dimensions that have as many bins are on
    the stack together; those of one bin take no room on it, and e_d is 0.

    Args:
        bits: b_d, (D,).
        cdf: Phi, as masses.
    """

    bits: Ints
    cdf: Table

    @cached_property
    def _alike(self) -> list[tuple[NDArray[np.intp], Bins]]:
        """The dimensions with as many bins as each other, and the bins."""
        counts = [int(count) for count in np.unique(self.bits) if count]
        return [(np.flatnonzero(self.bits == b), even_bins(self.cdf, 1 << b)) for b in counts]

    def value_of(self, chosen: Symbols) -> Floats:
        """e (N, D) in bins (N, D), in units of 2^-12."""
        e = np.zeros(chosen.shape)
        for dims, bins in self._alike:
            e[:, dims] = bins.values[0, chosen[:, dims]]
        return e

    def pop_evenly(self, stack: Stack, count: int) -> Symbols:
        """Takes bins (count, D) off the stack under N(0, 1)."""
        chosen = np.zeros((count, len(self.bits)), np.int32)
        for dims, bins in self._alike:
            chosen[:, dims] = stack.pop_evenly(count * len(dims), bins.count).reshape(count, -1)
        return chosen

    def push_evenly(self, stack: Stack, chosen: Symbols) -> None:
        """Puts bins (N, D) onto the stack under N(0, 1)."""
        for dims, bins in reversed(self._alike):
            stack.push_evenly(chosen[:, dims].ravel(), bins.count)

    def pop(self, stack: Stack, loc: Floats, inverse: Floats) -> Symbols:
        """Takes bins (N, D) off the stack under N(loc, scale^2).

        Args:
            stack: The stack.
            loc: (N, D), in units of 2^-14.
            inverse: 1 / scale, (N, D), in units of 2^-20.
        """
        chosen = np.zeros(loc.shape, np.int32)
        for dims, bins in self._alike:
            masses = self._masses(loc[:, dims], inverse[:, dims], bins)
            popped = stack.pop(len(loc) * len(dims), masses, bins.count)
            chosen[:, dims] = popped.reshape(len(loc), -1)
        return chosen

    def push(self, stack: Stack, loc: Floats, inverse: Floats, chosen: Symbols) -> None:
        """Puts bins (N, D) onto the stack, as `pop` takes them."""
        for dims, bins in reversed(self._alike):
            masses = self._masses(loc[:, dims], inverse[:, dims], bins)
            stack.push(chosen[:, dims].ravel(), masses, bins.count)

    def _masses(self, loc: Floats, inverse: Floats, bins: Bins) -> Masses:
        loc, inverse = loc.ravel(), inverse.ravel()
        return lambda piece: between(self.cdf, bins.edges, loc[piece], inverse[piece])


def needed_bits(inverse: Floats) -> Ints:
    """The fewest bits of each latent that lose little, from draws of q.

    With sigma that of q in units of e, C = 1 / sigma^2 - 1 is the precision that the image adds to
    that of p. Where x given e is normal, 2^b bins lose about (C / 2^b)^(3/2) / 12 nats, most of it
    in the wide bins of the tails; b is the least for which this is below 3e-4 nats on average.

    Args:
        inverse: 1 / sigma, (N, D), in units of 2^-20.

    Returns:
        b of each dimension, (D,).
    """
    curvature = np.minimum(np.abs((inverse * 2.0**-INVERSE) ** 2 - 1), _MOST_CURVATURE)
    powers = np.floor(curvature * np.sqrt(curvature) * _EXACT).sum(0) / len(inverse)
    return np.searchsorted(12 * _LOSS * _EXACT * np.sqrt(8.0 ** np.arange(MOST_BITS)), powers)
