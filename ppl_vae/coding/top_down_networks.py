"""The networks of `TopDown` and `Bidirectional` in whole numbers: states, p and q of each group."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod

import numpy as np

from guides import Bidirectional
from models import TopDown
from models.normals import BOUND
from ppl_vae.coding.fixed_point import LARGEST, Layer, compute, prove
from ppl_vae.coding.latents import INVERSE, inverse_scale
from ppl_vae.coding.networks import layers_of
from ppl_vae.coding.tables import FINE, FRACTION, Floats, Table, sigmoid, tabulate
from ppl_vae.errors import InputError

__all__ = ["TopDownNetworks", "networks_of"]

_MOST_FEATURES = 2**24  # of a state
_WIDEST = 2**36  # where activations are cut off at the latest, further out than any is


@dataclass(frozen=True, eq=False)
class TopDownNetworks:
    """p(z_l | z_<l) and q(z_l | z_<l, x) of each group, from its state.

    Both are normals. In units of e = (z_l - mu_p) / sigma_p, p is N(0, 1), and where q is relative
    it is N(delta / sigma_p, exp(epsilon)^2).

    Args:
        sizes: (h, w) of the map of each group, from the top down.
        width: How many channels of a state are features that reach the next one as they are; the
            others are mu_p and log sigma_p before it is bounded.
        up: From the image to what groups see of it, from the largest size to the smallest.
        encoder: From there to mu and log sigma^2 of q(z1|x).
        joining: Of each group but the first, from its state and what it sees of x to q.
        relative: Whether that is relative to p, as in `guides.Bidirectional`.
        down: Of each group but the last, to the next state less what reaches it as it is.
        decoder: From the last group to the features of p(x|z).
        inverse_scale: 1 / sigma from log sigma^2.
        wide: sigma from log sigma before it is bounded, in units of 2^-20.
        narrow: 1 / sigma from the same.
        largest: Where activations are cut off, in units of 2^-12.
    """

    sizes: tuple[tuple[int, int], ...]
    width: int
    up: tuple[tuple[Layer, ...], ...]
    encoder: tuple[Layer, ...]
    joining: tuple[tuple[Layer, ...], ...]
    relative: bool
    down: tuple[tuple[Layer, ...], ...]
    decoder: tuple[Layer, ...]
    inverse_scale: Table
    wide: Table
    narrow: Table
    largest: int = field(default=LARGEST, kw_only=True)

    def __post_init__(self) -> None:
        if type(self.largest) is not int or not LARGEST <= self.largest <= _WIDEST:
            raise ValueError("activations that are cut off nowhere")
        for layers in (*self.up, self.encoder, *self.joining, *self.down, self.decoder):
            prove(layers, self.largest, self.largest)

    def widened(self) -> "TopDownNetworks":
        """The same, its activations cut off at the largest power of 2 that the proof allows."""
        largest = _WIDEST
        while largest > self.largest:
            with suppress(InputError):
                return replace(self, largest=largest)
            largest //= 2
        return self

    def check(self) -> None:
        """Looks at what was read before it is used.

        Raises:
            ValueError: If there are other parts than the sizes need, or states would be large.
        """
        groups, most = len(self.sizes), max(prod(size) for size in self.sizes)
        if not len(self.down) == len(self.joining) == groups - 1:
            raise ValueError("networks of another number of groups")
        if min(map(min, self.sizes)) < 1 or not 0 < self.width * most <= _MOST_FEATURES:
            raise ValueError("states that are larger than any, or nothing")

    def ascend(self, x: Floats) -> list[Floats]:
        """What each group sees of images: the features of q(z1|x), and maps for the others."""
        seen = {}
        for size, layers in zip(sorted({*self.sizes[1:]}, reverse=True), self.up, strict=True):
            x = self._compute(layers, x)
            seen[size] = x.reshape(len(x), -1, *size)
        return [self._compute(self.encoder, x), *(seen[size] for size in self.sizes[1:])]

    def latents(self, state: Floats | None, e: Floats) -> Floats:
        """z_l = mu_p + sigma_p e, (N, C h w); the first group has no state, and z1 = e."""
        if state is None:
            return e
        loc, log_scale = self._halves(state[:, self.width :])
        moved = np.floor(self.wide(log_scale) * e * 2.0**-INVERSE + 0.5)
        return np.clip(loc + moved, -self.largest, self.largest)

    def descend(self, group: int, z: Floats, state: Floats | None) -> Floats:
        """The state of a group, (N, C, h, w), from the group before it.

        Args:
            group: l - 1; after the last group its features of p(x|z).
            z: The latents of the group before, (N, C h w).
            state: The state of the group before.
        """
        above = z.reshape(len(z), -1, *self.sizes[group - 1])
        if state is not None:
            above = np.concatenate([state[:, : self.width], above], axis=1)
        if group == len(self.sizes):
            return self._compute(self.decoder, above)
        below = self._compute(self.down[group - 1], above)
        below = below.reshape(len(z), -1, *self.sizes[group])
        if state is not None:
            for axis in (2, 3):
                repeats = below.shape[axis] // above.shape[axis]
                above = above.repeat(repeats, axis)
            h = below[:, : self.width]
            np.clip(h + above[:, : self.width], -self.largest, self.largest, out=h)
        return below

    def posterior(self, group: int, state: Floats | None, seen: Floats) -> tuple[Floats, Floats]:
        """q(z_l | z_<l, x) in units of e.

        Args:
            group: l - 1.
            state: s_l; None of the first group.
            seen: What `ascend` gives for this group.

        Returns:
            Its mean, (N, C h w), in units of 2^-14, and 1 / sigma, in units of 2^-20.
        """
        unit = 2.0 ** (FINE - FRACTION)
        if state is None:
            loc, log_variance = self._halves(seen)
            return unit * loc, self.inverse_scale(log_variance)
        both = np.concatenate([state, seen], axis=1)
        prior_loc, prior_log_scale = self._halves(state[:, self.width :])
        loc, log_scale = self._halves(self._compute(self.joining[group - 1], both))
        distance = loc if self.relative else loc - prior_loc
        e = np.floor(distance * self.narrow(prior_log_scale) * unit * 2.0**-INVERSE + 0.5)
        inverse = self.narrow(log_scale)
        if not self.relative:
            inverse = np.floor(inverse * self.wide(prior_log_scale) * 2.0**-INVERSE + 0.5)
        return e, inverse

    def _compute(self, layers: tuple[Layer, ...], x: Floats) -> Floats:
        return compute(layers, x, self.largest)

    @staticmethod
    def _halves(features: Floats) -> tuple[Floats, Floats]:
        """Two parameters of each latent, (N, C h w) each, from 2 C channels."""
        loc, scale = np.split(features.reshape(len(features), -1), 2, axis=1)
        return loc, scale


def networks_of(model: TopDown, guide: Bidirectional, scale: float) -> TopDownNetworks:
    """Trained networks in whole numbers.

    Args:
        model: The model.
        guide: Its guide.
        scale: What images are in units of, as for `layers_of`.

    Raises:
        InputError: As for `layers_of`, or if a sum could reach 2^53.
    """
    up, encoder = [layers_of(network) for network in guide.up], layers_of(guide.encoder)
    if up:
        up[0] = layers_of(guide.up[0], scale)
    else:
        encoder = layers_of(guide.encoder, scale)
    return TopDownNetworks(
        sizes=tuple(model.sizes),
        width=model.width,
        up=tuple(up),
        encoder=encoder,
        joining=tuple(map(layers_of, guide.joining)),
        relative=guide.relative,
        down=tuple(map(layers_of, model.down)),
        decoder=layers_of(model.decoder),
        inverse_scale=inverse_scale(),
        wide=_bounded_exponential(1),
        narrow=_bounded_exponential(-1),
    )


@cache
def _bounded_exponential(sign: int) -> Table:
    """exp of 5 tanh(v / 5), or 1 / exp of it."""
    return tabulate(lambda v: (sign * BOUND * (2 * sigmoid(2 * v / BOUND) - 1)).exp(), INVERSE)
