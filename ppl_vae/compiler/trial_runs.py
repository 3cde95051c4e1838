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
from io import StringIO
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from guides import Guide
from models import Model
from ppl_vae.compiler.comparison import (
    Batch,
    NotStageable,
    check_same,
    first_line,
    other_images,
    with_gradients,
)
from ppl_vae.compiler.own_backward import hooked, hooked_parameters, own_backward
from ppl_vae.compiler.python_state import changed, moved, python_state
from ppl_vae.machine.randomness import isolated
from ppl_vae.objectives import Objective
from ppl_vae.objectives.objective import PairLoss

__all__ = ["check_state", "in_words", "quiet", "stage"]


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
        staged = _trace(eager, batch, scheduled)
        with pyro.validation_enabled(False):
            pair = with_gradients(eager), with_gradients(eager, staged)
            check_same(*pair, eager, batch, scheduled, relative=0.0)
    return staged


def _trace(programs: nn.Module, batch: Batch, scheduled: dict[str, Tensor]) -> nn.Module:
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
            result = run(*other_images(batch), **scheduled)
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
