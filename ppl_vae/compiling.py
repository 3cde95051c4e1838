"""A staged graph made fast: loss and gradients as one compiled function.

`torch.compile` of a staged loss compiles the loss and its backward pass apart, and autograd runs
between them in every step. Traced together they are one graph without autograd, which inductor
fuses across the two. The entry points for that, `make_fx` and `torch._inductor.compile`, are young:
they stand here and in `products` only, and where they fail `torch.compile` takes their place.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import pyro
import torch
import torch._inductor
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.errors import InputError
from ppl_vae.isolation import isolated
from ppl_vae.products import use_onednn
from ppl_vae.staging import (
    Batch,
    Gradients,
    NotStageable,
    check_same,
    first_line,
    quiet,
    trace,
    with_gradients,
)

__all__ = [
    "Engine",
    "check_engine",
    "compile_measurement",
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
    batch, scheduled = _contiguous(batch), scheduled or {}
    dtype = precision or next(staged.parameters()).dtype
    if dtype not in _ROUNDING:
        raise NotStageable(f"computes in {dtype}; a graph is of float64, float32 or bfloat16")
    relative = _ROUNDING[dtype]
    reason = ""
    with isolated(batch[0].device, staged):
        for compile_ in (_compile_jointly, _compile_loss):
            try:
                compiled = compile_(staged, batch, scheduled)
                check_same(with_gradients(staged), compiled, staged, batch, scheduled, relative)
            except NotStageable as error:
                reason = reason or str(error)
            except Exception as error:  # a missing compiler, an operation that it lacks, ...
                reason = reason or f"cannot be compiled: {first_line(error)}"
            else:
                return compiled
    raise NotStageable(reason)


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
    batch = _contiguous(batch)
    with torch.no_grad(), isolated(batch[0].device, programs), pyro.get_param_store().scope():
        staged = trace(programs, batch, {})
        names = [*dict(staged.named_parameters()), *dict(staged.named_buffers())]
        state = [*(p.detach() for p in staged.parameters()), *staged.buffers()]

        def measured(*tensors: Tensor) -> list[Tensor]:
            values = dict(zip(names, tensors[: len(names)], strict=True))
            return [functional_call(staged, values, tensors[len(names) :])]

        try:
            compiled = _compile(measured, [*state, *batch])
        except Exception as error:
            raise NotStageable(f"cannot be compiled: {first_line(error)}") from error

        def run(*batch: Tensor) -> Tensor:
            return compiled(*state, *_contiguous(batch))[0]

        with pyro.validation_enabled(False):
            for reference, other, relative in ((programs, staged, 0.0), (staged, run, 1e-5)):
                check_same(_alone(reference), _alone(other), programs, batch, {}, relative)
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
    learned = {name: p for name, p in staged.named_parameters() if p.requires_grad}
    fixed = {name: p.data for name, p in staged.named_parameters() if not p.requires_grad}
    fixed |= dict(staged.named_buffers())
    names, kept = [*learned, *fixed], list(fixed.values())
    used: list[bool] = []

    def joint(*tensors: Tensor) -> list[Tensor]:
        values = list(tensors[: len(names)])
        values[: len(learned)] = [
            value.detach().requires_grad_() for value in values[: len(learned)]
        ]
        inputs = tensors[len(names) : len(names) + len(batch)]
        numbers = dict(zip(scheduled, tensors[len(names) + len(batch) :], strict=True))
        loss = functional_call(staged, dict(zip(names, values, strict=True)), inputs, numbers)
        gradients = torch.autograd.grad(loss, values[: len(learned)], allow_unused=True)
        used[:] = [gradient is not None for gradient in gradients]
        return [loss.detach(), *(gradient for gradient in gradients if gradient is not None)]

    # Detached, they share the memory of the parameters: a graph without autograd asks for that.
    parameters = [parameter.detach() for parameter in learned.values()]
    compiled = _compile(joint, [*parameters, *kept, *batch, *scheduled.values()])
    depended_on = [name for name, needed in zip(learned, used, strict=True) if needed]
    no_gradients = dict.fromkeys(name for name, _ in staged.named_parameters())

    def run(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        inputs = (*_contiguous(batch), *scheduled.values())
        loss, *gradients = compiled(*parameters, *kept, *inputs)
        return loss, {**no_gradients, **dict(zip(depended_on, gradients, strict=True))}

    return run


def _compile(function: Callable[..., list[Tensor]], examples: list[Tensor]) -> Callable[..., Any]:
    # On a GPU autograd would trace the backward pass in a thread of its own.
    with torch.autograd.set_multithreading_enabled(False):
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
    compile_graph: Callable[..., Any] = torch._inductor.compile
    with quiet():
        use_onednn(graph)
        return compile_graph(graph, examples, options=_OPTIONS)


def _contiguous(batch: Batch) -> Batch:
    """In the layout that a graph reads, which does not ask for the strides of what it gets."""
    return tuple(part.contiguous() for part in batch)


def _compile_loss(staged: nn.Module, batch: Batch, scheduled: dict[str, Tensor]) -> Gradients:
    compiled = torch.compile(staged, dynamic=False, fullgraph=True, options=_OPTIONS)
    return with_gradients(staged, compiled)
