"""A table as data: N rows of D columns, each an image (1, 1, D) of numbers without grey levels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.holes import missing_pixels
from ppl_vae.data.levels import at_least, two_values
from ppl_vae.data.stored import Stored, pieces
from ppl_vae.errors import InputError

if TYPE_CHECKING:
    from ppl_vae.data.arrays import Arrays

__all__ = ["as_table", "column_moments", "is_binary"]

_NAMED = 10  # columns in an error
_ROUNDING = 2.0**-24  # of float32, relative: a column that varies by less is constant


def is_binary(*parts: Tensor | Stored) -> bool:
    """Whether all entries of a table are 0 or 1."""
    return two_values(*parts) == (0.0, 1.0)


def as_table(
    data_set: "Arrays", parts: Sequence[Tensor | Stored], domain: Domain
) -> tuple["Arrays", list[Tensor | Stored], int | None]:
    """The rows of a table for a likelihood, their options chosen.

    Numbers of any type are real numbers, standardised column by column unless `scale` is none; a
    table of 0 and 1 alone is binary under a likelihood for binary data.

    Args:
        data_set: Whose options count.
        parts: Rows (N, 1, 1, D) of float32.
        domain: The domain that the likelihood needs.

    Returns:
        The data set without open options, the rows, and 2 where they are binary, else None.

    Raises:
        InputError: If an option is for grey levels, or the entries do not fit the domain.
    """
    name = type(data_set).__name__
    for option, none in (("binarize", "none"), ("dequantize", "none"), ("perturb", 0)):
        value = getattr(data_set, option)
        if value not in ("auto", none):
            raise InputError(
                f"--data.{option} {value} is for grey levels of images, which a table has none of; "
                "leave it out"
            )
    remedy = "choose --likelihood Gaussian"
    if domain == "bytes":
        raise InputError(
            f"a likelihood for bytes is one of images, and {name} has a table; {remedy}"
        )
    data_set = replace(data_set, binarize="none", dequantize="none", perturb=0.0)
    if domain == "binary":
        if not is_binary(*parts):
            raise InputError(
                f"a likelihood for binary data needs a table of 0 and 1; {name} has other entries; "
                f"{remedy}"
            )
        holes = any(map(missing_pixels, parts))
        return _scaled(data_set, "none"), [at_least(part, 1.0, holes) for part in parts], 2
    return _scaled(data_set, "standard" if domain == "real" else "none"), [*parts], None


def _scaled(data_set: "Arrays", usual: Literal["none", "standard"]) -> "Arrays":
    return replace(data_set, scale=usual) if data_set.scale == "auto" else data_set


def column_moments(
    rows: Tensor | Stored,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of the values of each column that are there, D each.

    Args:
        rows: The training rows, (N, 1, 1, D), NaN where a value is missing.

    Raises:
        InputError: If a column has not two values that differ, and nothing can be learned from it.
    """
    count, total, squares = torch.zeros(3, rows.shape[-1], dtype=torch.float64)
    for piece in pieces(rows):
        count += (~piece.isnan()).sum((0, 1, 2))
        total += piece.double().nansum((0, 1, 2))
    mean = total / count
    for piece in pieces(rows):
        squares += (piece.double() - mean).square().nansum((0, 1, 2))
    deviation = (squares / count).sqrt()
    constant = ~(deviation > mean.abs() * _ROUNDING)
    if constant.any():
        places = constant.nonzero().flatten().tolist()
        named = ", ".join(map(str, places[:_NAMED])) + (", ..." if len(places) > _NAMED else "")
        raise InputError(
            "expected columns with values that differ among the training rows; got the same value, "
            f"or none, in column {named}, counted from 0; leave out such columns"
        )
    return tuple(mean.tolist()), tuple(deviation.tolist())
