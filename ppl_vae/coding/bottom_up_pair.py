"""`VAE` and `Hierarchical` in whole numbers: latents that are chosen from the image up."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from guides import BottomUp, DiagonalNormal, FullRankNormal, Guide
from models import VAE, Hierarchical, Network
from ppl_vae.coding.ans import Stack
from ppl_vae.coding.fixed_point import Layer, compute, prove
from ppl_vae.coding.integer_pair import MOST_LATENTS, IntegerPair
from ppl_vae.coding.latents import (
    INVERSE,
    Bins,
    FullRank,
    Normal,
    Posterior,
    bins_around,
    inverse_scale,
)
from ppl_vae.coding.likelihoods import pixels_of
from ppl_vae.coding.networks import layers_of, refused
from ppl_vae.coding.pixels import Images
from ppl_vae.coding.priors import Autoregressive, Even, Sequential, prior_of
from ppl_vae.coding.tables import FRACTION, Floats, normal_cdf

__all__ = ["BottomUpPair", "Level", "bottom_up_pair"]


@dataclass(frozen=True, eq=False)
class Level:
    """One latent z, between what is below it, the image or another latent, and what is above.

    Args:
        size: D, the dimension of z.
        bins: Of z.
        encoder: From what is below to the features of q(z|below).
        posterior: q(z|below), from its features.
        decoder: From z to the features of p(below|z).
    """

    size: int
    bins: Bins
    encoder: tuple[Layer, ...]
    posterior: Posterior
    decoder: tuple[Layer, ...]

    @property
    def bits(self) -> int:
        """How many bits of the stack choose a z, at most."""
        return self.size * (self.bins.count - 1).bit_length()


@dataclass(frozen=True, eq=False)
class BottomUpPair(IntegerPair):
    """Latents of which each is chosen once the one below it is known.

    z1 is taken off the stack under q(z1|x), and x put on it under p(x|z1); then z2 is taken off it
    under q(z2|z1), and so on, so that the bits of the lowest are enough for all (Kingma, Abbeel and
    Ho, 2019).

    Args:
        image_shape: (C, H, W).
        pixels: p(x|z) of the lowest latent, from its features.
        prior: p(z) of the highest latent, over its bins.
        normal: p(z|above) of all latents but the highest, from its features.
        levels: From the image up.
    """

    written_as: ClassVar[str] = "IntegerPair"

    prior: Even | Sequential
    normal: Normal
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        inputs = 2**FRACTION
        for level in self.levels:
            prove(level.encoder, inputs)
            inputs = int(np.abs(level.bins.values).max())
            prove(level.decoder, inputs)
        if isinstance(self.prior, Autoregressive):
            prove(self.prior.layers, inputs)

    @property
    def bits(self) -> int:
        return self.levels[0].bits

    @property
    def first_bits(self) -> int:
        return self.bits

    def check(self) -> None:
        lowest = self.levels[0]
        if not 0 < lowest.size <= MOST_LATENTS:
            raise ValueError("more latents than arrays")
        z = lowest.bins.value_of(np.zeros((1, lowest.size), np.int32))
        if compute(lowest.decoder, z).shape[1:] != self.pixels.features(self.image_shape):
            raise ValueError("images of another shape")

    def at_means(self, images: Images) -> tuple[Floats, Floats]:
        lowest = self.levels[0]
        z = compute(lowest.encoder, self.input_of(images))[:, : lowest.size]
        return z, compute(lowest.decoder, z)

    def push(self, stack: Stack, images: Images) -> None:
        below, lower = self.input_of(images), None
        for number, level in enumerate(self.levels):
            bins = level.posterior.pop(stack, compute(level.encoder, below), level.bins)
            below = level.bins.value_of(bins)
            features = compute(level.decoder, below)
            if lower is None:
                self.pixels.push(stack, features, images)
            else:
                self.normal.push(stack, features, self.levels[number - 1].bins, lower)
            lower = bins
        self.prior.push(stack, level.bins, bins)

    def pop(self, stack: Stack, count: int) -> Images:
        top = self.levels[-1]
        bins = self.prior.pop(stack, top.bins, count, top.size)
        for number in reversed(range(len(self.levels))):
            level, above = self.levels[number], bins
            features = compute(level.decoder, level.bins.value_of(above))
            if number:
                under = self.levels[number - 1].bins
                bins = self.normal.pop(stack, features, under)
                below = under.value_of(bins)
            else:
                images = self.pixels.pop(stack, features, (count, *self.image_shape))
                below = self.input_of(images)
            level.posterior.push(stack, compute(level.encoder, below), level.bins, above)
        return images


def bottom_up_pair(model: VAE | Hierarchical, guide: Guide) -> BottomUpPair:
    """A trained pair in whole numbers.

    Args:
        model: Its prior is a `StandardNormal`, `Flow` of one map or `MixtureOfNormals`.
        guide: A `DiagonalNormal`, a `FullRankNormal`, or for two layers a `BottomUp`.

    Raises:
        InputError: As for `integer_pair`.
    """
    prior, bins = prior_of(model.prior)
    pixels = pixels_of(model.likelihood)
    normal = Normal(inverse_scale(), normal_cdf())
    if isinstance(model, VAE):
        if type(guide) not in (DiagonalNormal, FullRankNormal):
            raise refused("guide", guide, "DiagonalNormal or FullRankNormal")
        full = isinstance(guide, FullRankNormal)
        posterior = FullRank(normal.inverse_scale, normal.cdf) if full else normal
        levels = [_level(bins, guide.encoder, posterior, model.decoder, pixels.scale)]
    else:
        if type(guide) is not BottomUp:
            raise refused("guide", guide, "BottomUp")
        upper = _level(bins, guide.upper, normal, model.between)
        features = compute(upper.decoder, prior.draws(bins, upper.size))
        loc, log_variance = np.split(features, 2, axis=1)
        wide = np.floor(2.0 ** (FRACTION + INVERSE) / normal.inverse_scale(log_variance))
        lower = bins_around(loc, wide)
        levels = [_level(lower, guide.encoder, normal, model.decoder, pixels.scale), upper]
    return BottomUpPair(model.spec.image_shape, pixels, prior, normal, tuple(levels))


def _level(
    bins: Bins,
    encoder: Network,
    posterior: Posterior,
    decoder: Network,
    scale: float = 1.0,
) -> Level:
    (size,) = decoder.inputs
    return Level(size, bins, layers_of(encoder, scale), posterior, layers_of(decoder))
