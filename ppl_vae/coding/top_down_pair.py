"""`TopDown` in whole numbers: groups of latents that are chosen from the top down."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from guides import Bidirectional, Guide
from models import StandardNormal, TopDown
from ppl_vae.coding.ans import Stack, Symbols
from ppl_vae.coding.integer_pair import MOST_LATENTS, IntegerPair
from ppl_vae.coding.likelihoods import pixels_of
from ppl_vae.coding.networks import refused
from ppl_vae.coding.pixels import Images
from ppl_vae.coding.standard_latents import MOST_BITS, StandardLatents, needed_bits
from ppl_vae.coding.tables import FINE, FRACTION, MASS, Floats, Ints, Table, normal_cdf
from ppl_vae.coding.top_down_networks import TopDownNetworks, networks_of
from ppl_vae.errors import InputError

__all__ = ["TopDownPair", "top_down_pair"]

_DRAWS = 64  # images
_MOST_OF_PIXEL = 24  # bits
_OTHERWISE = 2 ** (MASS - 9)  # the mass of a coarseness other than the finest


@dataclass(frozen=True, eq=False)
class TopDownPair(IntegerPair):
    """Groups of latents, of which each is chosen once those above it are known.

    z1, z2, ..., zL are taken off the stack under q(z_l | z_<l, x), then x is put on it under
    p(x|z), and zL, ..., z1 under p(z_l | z_<l). Both normals of a group follow from the same state,
    so that the bins can have equal mass under p(z_l | z_<l) itself, wherever it is.

    All latents are chosen before anything is put back, so that they need many bits at once. Where
    the stack has fewer, the latents are coarser: each has 2, 4, 8, ... times fewer bins, down to
    one. The first images are coded nearly without latents. They are longer than -ELBO, and soon
    have filled the stack. How coarse the latents of a batch are is on the stack above it.

    Args:
        image_shape: (C, H, W).
        pixels: p(x|z), from its features.
        networks: From x and the groups above to p and q of each group.
        finest: For each group, how many bits choose each of its latents at most, (C h w,).
        cdf: Phi, as masses.
    """

    networks: TopDownNetworks
    finest: tuple[Ints, ...]
    cdf: Table

    @property
    def bits(self) -> int:
        return max(1, self._room(0))

    @property
    def first_bits(self) -> int:
        return 0

    def check(self) -> None:
        self.networks.check()
        dims = [len(bits) for bits in self.finest]
        if not all(dims) or sum(dims) > MOST_LATENTS:
            raise ValueError("more latents than arrays")
        for bits in self.finest:
            if bits.ndim != 1 or bits.min() < 0 or bits.max() > MOST_BITS:
                raise ValueError("bins finer than any")
        state = None
        for group, size in enumerate(dims):
            z = self.networks.latents(state, np.zeros((1, size)))
            state = self.networks.descend(group + 1, z, state)
        if state is None or state.shape[1:] != self.pixels.features(self.image_shape):
            raise ValueError("images of another shape")
        stack = Stack.seeded(self.bits)  # for the finest bins, which one image alone does not have
        self.push(stack, np.zeros((1, *self.image_shape), np.uint8))
        self.pop(stack, 1)

    def push(self, stack: Stack, images: Images) -> None:
        coarseness = self._affordable(stack, len(images))
        groups, bins = self._groups[coarseness], []
        seen, state = self.networks.ascend(self.input_of(images)), None
        for number, group in enumerate(groups):
            q = self.networks.posterior(number, state, seen[number])
            bins.append(group.pop(stack, *q))
            z = self.networks.latents(state, group.value_of(bins[-1]))
            state = self.networks.descend(number + 1, z, state)
        assert state is not None
        self.pixels.push(stack, state, images)
        for group, chosen in zip(reversed(groups), reversed(bins), strict=True):
            group.push_evenly(stack, chosen)
        stack.push(np.array([coarseness], np.int32), _coarsenesses, MOST_BITS + 1)

    def pop(self, stack: Stack, count: int) -> Images:
        (coarseness,) = stack.pop(1, _coarsenesses, MOST_BITS + 1)
        groups = self._groups[coarseness]
        bins, states, features = self._draw(stack, groups, count)
        images = self.pixels.pop(stack, features, (count, *self.image_shape))
        seen = self.networks.ascend(self.input_of(images))
        for number in reversed(range(len(groups))):
            q = self.networks.posterior(number, states[number], seen[number])
            groups[number].push(stack, *q, bins[number])
        return images

    def at_means(self, images: Images) -> tuple[Floats, Floats]:
        seen, state, means = self.networks.ascend(self.input_of(images)), None, []
        for number, each in enumerate(seen):
            e = self.networks.posterior(number, state, each)[0]
            means.append(self.networks.latents(state, np.floor(e * 2.0 ** (FRACTION - FINE) + 0.5)))
            state = self.networks.descend(number + 1, means[-1], state)
        assert state is not None
        return np.concatenate(means, axis=1), state

    def needed_bits(self) -> tuple[Ints, ...]:
        """For each group the bits that its latents need, by images that the model draws."""
        states, images = self._drawn()
        seen = self.networks.ascend(self.input_of(images))
        given = enumerate(zip(states, seen, strict=True))
        return tuple(needed_bits(self.networks.posterior(n, *each)[1]) for n, each in given)

    def with_room(self) -> "TopDownPair":
        """The pair, with activations cut off further out if images that it draws reach the cut."""
        wide = replace(self, networks=self.networks.widened())
        _, images = wide._drawn()
        same = map(np.array_equal, self.at_means(images), wide.at_means(images))
        return self if all(same) else wide

    def _drawn(self) -> tuple[list[Floats | None], Images]:
        """The states of each group, and images, as the model draws them."""
        stack = Stack.seeded(_DRAWS * (self.bits + _MOST_OF_PIXEL * prod(self.image_shape)))
        _, states, features = self._draw(stack, self._groups[0], _DRAWS)
        return states, self.pixels.pop(stack, features, (_DRAWS, *self.image_shape))

    def _draw(
        self, stack: Stack, groups: tuple[StandardLatents, ...], count: int
    ) -> tuple[list[Symbols], list[Floats | None], Floats]:
        """Takes the latents of images off the stack under p(z).

        Returns:
            The bins of each group, its state, and the features of p(x|z).
        """
        bins, states = list[Symbols](), list[Floats | None]()
        state = None
        for number, group in enumerate(groups):
            states.append(state)
            bins.append(group.pop_evenly(stack, count))
            z = self.networks.latents(state, group.value_of(bins[-1]))
            state = self.networks.descend(number + 1, z, state)
        assert state is not None
        return bins, states, state

    @cached_property
    def _groups(self) -> list[tuple[StandardLatents, ...]]:
        """The latents by how many bits fewer than the finest each has."""
        return [
            tuple(StandardLatents(np.maximum(bits - fewer, 0), self.cdf) for bits in self.finest)
            for fewer in range(MOST_BITS + 1)
        ]

    def _room(self, coarseness: int) -> int:
        """How many bits of the stack choose the latents of an image, at most."""
        return sum(int(group.bits.sum()) for group in self._groups[coarseness])

    def _affordable(self, stack: Stack, count: int) -> int:
        """How coarse the latents of so many images are, for the stack to have enough bits."""
        room = 32 * len(stack) // count
        return next(fewer for fewer in range(MOST_BITS + 1) if self._room(fewer) <= room)


def _coarsenesses(piece: slice) -> NDArray[np.float32]:
    """The masses of a coarseness: mostly none, and the same whatever is on the stack."""
    masses = np.full((1, MOST_BITS + 1), _OTHERWISE, np.float32)
    masses[0, 0] = 2**MASS - MOST_BITS * _OTHERWISE
    return masses


def top_down_pair(model: TopDown, guide: Guide) -> TopDownPair:
    """A trained pair in whole numbers.

    Args:
        model: Its prior is a `StandardNormal`.
        guide: A `Bidirectional`.

    Raises:
        InputError: As for `integer_pair`.
    """
    if type(guide) is not Bidirectional:
        raise refused("guide", guide, "Bidirectional")
    if type(model.prior) is not StandardNormal:
        raise InputError(
            "expected the prior StandardNormal, with which the latents of a TopDown can be coded; "
            f"got {type(model.prior).__name__}; train with --prior StandardNormal"
        )
    pixels = pixels_of(model.likelihood)
    networks = networks_of(model, guide, pixels.scale)
    finest = tuple(np.full(dim, MOST_BITS) for dim in model.dims)
    pair = TopDownPair(model.spec.image_shape, pixels, networks, finest, normal_cdf())
    pair = pair.with_room()
    return replace(pair, finest=pair.needed_bits())
