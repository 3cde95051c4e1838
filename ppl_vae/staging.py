"""A Pyro pair and its objective as one plain tensor graph, which Pyro never runs in again.

A step of Pyro spends much of its time in Python: handlers, traces, distribution objects. None of
that depends on the numbers. `stage` runs the programs once under `torch.export`, keeps the tensor
operations that they perform on the pair's own parameters, and proves on two batches that loss,
gradients and buffers come out the same, bit for bit. What cannot be proved is refused. So is what
two batches cannot tell: a parameter that no module owns, which would be a constant of the graph,
whatever the programs keep in Python, which may change them later on, and a backward pass that they
write themselves, which may differ from the graph's with other numbers only.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from guides import Guide
from models import Model
from ppl_vae.isolation import isolated
from ppl_vae.objectives import Objective
from ppl_vae.own_backward import hooked, hooked_parameters, own_backward
from ppl_vae.python_state import changed, moved, python_state

__all__ = [
    "NotStageable",
    "PairLoss",
    "check_same",
    "check_state",
    "first_line",
    "in_words",
    "quiet",
    "stage",
    "trace",
    "with_gradients",
]


Loss = Callable[..., Tensor]
Gradients = Callable[..., tuple[Tensor, dict[str, Tensor | None]]]
Batch = tuple[Tensor, ...]


class NotStageable(Exception):
    """A pair whose staged graph is not its eager program: what the pair is or has, in one line."""


class PairLoss(nn.Module):
    """The objective of a pair as a module, which is what a graph is exported from.

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
    """

    def __init__(self, model: Model, guide: Guide, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.objective = objective

    def forward(self, *batch: Tensor, **scheduled: Tensor) -> Tensor:
        return self.objective.loss(self.model, self.guide, *batch, **scheduled)


def stage(
    model: Model,
    guide: Guide,
    objective: Objective,
    batch: Batch,
    scheduled: dict[str, Tensor] | None = None,
) -> nn.Module:
    """Traces the objective of a pair into a tensor graph and checks it against the programs.

    The graph is that of the present mode (training or evaluation) and of the shape of the batch.

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
        batch: Images (B, C, H, W), and labels (B,) where the model takes them.
        scheduled: The scalars that the objective schedules.

    Returns:
        A module that maps batches of that shape to the loss, on the very parameters of the pair.

    Raises:
        NotStageable: If the programs cannot be traced, or the graph differs from them.
    """
    eager = PairLoss(model, guide, objective)
    scheduled = scheduled or {}
    with isolated(batch[0].device, eager), pyro.get_param_store().scope():
        staged = trace(eager, batch, scheduled)
        with pyro.validation_enabled(False):
            pair = with_gradients(eager), with_gradients(eager, staged)
            check_same(*pair, eager, batch, scheduled, relative=0.0)
    return staged


def trace(programs: nn.Module, batch: Batch, scheduled: dict[str, Tensor]) -> nn.Module:
    """The tensor operations of a module that runs Pyro programs, not yet compared with them.

    Args:
        programs: The module.
        batch: What it takes by position.
        scheduled: What it takes by name.

    Raises:
        NotStageable: If it cannot be traced, has a parameter of its own, keeps state in Python, or
            has a part of its backward pass written by hand.
    """
    # Of a view of more data the tracer would make the shape of these data unknowns of the graph.
    batch = tuple(part.clone() for part in batch)
    hooks: list[str] = []

    def watched(*batch: Tensor, **scheduled: Tensor) -> Tensor:
        nonlocal hooks
        with hooked() as hooks:  # of the last run: Pyro's validation puts some on tensors itself
            return programs(*batch, **scheduled)

    reasons = [*own_backward(check_state(programs, watched, batch, scheduled)), *hooks]
    if reasons:
        raise NotStageable(reasons[0])
    try:
        with pyro.validation_enabled(False), warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            exported = torch.export.export(programs, batch, scheduled, strict=False)
            return exported.module(check_guards=False)
    except Exception as error:  # whatever stops the tracer, the answer is the same
        raise NotStageable(in_words(error)) from error


def check_state(
    programs: nn.Module, run: Callable[..., Any], batch: Batch, scheduled: dict[str, Tensor]
) -> Any:
    """Refuses programs whose state no graph of them could have, whatever traces it.

    It runs them twice, first with Pyro's validation on. That also fills lazy caches with real
    tensors, so that traced ones stay nowhere.

    Args:
        programs: The module.
        run: What is to be traced: the module, or its gradients too.
        batch: What it takes by position.
        scheduled: What it takes by name.

    Returns:
        What the second run returned, which was on other images.

    Raises:
        NotStageable: If it does not run, has a parameter that no module owns or one with a hook,
            or keeps state in Python.
    """
    kept = python_state(programs, beside=False)
    tensors = {name: tensor.clone() for name, tensor in programs.state_dict().items()}
    try:
        with pyro.validation_enabled(True), poutine.trace(param_only=True) as sites:
            run(*batch, **scheduled)
        names = changed(kept, python_state(programs, beside=False))
        now = programs.state_dict()
        if names and not all(torch.equal(now[name], value) for name, value in tensors.items()):
            raise NotStageable(f"sets up {names[0]} with its first images; call it once before")
        with pyro.validation_enabled(False), moved(programs) as changes:
            result = run(*_other(batch), **scheduled)
    except NotStageable:
        raise
    except Exception as error:
        raise NotStageable(in_words(error)) from error
    _check_owned(sites.trace, programs)
    reasons = [*changes, *hooked_parameters(programs)]
    if reasons:
        raise NotStageable(reasons[0])
    return result


def in_words(error: Exception) -> str:
    """The tracer's commonest refusals, which it words for its own developers."""
    reason = first_line(error)
    if "data-dependent" in reason:
        return "cannot be traced: a branch in Python depends on the data; use torch.where"
    if "fake tensor" in reason:
        return (
            "cannot be traced: a program differentiates, or keeps a tensor that depends on its "
            "arguments"
        )
    return f"cannot be traced: {reason}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps tracers and compilers from logging and printing what the caller is told anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


def _check_owned(sites: poutine.Trace, programs: nn.Module) -> None:
    # By their memory: an estimator may hold a parameter constant, which is another tensor then.
    owned = {parameter.untyped_storage().data_ptr() for parameter in programs.parameters()}
    for name in sites.param_nodes:
        node: Any = sites.nodes[name]
        value = node["value"]
        # Pyro gives constrained values the parameter that they are made from.
        free = value.unconstrained() if hasattr(value, "unconstrained") else value
        if free.untyped_storage().data_ptr() not in owned:
            raise NotStageable(f"has a parameter {name} that no module owns; make it a PyroParam")


def with_gradients(owner: nn.Module, loss_of: Loss | None = None) -> Gradients:
    """A loss together with its gradients, by autograd.

    Args:
        owner: Whose parameters the gradients are for.
        loss_of: The loss; the owner itself unless given.

    Returns:
        A function to the detached loss, and the gradient for each parameter of `owner` by name,
        None where the loss does not depend on it.
    """
    parameters = dict(owner.named_parameters())
    evaluate = owner if loss_of is None else loss_of

    def run(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        loss = evaluate(*batch, **scheduled)
        learned = {name: p for name, p in parameters.items() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        none: dict[str, Tensor | None] = dict.fromkeys(parameters)
        return loss.detach(), {**none, **dict(zip(learned, gradients, strict=True))}

    return run


def check_same(
    reference: Gradients,
    other: Gradients,
    owner: nn.Module,
    batch: Batch,
    scheduled: dict[str, Tensor],
    relative: float,
) -> None:
    """Compares loss, gradients and buffers on two batches under the same random numbers.

    Args:
        reference: What is right.
        other: What is to be checked.
        owner: Whose parameters and buffers they are.
        batch: Images, and labels where the model takes them.
        scheduled: The scalars that the objective schedules.
        relative: The error allowed, relative to the largest entry; of a gradient that is
            small, to a tenth of the largest of all.

    Raises:
        NotStageable: If they differ.
    """
    # The second has other content, so that a branch on the data cannot stay unnoticed.
    for seed, parts in enumerate((batch, _other(batch))):
        try:
            expected = _outcome(partial(reference, *parts, **scheduled), owner, seed)
            got = _outcome(partial(other, *parts, **scheduled), owner, seed)
        except Exception as error:
            raise NotStageable(f"has a graph that does not run: {first_line(error)}") from error
        every = [value for name, value in expected.items() if name.startswith("the gradient of")]
        sizes = [value.abs().max().item() for value in every if value is not None and value.numel()]
        largest = max(sizes, default=0.0)
        for name, value in expected.items():
            other_value = got[name]
            if value is None and other_value is None:
                continue
            if value is None or other_value is None:
                raise NotStageable(f"has a graph in which {name} is missing on one side")
            if torch.equal(value, other_value):
                continue
            value, other_value = value.double(), other_value.double()  # a buffer may be a mask
            difference = (other_value - value).abs().max().item()
            scale = value.abs().max().item()
            if name.startswith("the gradient of"):
                scale = max(scale, 0.1 * largest)
            if not difference <= relative * scale:
                raise NotStageable(f"has a graph in which {name} is off by {difference:.1e}")


def _other(batch: Batch) -> Batch:
    """A batch of other images, half of them the same one: for batch statistics of another kind."""
    images, *labels = batch
    other = images.roll(1, -1)
    half = (len(images) + 1) // 2
    other[half:] = other[0].clone()
    return other, *(part.index_fill(0, torch.arange(half, len(part), device=part.device), 0)
                    for part in labels)  # fmt: skip


def _outcome(
    run: Callable[[], tuple[Tensor, dict[str, Tensor | None]]], owner: nn.Module, seed: int
) -> dict[str, Tensor | None]:
    before = {name: buffer.clone() for name, buffer in owner.named_buffers()}
    torch.manual_seed(seed)
    loss, gradients = run()
    outcome: dict[str, Tensor | None] = {"its value": loss}
    for name, gradient in gradients.items():
        outcome[f"the gradient of {name}"] = gradient
    for name, buffer in owner.named_buffers():
        outcome[f"the buffer {name}"] = buffer.clone()
        buffer.copy_(before[name])
    return outcome


def first_line(error: Exception) -> str:
    """What the first of an error's causes says, in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
