"""Parameters of a program with a copy for each datum, and noise for each under `vmap`."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["NoiseForEach", "copies_of", "network_step"]

_FEW = 100  # parameters that may all take whole steps of Adam at once


def copies_of(parameters: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Each parameter so many times, (count, ...), without its gradient."""
    return {
        name: value.detach().expand(count, *value.shape).clone()
        for name, value in parameters.items()
    }


def network_step(parameters: Mapping[str, Tensor]) -> float:
    """What Adam's learning rate is multiplied by for so many parameters that move together.

    sqrt(100 / P): Adam moves each of P parameters by its rate, whatever their gradients, and what
    they feed grows with their number.
    """
    return min(1.0, sqrt(_FEW / sum(value.numel() for value in parameters.values())))


class NoiseForEach(TorchFunctionMode):
    """Lets distributions draw under vmap, which forbids filling a shared tensor with noise."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.normal_ and len(args) == 1 and not kwargs:
            return torch.randn_like(args[0])
        if function is Tensor.uniform_:
            empty, low, high = (*args, *((0.0, 1.0)[len(args) - 1 :]))[:3]
            return low + (high - low) * torch.rand_like(empty)
        return function(*args, **(kwargs or {}))
