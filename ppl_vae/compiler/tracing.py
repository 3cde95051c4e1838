"""A module's result and its gradients as one graph of tensor operations, without autograd.

The backward pass runs while it is traced. So the graph contains hooks, custom backward passes and
the derivatives that programs take themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compiler.comparison import Batch, NotCompilable, Outcome, Trial
from ppl_vae.compiler.trial_runs import in_words, quiet

__all__ = ["JointGraph", "contiguous", "traced"]

Function = Callable[[Tensor], tuple[Tensor, ...]]


class JointGraph:
    """The graph, a function of tensors in a list to tensors in a list, and how to call it.

    Called on a batch, it runs as it is, operation by operation.

    Args:
        trial: The module, whose parameters the gradients are for, and its arguments.
        gradients: Whether they are wanted.

    Attributes:
        graph: Maps parameters, buffers and arguments to the result and the gradients that there
            are.
        examples: Arguments of it.
        images: Which of them are the images.

    Raises:
        NotCompilable: If the module cannot be traced.
    """

    def __init__(self, trial: Trial, gradients: bool = True) -> None:
        owner, batch, scheduled = trial.programs, trial.batch, trial.scheduled
        parameters = dict(owner.named_parameters())
        learned = {name: p for name, p in parameters.items() if gradients and p.requires_grad}
        fixed = {name: p.data for name, p in parameters.items() if name not in learned}
        fixed |= dict(owner.named_buffers())
        names = [*learned, *fixed]
        used: list[bool] = []

        def joint(*tensors: Tensor) -> list[Tensor]:
            values = list(tensors[: len(names)])
            free = [value.detach().requires_grad_() for value in values[: len(learned)]]
            values[: len(learned)] = free
            inputs = tensors[len(names) : len(names) + len(batch)]
            numbers = dict(zip(scheduled, tensors[len(names) + len(batch) :], strict=True))
            result = functional_call(owner, dict(zip(names, values, strict=True)), inputs, numbers)
            found = torch.autograd.grad(result, free, allow_unused=True) if free else []
            used[:] = [gradient is not None for gradient in found]
            return [result.detach(), *(gradient for gradient in found if gradient is not None)]

        # Detached, they share the memory of the parameters: a graph without autograd asks for that.
        self._state = [*(parameter.detach() for parameter in learned.values()), *fixed.values()]
        self.examples = [*self._state, *contiguous(batch), *scheduled.values()]
        self.images = slice(len(self._state), len(self._state) + 1)
        trace = make_fx(joint, tracing_mode="fake", _allow_non_fake_inputs=True)
        try:
            # On a GPU autograd would trace the backward pass in a thread of its own.
            with torch.autograd.set_multithreading_enabled(False), quiet():
                self.graph = trace(*self.examples)
        except Exception as error:  # whatever stops the tracer, the answer is the same
            raise NotCompilable(in_words(error)) from error
        self._depended_on = [name for name, needed in zip(learned, used, strict=True) if needed]
        self._no_gradients: Outcome = dict.fromkeys(parameters) if gradients else {}

    def __call__(self, *batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, Outcome]:
        return self.called_by(self.graph, *batch, **scheduled)

    def called_by(
        self, function: Callable[..., Sequence[Any]], *batch: Tensor, **scheduled: Tensor
    ) -> tuple[Tensor, Outcome]:
        """The result of a function with the graph's arguments, and the gradients by name.

        Args:
            function: The graph, or its compiled form.
            *batch: The arguments of the module by position.
            **scheduled: Its arguments by name.
        """
        result, *gradients = function(*self._state, *contiguous(batch), *scheduled.values())
        there = dict(zip(self._depended_on, gradients, strict=True))
        return result, {**self._no_gradients, **there}


def contiguous(batch: Batch) -> Batch:
    """The batch in the layout of a graph, which does not check the strides of its arguments."""
    return tuple(part.contiguous() for part in batch)


def traced(function: Function, first: Tensor, second: Tensor) -> Function:
    """The tensor operations of a function of one shape, or the function itself.

    A call of a pair's programs is mostly Pyro's own bookkeeping where chains are few. A graph of
    operations, gradients included, has none of it. It is used only if it gives the numbers of
    the function at both points; what cannot be traced stays as it is.

    Args:
        function: Without randomness, of tensors of one shape.
        first: Where to trace it.
        second: Another argument, to compare at.
    """
    first, second = first.contiguous(), second.contiguous()  # a graph is of strides too
    expected = [function(point) for point in (first, second)]
    try:
        graph: Any = make_fx(function)(first)
        same = all(
            torch.equal(a, b)
            for point, values in zip((first, second), expected, strict=True)
            for a, b in zip(graph(point), values, strict=True)
        )
    except Exception:  # whatever stops the tracer, the function is there
        return function
    return (lambda point: graph(point.contiguous())) if same else function
