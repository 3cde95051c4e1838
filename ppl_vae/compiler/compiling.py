"""A staged graph made fast: loss and gradients as one compiled function.

`torch.compile` of a staged loss compiles the loss and its backward pass apart, and autograd runs
between them in every step. Traced together they are one graph without autograd, which inductor
fuses across the two. The entry points for that, `make_fx` and `torch._inductor.compile`, are young:
they stand here, in `joint_graph` and in `products` only, and where they fail `torch.compile` takes
their place.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import pyro
import torch
import torch._inductor
from torch import Tensor, fx, nn
from torch.func import functional_call

from ppl_vae.compiler.comparison import (
    Batch,
    Gradients,
    NotStageable,
    check_same,
    first_line,
    with_gradients,
)
from ppl_vae.compiler.onednn import use_onednn
from ppl_vae.compiler.tracing import JointGraph, contiguous, traced
from ppl_vae.compiler.trial_runs import check_state, quiet
from ppl_vae.errors import InputError
from ppl_vae.machine.randomness import isolated

__all__ = [
    "Engine",
    "check_engine",
    "compile_measurement",
    "compile_programs",
    "compile_staged",
    "compiled_if_possible",
]

Engine = Literal["auto", "eager", "compiled"]

# Inductor would draw its own random numbers; falling back, the same seed gives the same noise. What
# it would assert in every step is asserted once, by comparing the results.
_OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    "size_asserts": False,
    "alignment_asserts": False,
    # On a GPU it would choose kernels by their speed today, which may sum in another order. And the
    # whole step is captured, which a graph within the graph would prevent.
    "deterministic": True,
    "triton.cudagraphs": False,
}

# By the precision of the matrix products: the error of a loss or of an entry of a gradient,
# relative to the largest one. Inductor sums in another order, and rounds less in bfloat16.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 5e-2}


def check_engine(engine: str) -> None:
    """Raises an InputError for an unknown engine."""
    if engine not in get_args(Engine):
        raise InputError(f"--engine: expected one of {', '.join(get_args(Engine))}; got {engine!r}")


def compile_staged(
    staged: nn.Module,
    batch: Batch,
    scheduled: dict[str, Tensor] | None = None,
    precision: torch.dtype | None = None,
) -> Gradients:
    """Compiles the loss and its gradients for a batch's shape, and checks them up to rounding.

    Args:
        staged: What `stage` returned.
        batch: Images (B, C, H, W), and labels (B,) where the model takes them.
        scheduled: The scalars that the objective schedules.
        precision: That of the matrix products; the parameters' own unless given.

    Returns:
        A function of batches of that shape to the loss and its gradients, those of
        `staging.with_gradients`.

    Raises:
        NotStageable: If this machine cannot compile it, or the result is another function.
    """
    batch, scheduled = contiguous(batch), scheduled or {}
    relative = _rounding(precision or next(staged.parameters()).dtype)
    reason = ""
    with isolated(batch[0].device, staged):
        for compile_ in (_compile_jointly, _compile_loss):
            try:
                compiled = compile_(staged, batch, scheduled)
                check_same(with_gradients(staged), compiled, staged, batch, scheduled, relative)
            except NotStageable as error:
                reason = reason or str(error)
            except Exception as error:  # torch.compile's, at once or in the first call
                reason = reason or f"cannot be compiled: {first_line(error)}"
            else:
                return compiled
    raise NotStageable(reason)


def compile_programs(
    programs: nn.Module,
    batch: Batch,
    scheduled: dict[str, Tensor] | None = None,
    precision: torch.dtype | None = None,
) -> Gradients:
    """`stage` and `compile_staged` in one, for programs that have a part in their backward pass.

    A staged loss has autograd's backward pass. What hooks and backward passes of one's own do, and
    programs that differentiate, such as a guide that climbs a bound, are traced here while they
    run, and compared bit for bit.

    Args:
        programs: A `PairLoss`.
        batch: Images (B, C, H, W), and labels (B,) where the model takes them.
        scheduled: The scalars that the objective schedules.
        precision: That of the matrix products; the parameters' own unless given.

    Returns:
        What `compile_staged` does.

    Raises:
        NotStageable: If the programs cannot be traced or compiled, or the result is another
            function.
    """
    batch, scheduled = contiguous(batch), scheduled or {}
    relative = _rounding(precision or next(programs.parameters()).dtype)
    eager = with_gradients(programs)
    with isolated(batch[0].device, programs), pyro.get_param_store().scope():
        check_state(programs, eager, batch, scheduled)
        with pyro.validation_enabled(False):
            joint = JointGraph(programs, batch, scheduled)
            same = joint.called_by(joint.graph)
            check_same(eager, same, programs, batch, scheduled, relative=0.0)
            compiled = joint.called_by(_compiled(joint.graph, joint.examples))
            check_same(eager, compiled, programs, batch, scheduled, relative)
    return compiled


def _rounding(dtype: torch.dtype) -> float:
    if dtype not in _ROUNDING:
        raise NotStageable(f"computes in {dtype}; a graph is of float64, float32 or bfloat16")
    return _ROUNDING[dtype]


def compile_measurement(programs: nn.Module, batch: Batch) -> Callable[..., Tensor]:
    """Compiles a module that runs Pyro programs and returns one tensor, without gradients.

    Args:
        programs: The module, in evaluation mode.
        batch: Images (B, C, H, W), and labels (B,) where it takes them.

    Returns:
        A function of batches of that shape to the tensor, on the same parameters. It draws the
        random numbers that the module would draw.

    Raises:
        NotStageable: If the module cannot be traced or compiled, or the result is another function.
    """
    batch = contiguous(batch)
    named = {**dict(programs.named_parameters()), **dict(programs.named_buffers())}
    state = [tensor.detach() for tensor in named.values()]

    def measured(*tensors: Tensor) -> list[Tensor]:
        values = dict(zip(named, tensors[: len(named)], strict=True))
        return [functional_call(programs, values, tensors[len(named) :])]

    def called_by(function: Callable[..., Any]) -> Callable[..., Tensor]:
        return lambda *batch: function(*state, *contiguous(batch))[0]

    with torch.no_grad(), isolated(batch[0].device, programs), pyro.get_param_store().scope():
        check_state(programs, programs, batch, {})
        with pyro.validation_enabled(False):
            examples = [*state, *batch]
            graph = traced(measured, examples)
            reference = _alone(programs)
            check_same(reference, _alone(called_by(graph)), programs, batch, {}, relative=0.0)
            run = called_by(_compiled(graph, examples))
            check_same(reference, _alone(run), programs, batch, {}, relative=1e-5)
    return run


def compiled_if_possible(
    what: str, modules: Iterable[nn.Module], batch: Batch
) -> list[Callable[..., Tensor]]:
    """`compile_measurement` of all of them, or none where one cannot be compiled, and says so.

    Args:
        what: What they do, for the line that says so.
        modules: What runs Pyro programs, or networks alone, and returns one tensor.
        batch: What each takes.
    """
    eager = list(modules)
    try:
        return [compile_measurement(module, batch) for module in eager]
    except NotStageable as error:
        print(f"engine: {what} is eager, because the pair {error}", file=sys.stderr)
        return list(eager)


def _alone(function: Callable[..., Tensor]) -> Gradients:
    return lambda *batch, **scheduled: (function(*batch, **scheduled), {})


def _compile_jointly(staged: nn.Module, batch: Batch, scheduled: dict[str, Tensor]) -> Gradients:
    joint = JointGraph(staged, batch, scheduled)
    return joint.called_by(_compiled(joint.graph, joint.examples))


def _compiled(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    compile_graph: Callable[..., Any] = torch._inductor.compile
    try:
        with quiet():
            use_onednn(graph)
            return compile_graph(graph, examples, options=_OPTIONS)
    except Exception as error:  # a missing compiler, an operation that it lacks, ...
        raise NotStageable(f"cannot be compiled: {first_line(error)}") from error


def _compile_loss(staged: nn.Module, batch: Batch, scheduled: dict[str, Tensor]) -> Gradients:
    compiled = torch.compile(staged, dynamic=False, fullgraph=True, options=_OPTIONS)
    return with_gradients(staged, compiled)
