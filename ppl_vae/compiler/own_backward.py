"""What programs do to their backward pass themselves, where a graph has autograd's.

A hook, or the backward of an `autograd.Function`, may agree with the graph's gradients today and
differ with other numbers: one that clips does so once a gradient is large.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["hooked", "hooked_parameters", "own_backward"]


class _Watch(TorchFunctionMode):
    hooks = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.hooks += function is Tensor.register_hook
        return function(*args, **(kwargs or {}))


@contextmanager
def hooked() -> Iterator[list[str]]:
    """Tells whether hooks are put on tensors meanwhile.

    Yields:
        A list that gets a phrase at the end if they are.
    """
    found: list[str] = []
    with _Watch() as watch:
        yield found
    if watch.hooks:
        found.append("puts a hook on a tensor, which no staged loss has")


def hooked_parameters(owner: nn.Module) -> list[str]:
    """A phrase for each parameter of a module that has a hook already."""
    return [
        f"has a hook on the parameter {name}, which no graph keeps"
        for name, parameter in owner.named_parameters()
        if parameter._backward_hooks
    ]


def own_backward(loss: Tensor) -> list[str]:
    """A phrase for each `autograd.Function` that a loss was computed with."""
    found: list[str] = []
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            found.append(
                f"has a backward pass of its own, that of {name}, which no staged loss has"
            )
        waiting += [following for following, _ in node.next_functions]
    return found
