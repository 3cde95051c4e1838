"""Loss and gradients of a module as one graph of tensor operations, without autograd.

The backward pass is run while it is traced, as autograd would run it: hooks and backward passes
that somebody wrote are in the graph, and so are programs that differentiate themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compiler.comparison import Batch, Gradients, NotStageable
from ppl_vae.compiler.trial_runs import in_words, quiet

__all__ = ["JointGraph", "contiguous", "traced"]


class JointGraph:
    """The graph, a function of tensors in a list to tensors in a list, and how to call it.

    Args:
        owner: The module, whose parameters the gradients are for.
        batch: What it takes by position.
        scheduled: What it takes by name.

    Attributes:
        graph: Maps parameters, buffers and arguments to the loss and the gradients that there are.
        examples: Arguments of it.

    Raises:
        NotStageable: If the module cannot be traced.
    """

    def __init__(self, owner: nn.Module, batch: Batch, scheduled: dict[str, Tensor]) -> None:
        learned = {name: p for name, p in owner.named_parameters() if p.requires_grad}
        fixed = {name: p.data for name, p in owner.named_parameters() if not p.requires_grad}
        fixed |= dict(owner.named_buffers())
        names = [*learned, *fixed]
        used: list[bool] = []

        def joint(*tensors: Tensor) -> list[Tensor]:
            values = list(tensors[: len(names)])
            values[: len(learned)] = [
                value.detach().requires_grad_() for value in values[: len(learned)]
            ]
            inputs = tensors[len(names) : len(names) + len(batch)]
            numbers = dict(zip(scheduled, tensors[len(names) + len(batch) :], strict=True))
            loss = functional_call(owner, dict(zip(names, values, strict=True)), inputs, numbers)
            gradients = torch.autograd.grad(loss, values[: len(learned)], allow_unused=True)
            used[:] = [gradient is not None for gradient in gradients]
            return [loss.detach(), *(gradient for gradient in gradients if gradient is not None)]

        # Detached, they share the memory of the parameters: a graph without autograd asks for that.
        self._state = [*(parameter.detach() for parameter in learned.values()), *fixed.values()]
        self.examples = [*self._state, *batch, *scheduled.values()]
        self.graph = traced(joint, self.examples)
        self._depended_on = [name for name, needed in zip(learned, used, strict=True) if needed]
        self._no_gradients = dict.fromkeys(name for name, _ in owner.named_parameters())

    def called_by(self, function: Callable[..., Sequence[Any]]) -> Gradients:
        """A function to the loss and the gradients by name.

        Args:
            function: The graph, or what it was compiled to.
        """

        def run(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
            inputs = (*contiguous(batch), *scheduled.values())
            loss, *gradients = function(*self._state, *inputs)
            there = dict(zip(self._depended_on, gradients, strict=True))
            return loss, {**self._no_gradients, **there}

        return run


def traced(function: Callable[..., list[Tensor]], examples: list[Tensor]) -> fx.GraphModule:
    """What a function of tensors does to tensors like the examples, its backward passes too.

    Raises:
        NotStageable: If it cannot be traced.
    """
    trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
    try:
        # On a GPU autograd would trace the backward pass in a thread of its own.
        with torch.autograd.set_multithreading_enabled(False), quiet():
            return trace(*examples)
    except Exception as error:  # whatever stops the tracer, the answer is the same
        raise NotStageable(in_words(error)) from error


def contiguous(batch: Batch) -> Batch:
    """In the layout that a graph reads, which does not ask for the strides of what it gets."""
    return tuple(part.contiguous() for part in batch)
