"""A trained pair in whole numbers: networks, bins and tables, and their digest."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256, shake_128

import numpy as np

from guides import BottomUp, DiagonalNormal, FullRankNormal, Guide
from models import VAE, Hierarchical, Model, Network, StandardNormal
from ppl_vae.coding.fixed_point import LAYERS, Layer, compute, layers_of, prove
from ppl_vae.coding.latents import (
    BINS,
    INVERSE,
    Bins,
    FullRank,
    Normal,
    inverse_scale,
    standard_bins,
)  # fmt: skip
from ppl_vae.coding.pixels import PIXELS, Pixels, pixels_of
from ppl_vae.coding.serialized import from_bytes, to_bytes
from ppl_vae.coding.tables import FINE, FRACTION, Floats, Table, normal_cdf
from ppl_vae.errors import InputError

__all__ = ["IntegerPair", "Level", "integer_pair", "restored"]

_MOST_LATENTS = 2**16
_DRAWS = 2**12  # of the latents above, for the bins of the latents below


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
    posterior: Normal | FullRank
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
        normal: p(z|above) of all latents but the highest, from its features.
        levels: From the image up. The bins of the highest are equally likely.
    """

    image_shape: tuple[int, ...]
    pixels: Pixels
    normal: Normal
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        inputs = 2**FRACTION
        for level in self.levels:
            prove(level.encoder, inputs)
            inputs = int(np.abs(level.bins.values).max())
            prove(level.decoder, inputs)

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


def restored(data: bytes) -> IntegerPair:
    """The pair whose `data` these are.

    Raises:
        InputError: If they are those of none.
    """
    pair = from_bytes(data, (IntegerPair, Level, Bins, Normal, FullRank, Table, *PIXELS, *LAYERS))
    try:
        _try_out(pair)
    except (AttributeError, IndexError, MemoryError, TypeError, ValueError) as error:
        raise InputError("the model is damaged; compress the images again") from error
    return pair


def _try_out(pair: IntegerPair) -> None:
    """Raises a ValueError, or what NumPy raises, where shapes do not fit."""
    below: tuple[int, ...] = pair.image_shape
    if max(level.size for level in pair.levels) > _MOST_LATENTS:
        raise ValueError("more latents than arrays")
    features = pair.pixels.features(pair.image_shape)
    for level in pair.levels:
        z = level.bins.value_of(np.zeros((1, level.size), np.int32))
        if compute(level.decoder, z).shape != (1, *features):
            raise ValueError("a decoder of another shape")
        encoded = compute(level.encoder, np.zeros((1, *below)))
        if encoded.shape != (1, level.posterior.features(level.size)):
            raise ValueError("an encoder of another shape")
        below, features = (level.size,), (level.size * 2,)


def integer_pair(model: Model, guide: Guide) -> IntegerPair:
    """A trained pair in whole numbers.

    Args:
        model: A `VAE` or `Hierarchical` with the prior `StandardNormal`, and a likelihood of binary
            images or bytes.
        guide: A `DiagonalNormal`, a `FullRankNormal`, or for two layers a `BottomUp`.

    Raises:
        InputError: If it is another pair, whose latents have no one-dimensional distribution
            functions in turn; a network has no form in whole numbers; or a sum of one could reach
            2^53.
    """
    if type(model) not in (VAE, Hierarchical):
        raise _refused("model", model, "VAE or Hierarchical")
    if type(model.prior) is not StandardNormal:
        raise _refused("prior", model.prior, "StandardNormal")
    pixels = pixels_of(model.likelihood)
    normal = Normal(inverse_scale(), normal_cdf())
    scale = 1.0 if pixels.levels == 2 else 256 / 255  # bytes come as x / 256
    if isinstance(model, VAE):
        if type(guide) not in (DiagonalNormal, FullRankNormal):
            raise _refused("guide", guide, "DiagonalNormal or FullRankNormal")
        full = isinstance(guide, FullRankNormal)
        posterior = FullRank(normal.inverse_scale, normal.cdf) if full else normal
        levels = [_level(standard_bins(), guide.encoder, posterior, model.decoder, scale)]
    else:
        if type(guide) is not BottomUp:
            raise _refused("guide", guide, "BottomUp")
        upper = _level(standard_bins(), guide.upper, normal, model.between)
        bins = _bins_below(upper, normal)
        levels = [_level(bins, guide.encoder, normal, model.decoder, scale), upper]
    return IntegerPair(model.spec.image_shape, pixels, normal, tuple(levels))


def _refused(role: str, piece: object, choices: str) -> InputError:
    return InputError(
        f"expected the {role} {choices}, whose latents have one-dimensional distribution functions "
        f"in turn; got {type(piece).__name__}; train with --{role} {choices.split()[0]}"
    )


def _level(
    bins: Bins,
    encoder: Network,
    posterior: Normal | FullRank,
    decoder: Network,
    scale: float = 1.0,
) -> Level:
    (size,) = decoder.inputs
    return Level(size, bins, layers_of(encoder, scale), posterior, layers_of(decoder))


def _bins_below(upper: Level, normal: Normal) -> Bins:
    """The standard normal's bins at mean and scale of p(z), from fixed draws of the z above."""
    drawn = np.frombuffer(shake_128(b"bins").digest(2 * _DRAWS * upper.size), "<u2") % BINS
    above = upper.bins.value_of(drawn.reshape(_DRAWS, upper.size).astype(np.int32))
    loc, log_variance = np.split(compute(upper.decoder, above), 2, axis=1)
    scale = np.floor(2.0 ** (FRACTION + INVERSE) / normal.inverse_scale(log_variance))
    mean = np.floor(loc.sum(0) / _DRAWS + 0.5)
    squares = np.clip((loc - mean) ** 2 + scale**2, 0, 2.0**40).sum(0)  # below 2^53: exact
    spread = np.floor(np.sqrt(np.floor(squares / _DRAWS)) + 1)
    standard = standard_bins()
    unit = 2.0 ** (FINE - FRACTION)
    edges = unit * mean[:, None] + np.floor(spread[:, None] * standard.edges * 2.0**-FRACTION)
    values = mean[:, None] + np.floor(spread[:, None] * standard.values * 2.0**-FRACTION + 0.5)
    return Bins(edges.astype(np.int64), values.astype(np.int64))
