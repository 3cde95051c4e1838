"""Priors of the highest latent over its bins, and the bins."""

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
    standard_bins,
)
from ppl_vae.coding.networks import affine
from ppl_vae.coding.tables import (
    FINE,
    FRACTION,
    Floats,
    Table,
    activation_table,
    exp,
    normal_cdf,
    sigmoid,
    tabulate,
)
from ppl_vae.errors import InputError

__all__ = ["Autoregressive", "Even", "prior_of"]

_LARGEST = 3  # |s| of `Flow`


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


@dataclass(frozen=True, eq=False)
class Autoregressive:
    """`Flow` of one map: exp(s_d) z_d + t_d ~ N(0, 1), s_d and t_d computed from z_1, ..., z_(d-1).

    Args:
        layers: From z to (t, s), (N, 2 D).
        inverse_scale: exp of the bounded s, from s.
        cdf: Phi, as masses.
    """

    layers: tuple[Layer, ...]
    inverse_scale: Table
    cdf: Table

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

    def draws(self, bins: Bins, size: int) -> Floats:
        """Draws of z (N, D), always the same."""
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


def prior_of(prior: Prior) -> tuple[Even | Autoregressive, Bins]:
    """A prior in whole numbers, and the bins of its latents.

    Raises:
        InputError: If its latents have no one-dimensional distribution functions in turn.
    """
    if type(prior) is StandardNormal:
        return Even(), standard_bins()
    if type(prior) is MixtureOfNormals and len(prior.logits) == 1:
        (loc,), (log_scale,) = (np.array(each.tolist()) for each in (prior.loc, prior.log_scale))
        scale, unit = exp(log_scale), 2.0**FRACTION
        return Even(), bins_at(np.floor(unit * loc + 0.5), np.floor(unit * scale + 1))
    if type(prior) is Flow and len(prior.networks) == 1:
        flow = Autoregressive(_masked(prior.networks[0]), _stretch(), normal_cdf())
        z = flow.draws(standard_bins(), prior.spec.latent_dim)
        return flow, bins_around(z, np.zeros_like(z))
    raise InputError(
        "expected the prior StandardNormal, Flow of one map (--prior.flows 1) or MixtureOfNormals "
        "of one component, whose latents have one-dimensional distribution functions in turn; got "
        f"{type(prior).__name__}; train with --prior StandardNormal"
    )


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
