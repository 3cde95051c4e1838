"""Kernels of our own in C++, for the compiled graphs of a CPU."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import torch

__all__ = ["LIBRARY", "c_function"]

LIBRARY = torch.library.Library("ppl_vae", "FRAGMENT")
"""Holds our operations, which live as long as it does."""


def c_function(name: str, arguments: Sequence[Any]) -> Callable[..., None]:
    """The function `name` of `name.cpp`, compiled for this machine the first time and then kept.

    Args:
        name: Of the function and of its file.
        arguments: Their types of `ctypes`.

    Raises:
        Exception: Of several kinds, where there is no compiler, or one without vectors.
    """
    from torch._inductor.codecache import CppCodeCache

    source = files("ppl_vae.compiler").joinpath(f"{name}.cpp").read_text()
    function: Callable[..., None] = getattr(CppCodeCache.load(source), name)
    function.argtypes, function.restype = [*arguments], None  # type: ignore[attr-defined]
    return function
