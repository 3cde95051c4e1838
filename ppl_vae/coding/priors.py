"""Priors of the highest latent over its bins, and the bins."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

from models import Flow, MixtureOfNormals, Prior, StandardNormal
from ppl_vae.coding.ans import Masses, Stack, Symbols
from ppl_vae.coding.fixed_point import Layer, Lookup, compute
from ppl_vae.coding.latents import (
    INVERSE,
    Bins,
    between,
    bins_around,
    bins_at,
    fixed_bins,
    inverse_scale,
    standard_bins,
    standardised,
)
from ppl_vae.coding.networks import affine, whole
from ppl_vae.coding.tables import (
    FINE,
    FRACTION,
    Floats,
    Ints,
    Table,
    activation_table,
    exp,
    normal_cdf,
    sigmoid,
    tabulate,
)
from ppl_vae.errors import InputError

__all__ = ["Autoregressive", "Even", "Mixture", "Sequential", "prior_of"]

_LARGEST = 3  # |s| of `Flow`
_SHARES = 2.0**20  # of all components of a mixture together


@dataclass(frozen=True, eq=False)
class Even:
    """Every bin is as likely as any other: independent latents in bins of equal mass."""

    def push(self, stack: Stack, bins: Bins, chosen: Symbols) -> None:
        """Puts bins (N, D) onto the stack."""
        stack.push_evenly(chosen.ravel(), bins.count)

    def pop(self, stack: Stack, bins: Bins, count: int, size: int) -> Symbols:
        """Takes bins (count, size) off the stack."""
        return stack.pop_evenly(count * size, bins.count).reshape(count, size)

    def draws(self, bins: Bins, size: int) -> Floats:
        """Draws of z (N, D), always the same."""
        return bins.value_of(fixed_bins(size))


class Sequential(ABC):
    """A prior by the distribution of each dimension given those before it."""

    def push(self, stack: Stack, bins: Bins, chosen: Symbols) -> None:
        """Puts bins (N, D) onto the stack, the last dimension first."""
        z = bins.value_of(chosen)
        for d in reversed(range(chosen.shape[1])):
            stack.push(chosen[:, d].copy(), self._masses(bins, z, d), bins.count)

    def pop(self, stack: Stack, bins: Bins, count: int, size: int) -> Symbols:
        """Takes bins (count, size) off the stack, one dimension after the other."""
        chosen = np.zeros((count, size), np.int32)
        for d in range(size):
            masses = self._masses(bins, bins.value_of(chosen), d)
            chosen[:, d] = stack.pop(count, masses, bins.count)
        return chosen

    @abstractmethod
    def draws(self, bins: Bins, size: int) -> Floats:
        """Draws of z (N, D), always the same, whatever the bins are."""

    @abstractmethod
    def _masses(self, bins: Bins, z: Floats, d: int) -> Masses:
        """The masses of the bins of z_d given z_1, ..., z_(d-1)."""


@dataclass(frozen=True, eq=False)
class Autoregressive(Sequential):
    """`Flow` of one map: exp(s_d) z_d + t_d ~ N(0, 1), s_d and t_d computed from z_1, ..., z_(d-1).

    Args:
        layers: From z to (t, s), (N, 2 D).
        inverse_scale: exp of the bounded s, from s.
        cdf: Phi, as masses.
    """

    layers: tuple[Layer, ...]
    inverse_scale: Table
    cdf: Table

    def draws(self, bins: Bins, size: int) -> Floats:
        standard = standard_bins().value_of(fixed_bins(size))
        z = np.zeros_like(standard)
        for d in range(z.shape[1]):
            loc, inverse = self._given(z, d)
            z[:, d] = loc + np.floor(standard[:, d] * 2.0**INVERSE / inverse + 0.5)
        return z

    def _given(self, z: Floats, d: int) -> tuple[Floats, Floats]:
        """Location and 1 / scale of z_d, (N,)."""
        shift, log_scale = np.split(compute(self.layers, z), 2, axis=1)
        inverse = self.inverse_scale(log_scale[:, d])
        return np.floor(-shift[:, d] * 2.0**INVERSE / inverse + 0.5), inverse

    def _masses(self, bins: Bins, z: Floats, d: int) -> Masses:
        loc, inverse = self._given(z, d)
        edges = bins.edges[d % len(bins.edges), None]
        fine = loc * 2.0 ** (FINE - FRACTION)
        return lambda piece: between(self.cdf, edges, fine[piece], inverse[piece])


@dataclass(frozen=True, eq=False)
class Mixture(Sequential):
    """`MixtureOfNormals`: z_d is from a mixture whose weights are p(k | z_1, ..., z_(d-1)).

    Args:
        log_weight: Up to a constant, (K,), in units of 2^-12.
        loc: (K, D), in units of 2^-12.
        log_scale: (K, D), in units of 2^-12.
        inverse_scale: 1 / sigma from log sigma^2.
        exponential: exp(x) for x up to 0.
        cdf: Phi, as masses.
    """

    log_weight: Ints
    loc: Ints
    log_scale: Ints
    inverse_scale: Table
    exponential: Table
    cdf: Table

    def draws(self, bins: Bins, size: int) -> Floats:
        standard = standard_bins().value_of(fixed_bins(size))
        until = np.cumsum(self._shares(self.log_weight[None].astype(np.float64))[0])
        places = np.arange(len(standard)) * (_SHARES // len(standard))
        k = np.minimum(np.searchsorted(until, places, side="right"), len(until) - 1)
        inverse = self.inverse_scale(2 * self.log_scale[k].astype(np.float64))
        return np.floor(standard * 2.0**INVERSE / inverse + 0.5) + self.loc[k]

    def _shares(self, logs: Floats) -> Floats:
        """The shares (N, K) of the components, from the logs of their weights."""
        shares = self.exponential(logs - logs.max(1, keepdims=True))
        return np.floor(shares * _SHARES / shares.sum(1, keepdims=True))

    def _masses(self, bins: Bins, z: Floats, d: int) -> Masses:
        inverse = self.inverse_scale(2 * self.log_scale.astype(np.float64))
        e = standardised(z[:, None, :d] - self.loc[:, :d], inverse[:, :d])
        squares = np.floor(e**2 * 2.0 ** -(FRACTION + 1) + 0.5)
        shares = self._shares(self.log_weight - (squares + self.log_scale[:, :d]).sum(2))
        edges = bins.edges[d % len(bins.edges), None]
        fine = (self.loc[:, d] << (FINE - FRACTION)).astype(np.float64)
        each = between(self.cdf, edges, fine, inverse[:, d]).astype(np.float64)
        return lambda piece: np.floor(shares[piece] @ each / _SHARES).astype(np.float32)


def prior_of(prior: Prior) -> tuple[Even | Sequential, Bins]:
    """A prior in whole numbers, and the bins of its latents.

    Raises:
        InputError: If its latents have no one-dimensional distribution functions in turn.
    """
    if type(prior) is StandardNormal:
        return Even(), standard_bins()
    sequential: Sequential
    if type(prior) is MixtureOfNormals:
        if len(prior.logits) == 1:
            (loc,), (log_scale,) = (np.array(x.tolist()) for x in (prior.loc, prior.log_scale))
            scale, unit = exp(log_scale), 2.0**FRACTION
            return Even(), bins_at(np.floor(unit * loc + 0.5), np.floor(unit * scale + 1))
        sequential = _mixture(prior)
    elif type(prior) is Flow and len(prior.networks) == 1:
        sequential = Autoregressive(_masked(prior.networks[0]), _stretch(), normal_cdf())
    else:
        raise InputError(
            "expected the prior StandardNormal, Flow of one map (--prior.flows 1) or "
            "MixtureOfNormals, whose latents have one-dimensional distribution functions in turn; "
            f"got {type(prior).__name__}; train with --prior StandardNormal"
        )
    z = sequential.draws(standard_bins(), prior.spec.latent_dim)
    return sequential, bins_around(z, np.zeros_like(z))


def _mixture(prior: MixtureOfNormals) -> Mixture:
    logs = prior.logits - prior.logits.max()
    log_weight, loc, log_scale = (
        whole(each, FRACTION) for each in (logs, prior.loc, prior.log_scale)
    )
    exponential = tabulate(lambda x: min(x, Decimal(0)).exp(), INVERSE)
    return Mixture(log_weight, loc, log_scale, inverse_scale(), exponential, normal_cdf())


def _masked(network: Any) -> tuple[Layer, ...]:
    """Pyro's `AutoRegressiveNN` with its masks, as `masked_networks` makes it."""
    layers: list[Layer] = []
    for layer in network.layers:
        layers += [affine(layer.weight * layer.mask, layer.bias), Lookup(activation_table("ELU"))]
    return tuple(layers[:-1])


@cache
def _stretch() -> Table:
    """exp(3 tanh(s / 3))."""

    def stretch(x: Decimal) -> Decimal:
        return (_LARGEST * (2 * sigmoid(2 * x / _LARGEST) - 1)).exp()

    return tabulate(stretch, INVERSE)
