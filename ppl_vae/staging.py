"""A Pyro pair and its objective as one plain tensor graph, which Pyro never runs in again.

A step of Pyro spends much of its time in Python: handlers, traces, distribution objects. None of
that depends on the numbers. `stage` runs the programs once under `torch.export`, keeps the tensor
operations that they perform on the pair's own parameters, and proves on two batches that loss,
gradients and buffers come out the same, bit for bit. What cannot be proved is refused.
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from guides import Guide
from models import Model
from ppl_vae.isolation import isolated
from ppl_vae.objectives import Objective

__all__ = ["NotStageable", "compile_staged", "stage"]


Loss = Callable[[Tensor], Tensor]


class NotStageable(Exception):
    """A pair whose staged graph is not its eager program: one line that says why."""


class _Loss(nn.Module):
    """The objective of a pair as a module, which is what a graph is exported from."""

    def __init__(self, model: Model, guide: Guide, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.objective = objective

    def forward(self, x: Tensor) -> Tensor:
        return self.objective.loss(self.model, self.guide, x)


def stage(model: Model, guide: Guide, objective: Objective, x: Tensor) -> nn.Module:
    """Traces the objective of a pair into a tensor graph and checks it against the programs.

    The graph is that of the pair's present mode (training or evaluation) and of the shape of x.

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
        x: Images (B, C, H, W).

    Returns:
        A module that maps images of that shape to the loss, on the very parameters of the pair.

    Raises:
        NotStageable: If the programs cannot be traced, or the graph differs from them.
    """
    eager = _Loss(model, guide, objective)
    with isolated(x.device, eager), pyro.get_param_store().scope():
        try:
            with pyro.validation_enabled(True):
                eager(x)  # fills lazy caches with real tensors, so that traced ones stay nowhere
            with pyro.validation_enabled(False):
                staged = torch.export.export(eager, (x,), strict=False).module(check_guards=False)
        except Exception as error:  # whatever stops the tracer, the answer is the same
            raise NotStageable(f"cannot be traced: {_first_line(error)}") from error
        with pyro.validation_enabled(False):
            _check(eager, staged, x, relative=0.0)
    return staged


def compile_staged(staged: nn.Module, x: Tensor) -> Loss:
    """Compiles a staged graph for the shape of x, and checks it against the graph up to rounding.

    Args:
        staged: What `stage` returned.
        x: Images (B, C, H, W).

    Returns:
        A function of images of that shape, on the same parameters. Inductor may round otherwise.

    Raises:
        NotStageable: If this machine cannot compile it, or the result is another function.
    """
    # Inductor would draw its own random numbers; falling back, the same seed gives the same noise.
    options: dict[str, Any] = {"fallback_random": True}
    with isolated(x.device, staged):
        compiled = torch.compile(staged, dynamic=False, fullgraph=True, options=options)
        try:
            _check(staged, compiled, x, relative=1e-12 if x.dtype == torch.float64 else 1e-4)
        except NotStageable:
            raise
        except Exception as error:  # a missing compiler, an operation that it lacks, ...
            raise NotStageable(f"cannot be compiled: {_first_line(error)}") from error
    return compiled


def _check(reference: nn.Module, other: Loss, x: Tensor, relative: float) -> None:
    """Compares loss, gradients and buffers on two batches under the same random numbers."""
    # The second batch has other content, so that a branch on the data cannot stay unnoticed.
    for seed, batch in enumerate((x, x[:1].expand_as(x).contiguous())):
        expected = _outcome(reference, reference, batch, seed)
        got = _outcome(other, reference, batch, seed)
        for name, value in expected.items():
            other_value = got[name]
            if value is None and other_value is None:
                continue
            if value is None or other_value is None:
                raise NotStageable(f"{name} is missing on one side")
            error = (other_value - value).abs().max().item()
            if not error <= relative * value.abs().max().item():
                raise NotStageable(f"{name} is off by {error:.1e}")


def _outcome(loss_of: Loss, owner: nn.Module, x: Tensor, seed: int) -> dict[str, Tensor | None]:
    parameters = {n: p for n, p in owner.named_parameters() if p.requires_grad}
    before = {name: buffer.clone() for name, buffer in owner.named_buffers()}
    torch.manual_seed(seed)
    loss = loss_of(x)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    outcome: dict[str, Tensor | None] = {"the loss": loss.detach()}
    for name, gradient in zip(parameters, gradients, strict=True):
        outcome[f"the gradient of {name}"] = gradient
    for name, buffer in owner.named_buffers():
        outcome[f"the buffer {name}"] = buffer.clone()
        buffer.copy_(before[name])
    return outcome


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
