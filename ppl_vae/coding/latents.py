"""Latents in bins, and normals over the bins."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from hashlib import shake_128

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.ans import Masses, Stack, Symbols
from ppl_vae.coding.tables import FINE, FRACTION, MASS, Floats, Ints, Table, normal_cdf, tabulate

__all__ = [
    "BINS", "INVERSE", "Bins", "FullRank", "Normal", "Posterior", "between", "bins_around",
    "bins_at", "even_bins", "fixed_bins", "inverse_scale", "standard_bins", "standardised",
]  # fmt: skip

BINS = 2**10  # of each dimension

INVERSE = 20  # bits after the point of 1 / scale

_DRAWS = 2**12  # of latents, for the bins of others
_STEEPEST = 2.0 ** (INVERSE + 10)  # 1 / scale of 1,024
_FARTHEST = 2.0**17  # a standardised latent, in units of 2^-12


@dataclass(frozen=True, eq=False)
class Bins:
    """The real line in pieces, for each dimension of a latent.

    Args:
        edges: Between the bins, (D, bins - 1) or (1, bins - 1), in units of 2^-14.
        values: Those that stand for the bins, (D, bins) or (1, bins), in units of 2^-12.
    """

    edges: Ints
    values: Ints

    @property
    def count(self) -> int:
        """How many there are."""
        return self.values.shape[-1]

    def value_of(self, bins: Symbols) -> Floats:
        """The latents (N, D) in bins (N, D)."""
        rows = np.arange(bins.shape[1]) % len(self.values)
        return self.values[rows, bins].astype(np.float64)


@cache
def inverse_scale() -> Table:
    """1 / sigma from log sigma^2."""
    return tabulate(lambda x: (-x / 2).exp(), INVERSE)


@cache
def standard_bins() -> Bins:
    """The bins of N(0, 1)."""
    return even_bins(normal_cdf(), BINS)


def even_bins(cdf: Table, count: int) -> Bins:
    """So many bins of equal mass under N(0, 1), each with its median as its value."""
    halves = np.arange(1, 2 * count, dtype=np.int64) * (2**MASS // (2 * count))
    places = np.searchsorted(cdf.finely, halves) - len(cdf.finely) // 2
    return Bins(places[None, 1::2], np.floor(places[None, ::2] / 2 ** (FINE - FRACTION) + 0.5))


def bins_at(loc: Floats, scale: Floats) -> Bins:
    """The standard normal's bins, moved: loc and scale (D,) in units of 2^-12."""
    standard, unit = standard_bins(), 2.0 ** (FINE - FRACTION)
    moved = np.floor(scale[:, None] * standard.edges * 2.0**-FRACTION)
    values = np.floor(scale[:, None] * standard.values * 2.0**-FRACTION + 0.5)
    edges = unit * loc[:, None] + moved
    return Bins(edges.astype(np.int64), (loc[:, None] + values).astype(np.int64))


def bins_around(loc: Floats, scale: Floats) -> Bins:
    """Bins for a mixture of N equal normals, (N, D), by its mean and variance."""
    mean = np.floor(loc.sum(0) / len(loc) + 0.5)
    squares = np.clip((loc - mean) ** 2 + scale**2, 0, 2.0**40).sum(0)  # below 2^53: exact
    return bins_at(mean, np.floor(np.sqrt(np.floor(squares / len(loc)))) + 1)


def fixed_bins(size: int) -> Symbols:
    """Draws of bins (N, size) that are equally likely, always the same."""
    drawn = np.frombuffer(shake_128(b"bins").digest(2 * _DRAWS * size), "<u2") % BINS
    return drawn.reshape(_DRAWS, size).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Posterior(ABC):
    """A normal over bins, from the features of a network.

    Args:
        inverse_scale: 1 / sigma from log sigma^2.
        cdf: Phi, as masses.
    """

    inverse_scale: Table
    cdf: Table

    @abstractmethod
    def pop(self, stack: Stack, features: Floats, bins: Bins) -> Symbols:
        """Takes bins (N, D) off the stack."""

    @abstractmethod
    def push(self, stack: Stack, features: Floats, bins: Bins, chosen: Symbols) -> None:
        """Puts bins (N, D) onto the stack."""


class Normal(Posterior):
    """Independent normals with features (mu, log sigma^2), (N, 2 D)."""

    def pop(self, stack: Stack, features: Floats, bins: Bins) -> Symbols:
        masses, rows = self._masses(features, bins)
        return stack.pop(rows, masses, bins.count).reshape(len(features), -1)

    def push(self, stack: Stack, features: Floats, bins: Bins, chosen: Symbols) -> None:
        stack.push(chosen.ravel(), self._masses(features, bins)[0], bins.count)

    def _masses(self, features: Floats, bins: Bins) -> tuple[Masses, int]:
        loc, log_variance = np.split(features, 2, axis=1)
        inverse = self.inverse_scale(log_variance)
        dimension = np.arange(loc.size) % loc.shape[1] % len(bins.edges)
        loc, inverse = loc.ravel(), inverse.ravel()

        def masses(piece: slice) -> NDArray[np.float32]:
            edges = bins.edges[dimension[piece]] if len(bins.edges) > 1 else bins.edges
            return between(self.cdf, edges, 2.0 ** (FINE - FRACTION) * loc[piece], inverse[piece])

        return masses, loc.size


class FullRank(Posterior):
    """A normal with features (mu, log of the diagonal's square, rest of the triangle L).

    Given z_1, ..., z_(d-1), z_d is N(mu_d + sum_(j<d) L_dj e_j, L_dd^2), where
    e_j = (z_j - its mean) / L_jj. Dimensions are popped one after the other, and pushed from the
    last one on.
    """

    def pop(self, stack: Stack, features: Floats, bins: Bins) -> Symbols:
        state = _Triangle(features)
        chosen = np.zeros((len(features), state.size), np.int32)
        for d in range(state.size):
            loc, log_variance = state.given(d)
            masses = self._masses(loc, log_variance, bins.edges[d % len(bins.edges)])
            chosen[:, d] = stack.pop(len(features), masses, bins.count)
            state.take(d, bins.value_of(chosen)[:, d], self.inverse_scale(log_variance))
        return chosen

    def push(self, stack: Stack, features: Floats, bins: Bins, chosen: Symbols) -> None:
        state, values, conditionals = _Triangle(features), bins.value_of(chosen), []
        for d in range(state.size):
            loc, log_variance = state.given(d)
            conditionals.append(self._masses(loc, log_variance, bins.edges[d % len(bins.edges)]))
            state.take(d, values[:, d], self.inverse_scale(log_variance))
        for d in reversed(range(state.size)):
            stack.push(chosen[:, d].copy(), conditionals[d], bins.count)

    def _masses(self, loc: Floats, log_variance: Floats, edges: Ints) -> Masses:
        inverse = self.inverse_scale(log_variance)
        fine = loc * 2.0 ** (FINE - FRACTION)
        return lambda piece: between(self.cdf, edges[None], fine[piece], inverse[piece])


class _Triangle:
    """The conditionals of a full-rank normal, given the latents before."""

    def __init__(self, features: Floats) -> None:
        count = features.shape[1]
        self.size = next(d for d in range(count) if d * (d + 3) // 2 == count)
        self.loc, self.log_variance, below = np.split(features, [self.size, 2 * self.size], axis=1)
        self.triangle = np.zeros((len(features), self.size, self.size))
        row, column = np.tril_indices(self.size, -1)
        self.triangle[:, row, column] = below
        self.standard = np.zeros((len(features), self.size))

    def given(self, d: int) -> tuple[Floats, Floats]:
        """The mean and log variance of z_d, (N,)."""
        shift = (self.triangle[:, d] * self.standard).sum(1)
        return self.loc[:, d] + np.floor(shift * 2.0**-FRACTION + 0.5), self.log_variance[:, d]

    def take(self, d: int, value: Floats, inverse: Floats) -> None:
        """Remembers e_d of z_d."""
        self.standard[:, d] = standardised(value - self.given(d)[0], inverse)


def standardised(distance: Floats, inverse: Floats) -> Floats:
    """(z - loc) / scale in units of 2^-12, from z - loc and 1 / scale; at most 32."""
    e = np.floor(distance * np.minimum(inverse, _STEEPEST) * 2.0**-INVERSE + 0.5)
    return np.clip(e, -_FARTHEST, _FARTHEST)


def between(cdf: Table, edges: Ints, loc: Floats, inverse: Floats) -> NDArray[np.float32]:
    """The masses between edges (N, K - 1) or (1, K - 1), (N, K), of F((e - loc) / scale).

    Args:
        cdf: F, as masses.
        edges: In units of 2^-14.
        loc: (N,), in units of 2^-14.
        inverse: 1 / scale, (N,), in units of 2^-20.
    """
    fine = cdf.finely
    middle = len(fine) // 2
    steep = np.minimum(inverse, _STEEPEST) * 2.0**-INVERSE
    places = edges - loc[:, None]
    places *= steep[:, None]
    np.clip(places, -middle, middle, out=places)
    cumulative = np.empty((len(loc), places.shape[1] + 2), np.float32)
    cumulative[:, 0], cumulative[:, -1] = 0, 2**MASS
    cumulative[:, 1:-1] = fine[np.floor(places).astype(np.int32) + middle]
    return np.diff(cumulative, axis=1)
