"""A trained pair in whole numbers: networks, bins and tables, and their digest."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np

from guides import BottomUp, DiagonalNormal, FullRankNormal, Guide
from models import VAE, Hierarchical, Model, Network
from ppl_vae.coding.fixed_point import LAYERS, Layer, compute, prove
from ppl_vae.coding.latents import (
    INVERSE,
    Bins,
    FullRank,
    Normal,
    Posterior,
    bins_around,
    inverse_scale,
)
from ppl_vae.coding.networks import layers_of
from ppl_vae.coding.pixels import PIXELS, Pixels, pixels_of
from ppl_vae.coding.priors import Autoregressive, Even, Mixture, Sequential, prior_of
from ppl_vae.coding.serialized import DAMAGED, from_bytes, to_bytes
from ppl_vae.coding.tables import FRACTION, Floats, Table, normal_cdf
from ppl_vae.errors import InputError

__all__ = ["IntegerPair", "Level", "integer_pair", "restored"]

_MOST_LATENTS = 2**16


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
class IntegerPair:
    """p(x, z) and q(z|x) in whole numbers.

    Args:
        image_shape: (C, H, W).
        pixels: p(x|z) of the lowest latent, from its features.
        prior: p(z) of the highest latent, over its bins.
        normal: p(z|above) of all latents but the highest, from its features.
        levels: From the image up.
    """

    image_shape: tuple[int, ...]
    pixels: Pixels
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

    def input_of(self, images: np.ndarray) -> Floats:
        """Images of bytes (N, C, H, W) as activations, in units of 2^-12."""
        return images * (2.0**FRACTION if self.pixels.levels == 2 else 16.0)

    @cached_property
    def data(self) -> bytes:
        """All integers of the pair, as `restored` reads them."""
        return to_bytes(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `data`."""
        return sha256(self.data).hexdigest()


_CLASSES = (
    IntegerPair, Level, Bins, Even, Autoregressive, Mixture, Normal, FullRank, Table, *PIXELS,
    *LAYERS,
)  # fmt: skip


def restored(data: bytes) -> IntegerPair:
    """The pair whose `data` these are.

    Raises:
        InputError: If they are those of none, or its decoder makes images of another shape.
    """
    pair = from_bytes(data, _CLASSES)
    try:
        lowest = pair.levels[0]
        if not 0 < lowest.size <= _MOST_LATENTS:
            raise ValueError("more latents than arrays")
        z = lowest.bins.value_of(np.zeros((1, lowest.size), np.int32))
        if compute(lowest.decoder, z).shape[1:] != pair.pixels.features(pair.image_shape):
            raise ValueError("images of another shape")
    except (AttributeError, IndexError, MemoryError, TypeError, ValueError) as error:
        raise InputError(DAMAGED) from error
    return pair


def integer_pair(model: Model, guide: Guide) -> IntegerPair:
    """A trained pair in whole numbers.

    Args:
        model: A `VAE` or `Hierarchical` with the prior `StandardNormal`, `Flow` of one map or
            `MixtureOfNormals`, and a likelihood of binary images or bytes.
        guide: A `DiagonalNormal`, a `FullRankNormal`, or for two layers a `BottomUp`.

    Raises:
        InputError: If its data have missing pixels; it is another pair, whose latents have no
            one-dimensional distribution functions in turn; a network has no form in whole numbers;
            or a sum of one could reach 2^53.
    """
    if model.spec.holes:
        raise InputError(
            "expected a run of images without missing pixels, which an archive has no symbol for; "
            "this one was trained on images with some; train on complete images"
        )
    if type(model) not in (VAE, Hierarchical):
        raise _refused("model", model, "VAE or Hierarchical")
    prior, bins = prior_of(model.prior)
    pixels = pixels_of(model.likelihood)
    normal = Normal(inverse_scale(), normal_cdf())
    scale = 1.0 if pixels.levels == 2 else 256 / 255  # bytes come as x / 256
    if isinstance(model, VAE):
        if type(guide) not in (DiagonalNormal, FullRankNormal):
            raise _refused("guide", guide, "DiagonalNormal or FullRankNormal")
        full = isinstance(guide, FullRankNormal)
        posterior = FullRank(normal.inverse_scale, normal.cdf) if full else normal
        levels = [_level(bins, guide.encoder, posterior, model.decoder, scale)]
    else:
        if type(guide) is not BottomUp:
            raise _refused("guide", guide, "BottomUp")
        upper = _level(bins, guide.upper, normal, model.between)
        features = compute(upper.decoder, prior.draws(bins, upper.size))
        loc, log_variance = np.split(features, 2, axis=1)
        wide = np.floor(2.0 ** (FRACTION + INVERSE) / normal.inverse_scale(log_variance))
        lower = bins_around(loc, wide)
        levels = [_level(lower, guide.encoder, normal, model.decoder, scale), upper]
    return IntegerPair(model.spec.image_shape, pixels, prior, normal, tuple(levels))


def _refused(role: str, piece: object, choices: str) -> InputError:
    return InputError(
        f"expected the {role} {choices}, whose latents have one-dimensional distribution functions "
        f"in turn; got {type(piece).__name__}; train with --{role} {choices.split()[0]}"
    )


def _level(
    bins: Bins,
    encoder: Network,
    posterior: Posterior,
    decoder: Network,
    scale: float = 1.0,
) -> Level:
    (size,) = decoder.inputs
    return Level(size, bins, layers_of(encoder, scale), posterior, layers_of(decoder))
