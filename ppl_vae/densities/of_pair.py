"""The one place where (model, guide, x) becomes a `Joint`."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import Batch, Program
from ppl_vae.errors import InputError

__all__ = ["of_pair"]

Result = TypeVar("Result")


def of_pair(function: Callable[..., Result]) -> Callable[..., Result]:
    """Lets a function of a `Joint` take `model, guide, x` in its place.

    The options `memory_bytes` and `as_one` are then those of `Joint.of`.
    """

    @wraps(function)
    def call(
        model: Joint | Program,
        guide: Program | None = None,
        x: Tensor | Batch | None = None,
        *,
        memory_bytes: int | None = None,
        as_one: bool = False,
        **options: Any,
    ) -> Result:
        if isinstance(model, Joint):
            return function(model, **options)
        if guide is None or x is None:
            raise InputError("expected a model, a guide and data, or one Joint of the three")
        return function(Joint.of(model, guide, x, memory_bytes, as_one), **options)

    return call
