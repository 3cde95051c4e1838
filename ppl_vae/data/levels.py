"""The values of images: how many grey levels they are, and whether they fit a domain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.holes import known, missing_pixels
from ppl_vae.data.stored import Reader, Stored, pieces
from ppl_vae.errors import InputError

__all__ = [
    "DEEPEST",
    "Values",
    "are_grey_levels_with_holes",
    "as_int32",
    "at_least",
    "check_values",
    "grey_levels",
    "mean_and_deviation",
    "two_values",
    "values_of",
    "values_remark",
]

DEEPEST = 2**16
"""The most grey levels that images can have."""

_BITS = (8, 10, 12, 14, 16)  # of cameras and scanners
_FAR = 10  # from where on a Gaussian that begins near 0 takes long to reach the data


@dataclass(frozen=True)
class Values:
    """The values of images.

    Args:
        least: The smallest that is finite.
        most: The largest that is finite.
        whole: Whether all are whole numbers, but for those that are missing.
        infinite: How many are infinite (as float32).
        missing: How many are missing, which is NaN.
    """

    least: float
    most: float
    whole: bool
    infinite: int
    missing: int


def as_int32(array: NDArray[Any]) -> NDArray[np.int32]:
    """Whole numbers of any type; those beyond all grey levels stay beyond them."""
    type_of = np.iinfo(array.dtype)
    return array.clip(max(-1, type_of.min), min(DEEPEST, type_of.max)).astype(np.int32)


def values_of(*parts: Tensor | Stored) -> Values:
    """Looks at all values of images, those of a file in the order in which they lie in it."""
    least, most, whole, infinite, missing = inf, -inf, True, 0, 0
    for part in parts:
        if isinstance(part, Stored):
            part = replace(part, rows=part.rows.sort().values)
        for piece in pieces(part):
            floats = piece.is_floating_point()
            finite = piece[piece.isfinite()] if floats else piece
            if finite.numel() < piece.numel():
                nan = int(piece.isnan().sum())
                missing += nan
                infinite += piece.numel() - finite.numel() - nan
            if finite.numel():
                least, most = min(least, finite.min().item()), max(most, finite.max().item())
                whole = whole and not (floats and (finite != finite.round()).any())
    return Values(least, most, whole, infinite, missing)


def check_values(
    name: str,
    pixels: Sequence[Tensor | Stored],
    levels: int | None,
    domain: Domain,
    binarize: str,
) -> Values:
    """Checks that pixels are what the data set says of them, and fit a domain.

    Grey levels that stay in files have been checked by `grey_levels`.

    Args:
        name: The data set.
        pixels: Of each split, as they are stored.
        levels: L, or None for floating-point values.
        domain: The domain that the likelihood needs.
        binarize: How they are to become 0 or 1.

    Returns:
        The values.

    Raises:
        InputError: If they do not.
    """
    dtype = pixels[0].dtype
    floats = dtype.is_floating_point
    looked_at = [part for part in pixels if floats or isinstance(part, Tensor)]
    values = values_of(*looked_at)
    if floats != (levels is None or values.missing > 0):
        expected = "floating-point values" if levels is None else f"integers below {levels}"
        raise InputError(
            f"expected {expected} from {name}, with levels={levels} in Conversion.choose; got "
            f"{dtype}; give levels=None for floating-point values, else how many grey levels "
            "there are"
        )
    least, most = f"{values.least:g}", f"{values.most:g}"
    if levels is not None and looked_at and not -1 < values.least <= values.most < levels:
        raise InputError(
            f"expected grey levels of 0 to {levels - 1} from {name}; got {least} to {most}; give "
            "Conversion.choose the number of levels that there are"
        )
    if values.infinite:
        total = sum(part.shape.numel() for part in pixels)
        raise InputError(
            f"expected finite images, or NaN where a pixel is missing; got {values.infinite:,} of "
            f"{total:,} values infinite (as float32) in {name}; remove or replace them"
        )
    if values.missing and values.least > values.most:
        raise InputError(f"expected images with observed pixels; all of {name} are missing (NaN)")
    if levels is not None or domain == "real":
        return values
    misfit = f"a likelihood for {domain} data does not fit the"
    if not 0 <= values.least <= values.most <= 1:
        scaled = (
            "images / images.max()"
            if values.least >= 0
            else "(images - images.min()) / numpy.ptp(images)"
        )
        raise InputError(
            f"{misfit} values of {name}, which are {least} to {most}; scale them to [0, 1] with "
            f"{scaled}, or choose --likelihood Gaussian"
        )
    if domain == "binary" and binarize == "none":
        raise InputError(
            f"{misfit} floating-point values of {name}; add --data.binarize dynamic, or choose "
            "--likelihood Gaussian"
        )
    if domain == "bytes":
        cast = "" if values.missing else ".astype('uint8')"
        raise InputError(
            f"{misfit} floating-point values of {name}; convert them to whole numbers with "
            f"(255 * images).round(){cast}, or choose --likelihood Gaussian"
        )
    return values


def values_remark(values: Values, scale: str | None, table: bool = False) -> str:
    """The range of real numbers, and what to do where images look like grey levels or are large."""
    said = f"values of {values.least:g} to {values.most:g}"
    whole = values.whole and values.most < DEEPEST
    grey = values.least >= 0 and values.most > 1 and (whole or 100 < values.most < 256)
    far = max(-values.least, values.most) > _FAR
    if table or scale == "standard" or not (grey or far):
        return said
    remedies = [] if scale is None else ["add --data.scale standard"]
    if not grey:
        remedies = remedies or ["subtract their mean, and divide them by their standard deviation"]
    elif values.most <= 100:
        remedies.insert(0, f"divide them by {values.most:g}")
    else:
        dtype = "uint8" if values.most < 256 else "uint16"
        save = f"save them as {dtype} with images.round().astype('{dtype}')"
        remedies.insert(0, "round them with images.round()" if values.missing else save)
    looks = "look like grey levels" if grey else "are far from 1"
    return f"{said}, which {looks}: {', or '.join(remedies)}"


def mean_and_deviation(pixels: Tensor | Stored) -> tuple[float, float]:
    """The mean and the standard deviation (1 where that is 0) of all values that there are."""
    count, total = 0, 0.0
    for piece in pieces(pixels):
        values = known(piece)
        count, total = count + values.numel(), total + values.double().sum().item()
    mean = total / max(count, 1)
    squares = sum((known(piece).double() - mean).square().sum().item() for piece in pieces(pixels))
    return mean, sqrt(squares / max(count, 1)) or 1.0


def two_values(*parts: Tensor | Stored) -> tuple[float, float] | None:
    """The two values that all observed pixels have; None where there are more, or only one.

    int32 of `DEEPEST` stands for all that are larger, and so is no value.
    """
    found = np.empty(0)
    for part in parts:
        for piece in pieces(part):
            found = np.union1d(found, known(piece).numpy())
            if len(found) > 2:
                return None
    sure = all(part.dtype != torch.int32 for part in parts) or (abs(found) < DEEPEST).all()
    return (float(found[0]), float(found[1])) if len(found) == 2 and sure else None


def are_grey_levels_with_holes(parts: Sequence[Tensor | Stored]) -> bool:
    """Whether some values are missing and all others, at least one, whole numbers up to 65,535.

    No integer type has a NaN, so that grey levels with missing pixels are stored as real numbers.
    """
    if not parts[0].dtype.is_floating_point:
        return False
    count = 0
    for part in parts:
        for piece in pieces(part):
            there = known(piece)
            if not ((there == there.round()) & (there >= 0) & (there < DEEPEST)).all():
                return False
            count += there.numel()
    return 0 < count < sum(part.shape.numel() for part in parts)


def grey_levels(
    parts: Sequence[Tensor | Stored], name: str
) -> tuple[list[Tensor | Stored], int, str]:
    """The same images as grey levels 0, ..., L - 1, with L and a remark on it.

    L is 2 where there are two values, and else 2 to the power of the fewest bits of 8, 10, 12, 14
    and 16 that hold the largest.

    Args:
        parts: Whole numbers (N, C, H, W), all uint8 or all int32, or with missing pixels float32;
            of two values, any numbers.
        name: What to call them in errors.

    Raises:
        InputError: If a value is below 0 or above 65,535.
    """
    pair = two_values(*parts)
    holes = any(missing_pixels(part) for part in parts)
    if pair is not None:
        binary = [at_least(part, pair[1], holes) for part in parts]
        return binary, 2, f"two values ({pair[0]:g} and {pair[1]:g})"
    if parts[0].dtype == torch.uint8:
        return [*parts], 256, ""
    values = values_of(*parts)
    if not 0 <= values.least <= values.most < DEEPEST:
        raise InputError(
            f"expected grey levels of 0 to {DEEPEST - 1:,} in {name}; there are values outside of "
            "that; save them as one array of real numbers with numpy.save(FILE, "
            "images.astype('float32')), for --data Arrays --data.scale standard"
        )
    bits = next(bits for bits in _BITS if values.most < 2**bits)
    if bits == 8:
        if holes:
            return [*parts], 256, "whole numbers, read as grey levels"
        return [_mapped(part, _as_bytes) for part in parts], 256, ""
    return [*parts], 2**bits, f"grey levels of {bits} bits (the largest is {values.most:,.0f})"


def at_least(pixels: Tensor | Stored, value: float, holes: bool = False) -> Tensor | Stored:
    """1 where a pixel is at least the value, else 0; uint8, or float32 where some are missing."""
    if holes:
        return _mapped(pixels, partial(_is_at_least_or_missing, value=value), torch.float32)
    return _mapped(pixels, partial(_is_at_least, value=value))


def _is_at_least(images: Tensor, value: float) -> Tensor:
    return (images >= value).to(torch.uint8)


def _is_at_least_or_missing(images: Tensor, value: float) -> Tensor:
    return (images >= value).float().masked_fill(images.isnan(), torch.nan)


def _as_bytes(images: Tensor) -> Tensor:
    return images.to(torch.uint8)


def _mapped(
    pixels: Tensor | Stored,
    function: Callable[[Tensor], Tensor],
    dtype: torch.dtype = torch.uint8,
) -> Tensor | Stored:
    """The images that a function makes of these, of another type."""
    if isinstance(pixels, Stored):
        return replace(pixels, read=_Mapped(pixels.read, function), dtype=dtype)
    return function(pixels)


@dataclass(frozen=True)
class _Mapped:
    """Reads images and applies a function to them."""

    read: Reader
    function: Callable[[Tensor], Tensor]

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.function(torch.from_numpy(self.read(rows))).numpy()
