"""Whether the values of new images are such as the data of a run have, and what to do if not."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.data.holes import known
from ppl_vae.data.levels import DEEPEST
from ppl_vae.data.split import Facts
from ppl_vae.errors import InputError

__all__ = [
    "are_grey_levels",
    "check_floats",
    "check_missing",
    "check_shape",
    "fitting",
    "grey_levels",
]

_BYTES = 256


def check_shape(shape: Sequence[int], facts: Facts) -> None:
    """Raises an InputError unless images are (N, C, H, W) of the run's size, and at least one."""
    channels, height, width = facts.image_shape
    if len(shape) == 4 and shape[0] and tuple(shape[1:]) == facts.image_shape:
        return
    if facts.table:
        got = f"{shape[-1]:,}" if tuple(shape[1:3]) == (1, 1) else f"an array {tuple(shape)}"
        raise InputError(
            f"expected rows of {width:,} columns, as the run's table has; got {got}; give an array "
            f"of shape (N, {width})"
        )
    remedy = "crop or resize them"
    if tuple(shape[-3:-1]) == (height, width) and shape[-1] in (1, 3, 4):
        axes = "0, 3, 1, 2" if len(shape) == 4 else "2, 0, 1"
        remedy = f"transpose them with images.transpose({axes})"
    if tuple(shape[-2:]) == (height, width) and len(shape) in (3, 4):
        remedy = f"make them of {channels} channel{'s' if channels > 1 else ''}"
    raise InputError(
        f"expected images of {channels} x {height} x {width} (channels, height, width), as the "
        f"run's are; got {tuple(shape)}; {remedy}"
    )


def check_missing(missing: int, facts: Facts) -> None:
    """Raises an InputError where pixels are missing and the run's training images had all."""
    if missing and not facts.holes:
        raise InputError(
            f"expected all pixels, as the run's training images have; {missing:,} are missing "
            "(NaN); fill them with ppl_vae.restore --corruption Masked --images FILE, or train on "
            "images with missing pixels"
        )


def fitting(facts: Facts) -> str:
    """The numbers that fit a run, as a phrase."""
    if facts.levels is None:
        return "floating-point values such as those of the run's data"
    if facts.levels == 2:
        return "0 and 1"
    return f"whole grey levels of 0 to {facts.levels - 1:,}"


def grey_levels(pixels: Tensor, facts: Facts) -> Tensor:
    """Whole numbers as the run's data have them; raises an InputError where they cannot be.

    Those that stand among missing pixels are floating-point numbers, and stay so.
    """
    least, most = int(known(pixels).min()), int(known(pixels).max())
    if facts.levels is None:
        raise InputError(
            f"expected {fitting(facts)}; got whole numbers of {least} to {most:,}; scale them as "
            "those were, to float32"
        )
    if not 0 <= least <= most < facts.levels:
        got = "negative ones" if least < 0 else f"whole numbers of {least} to {most:,}"
        raise InputError(
            f"expected {fitting(facts)}, as the run's data have; got {got}; "
            f"{_remedy(least, most, facts.levels - 1)}"
        )
    if facts.domain == "binary" and facts.levels > 2 and most == 1:
        raise InputError(
            f"expected {fitting(facts)}; got 0 and 1 alone, which is black; if the images are "
            "binary, give them as truth values with images.astype(bool)"
        )
    if pixels.is_floating_point():
        return pixels
    return pixels.to(torch.uint8 if facts.levels <= _BYTES else torch.int32)


def are_grey_levels(pixels: Tensor, facts: Facts) -> bool:
    """Whether images are of whole numbers: grey levels, as far as the run's data have them.

    Floating-point images are where those of the run are grey levels with missing pixels, and a
    value is above 1: else they are values in the domain.
    """
    if not pixels.is_floating_point():
        return True
    there = known(pixels)
    grey = facts.holes and facts.levels is not None and facts.domain != "bytes"
    return grey and bool((there == there.round()).all()) and bool((there > 1).any())


def check_floats(pixels: Tensor, facts: Facts) -> None:
    """Raises an InputError unless floats are values of the domain, or those of the run's data."""
    check_missing(int(pixels.isnan().sum()), facts)
    total, pixels = pixels.numel(), known(pixels)
    if pixels.isinf().any():
        raise InputError(
            f"expected finite values; {int(pixels.isinf().sum()):,} of {total:,} are infinite; "
            "replace them, as with numpy.nan_to_num(images)"
        )
    if facts.domain == "real" and facts.levels is None:
        return
    whole = facts.domain == "bytes" or (facts.domain == "binary" and facts.levels is not None)
    most = 255 if facts.domain == "bytes" else 1
    fits = (pixels >= 0) & (pixels <= most)
    if whole:
        fits &= pixels == pixels.round()
    if fits.all():
        return
    got = f"got floating-point values of {pixels.min():g} to {pixels.max():g}"
    if facts.levels is None:
        raise InputError(f"expected values between 0 and 1, as the run's data; {got}; scale them")
    values = {"binary": "0 and 1 alone", "bytes": "whole numbers of 0 to 255"}
    expected = "0 and 1"
    if facts.levels > 2:
        floats = values.get(facts.domain, "values between 0 and 1")
        expected = f"{fitting(facts)} of an integer type, or {floats} of a floating-point type"
    remedy = _remedy(pixels.min().item(), pixels.max().item(), facts.levels - 1, floating=True)
    raise InputError(f"expected {expected}; {got}; {remedy}")


def _remedy(least: float, most: float, top: int, floating: bool = False) -> str:
    """How numbers become grey levels 0, ..., `top`, as a phrase."""
    if least < 0:
        return "no grey level is below 0: convert them as the run's data were"
    fractions = floating and most <= 1
    if top == 1:
        return f"choose a threshold, as with images > {0.5 if fractions else 127}"
    factor = ""
    if fractions:
        factor = f" * {top}"
    elif most > top:
        factor = f" * ({top} / {_BYTES - 1 if most < _BYTES else DEEPEST - 1})"
    scaled = f"(images{factor})" if factor else "images"
    return f"convert them, as with {scaled}.round().astype(int)"
