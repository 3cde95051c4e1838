"""Missing pixels: NaN among floating-point values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.data.stored import Stored, pieces
from ppl_vae.errors import InputError

__all__ = ["check_observed", "known", "missing_phrase", "missing_pixels"]

_NAMED = 10  # images in an error


def known(values: Tensor) -> Tensor:
    """The values that are not missing, (N,); as they are where none is."""
    missing = values.isnan() if values.is_floating_point() else None
    return values if missing is None or not missing.any() else values[~missing]


def missing_pixels(pixels: Tensor | Stored) -> int:
    """How many values are missing."""
    if not pixels.dtype.is_floating_point:
        return 0
    return sum(int(piece.isnan().sum()) for piece in pieces(pixels))


def missing_phrase(missing: int, parts: Sequence[Tensor | Stored], noun: str) -> str:
    """How many pixels, or entries of a table, are missing, for the first line of a run."""
    total = sum(part.shape.numel() for part in parts)
    return f"{missing:,} of {total:,} {noun} ({100 * missing / total:.3g} %) are missing (NaN)"


def check_observed(pixels: Tensor | Stored, where: str) -> None:
    """Refuses images of which nothing is known.

    Args:
        pixels: (N, C, H, W), in the order of the file.
        where: What to call them.

    Raises:
        InputError: If an image has no observed pixel.
    """
    nothing = torch.cat([piece.isnan().flatten(1).all(1) for piece in pieces(pixels)])
    places = nothing.nonzero().flatten().tolist()
    if places:
        named = ", ".join(map(str, places[:_NAMED])) + (", ..." if len(places) > _NAMED else "")
        raise InputError(
            f"expected an observed pixel in every image; {len(places):,} of {len(nothing):,} in "
            f"{where} have none, at index {named}; leave them out, as with "
            "images[~numpy.isnan(images).reshape(len(images), -1).all(1)]"
        )
