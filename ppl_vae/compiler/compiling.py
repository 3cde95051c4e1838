"""Pyro programs made fast: their result and its gradients as one compiled function.

A step of Pyro spends much of its time in Python: handlers, traces, distribution objects. None of
that depends on the numbers. So the tensor operations that the programs perform are traced once,
compared with the programs, bit for bit, compiled by inductor, and compared once more, up to
rounding. Where they differ the pair is refused.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor, fx, nn

from ppl_vae.compiler.comparison import (
    Batch,
    Gradients,
    NotCompilable,
    Outcome,
    Trial,
    check_same,
    first_line,
    outcomes,
    relative_distance,
    with_gradients,
)
from ppl_vae.compiler.onednn import use_onednn
from ppl_vae.compiler.tracing import JointGraph
from ppl_vae.compiler.trial_runs import check_state, quiet
from ppl_vae.compiler.uniform import draw_at_once
from ppl_vae.compiler.zeros import skip_zeros
from ppl_vae.errors import InputError
from ppl_vae.machine.randomness import isolated

__all__ = [
    "Engine",
    "check_engine",
    "compile_graph",
    "compile_measurement",
    "compile_programs",
    "compiled_if_possible",
    "parted",
    "trace_programs",
]

Engine = Literal["auto", "eager", "compiled"]

# With fallback_random the same seed gives the noise of the programs. Sizes and alignments are
# checked once, by comparing the results, rather than in every step.
_OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    # Torch 2.11 would move one draw of random numbers past another.
    "reorder_for_locality": False,
    "size_asserts": False,
    "alignment_asserts": False,
    # On a CPU tanh x = 2 / (1 + exp(-2 x)) - 1 takes less than half of the time. Its error is about
    # 1e-7 in float32 wherever x lies, so that small values lose digits.
    "cpp.use_decompose_tanh": True,
    # On a GPU kernels chosen by their speed today might sum in another order, and a CUDA graph
    # within the graph would keep the whole step from being captured.
    "deterministic": True,
    "triton.cudagraphs": False,
}

# By the precision of the matrix products: the error of a loss or of an entry of a gradient,
# relative to the largest one. Inductor sums in another order, and rounds less in bfloat16.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 5e-2}
_ROUNDED_OPERANDS = 1e-2  # where a GPU may round those in float32 to ten bits of mantissa

# Programs that choose draws by their weights may choose others in a graph, where rounding decides.
# A wrong graph is wrong under every seed.
_SEEDS = (0, 2, 4)


def check_engine(engine: str) -> None:
    """Raises an InputError for an unknown engine."""
    if engine not in get_args(Engine):
        raise InputError(f"--engine: expected one of {', '.join(get_args(Engine))}; got {engine!r}")


def trace_programs(
    programs: nn.Module, batch: Batch, scheduled: dict[str, Tensor] | None = None
) -> JointGraph:
    """Traces a loss and its gradients, and compares them with those of the programs, bit for bit.

    The graph is that of the present mode (training or evaluation) and of the shape of the batch.

    Args:
        programs: A `PairLoss`.
        batch: Images (B, C, H, W), and labels (B,) where the model takes them.
        scheduled: The scalars that the objective schedules.

    Returns:
        A function of batches of that shape to the loss and its gradients, those of
        `with_gradients`, on the very parameters of the pair.

    Raises:
        NotCompilable: If the programs cannot be traced, or the graph is another function.
    """
    trial = Trial(programs, batch, scheduled or {})
    with _undone(trial):
        return _traced(trial, with_gradients(programs))[0]


def compile_programs(
    programs: nn.Module,
    batch: Batch,
    scheduled: dict[str, Tensor] | None = None,
    precision: torch.dtype | None = None,
    unrounded: Gradients | None = None,
) -> Gradients:
    """Traces a loss and its gradients, compiles them, and compares both with the programs.

    Args:
        programs: A `PairLoss`.
        batch: Images (B, C, H, W), and labels (B,) where the model takes them.
        scheduled: The scalars that the objective schedules.
        precision: Of the matrix products; by default that of the parameters.
        unrounded: The programs with products in that of the parameters, where they have another:
            the compiled form may be as far from these as the programs are.

    Returns:
        A function as that of `trace_programs`, compiled.

    Raises:
        NotCompilable: If the programs cannot be traced or compiled, or the result is another
            function.
    """
    dtype = precision or next(programs.parameters()).dtype
    if dtype not in _ROUNDING:
        raise NotCompilable(f"computes in {dtype}; a graph is of float64, float32 or bfloat16")
    trial, eager = Trial(programs, batch, scheduled or {}), with_gradients(programs)
    with _undone(trial):
        rounded = batch[0].is_cuda and torch.backends.cuda.matmul.allow_tf32
        relative = max(_ROUNDING[dtype], _ROUNDED_OPERANDS if rounded else 0.0)
        return _compiled(trial, eager, *_traced(trial, eager), relative, unrounded)


def compile_measurement(programs: nn.Module, batch: Batch) -> Callable[..., Tensor]:
    """Compiles a module that runs Pyro programs and returns one tensor, without gradients.

    Args:
        programs: The module, in evaluation mode.
        batch: Images (B, C, H, W), and labels (B,) where it takes them.

    Returns:
        A function of batches of that shape to the tensor, on the same parameters. It draws the
        random numbers that the module would draw.

    Raises:
        NotCompilable: If the module cannot be traced or compiled, or gives another result.
    """

    def eager(*batch: Tensor) -> tuple[Tensor, Outcome]:
        return programs(*batch), {}

    trial = Trial(programs, batch, {})
    with torch.no_grad(), _undone(trial):
        traced = _traced(trial, eager, gradients=False)
        compiled = _compiled(trial, eager, *traced, relative=1e-5)
    return lambda *batch: compiled(*batch)[0]


def compiled_if_possible(
    what: str, modules: Iterable[nn.Module], batch: Batch
) -> list[Callable[..., Tensor]]:
    """Compiles all modules, or returns them as they are and prints why one cannot be compiled.

    Args:
        what: Their purpose, for that line.
        modules: Modules that run Pyro programs, or networks alone, and return one tensor.
        batch: The arguments of each.
    """
    eager = list(modules)
    try:
        return [compile_measurement(module, batch) for module in eager]
    except NotCompilable as error:
        print(f"engine: {what} is eager, because the pair {error}", file=sys.stderr)
        return list(eager)


def parted(
    trial: Trial,
    compiled: Gradients,
    precision: torch.dtype | None = None,
    unrounded: Gradients | None = None,
) -> bool:
    """Whether a compiled function is no longer that of the programs, on one batch.

    Args:
        trial: A `PairLoss` and its arguments; parameters, buffers, attributes and random states
            stay as they are.
        compiled: The result of `compile_programs`.
        precision: Of the matrix products; by default that of the parameters.
        unrounded: As for `compile_programs`.
    """
    # Far above rounding errors, except near an optimum.
    allowed = 0.05 if precision == torch.bfloat16 else 0.01

    def differ(seed: int) -> bool:
        expected, got = (trial.outcome(run, seed) for run in (eager, compiled))
        exact = trial.outcome(unrounded, seed) if unrounded else expected
        apart = relative_distance(expected, got)
        return apart > max(allowed, 2 * relative_distance(expected, exact))

    eager = with_gradients(trial.programs)
    with _undone(trial), pyro.validation_enabled(False):
        return all(map(differ, _SEEDS))


@contextmanager
def _undone(trial: Trial) -> Iterator[None]:
    with isolated(trial.batch[0].device, trial.programs), pyro.get_param_store().scope():
        yield


def _traced(
    trial: Trial, eager: Gradients, gradients: bool = True
) -> tuple[JointGraph, list[Outcome]]:
    """The graph, and the outcomes of the programs, to which its compiled form is compared too."""
    check_state(trial, eager)
    with pyro.validation_enabled(False):
        graph = JointGraph(trial, gradients)
        expected = outcomes(trial, eager)
        check_same(expected, outcomes(trial, graph), relative=0.0)
    return graph, expected


def _compiled(
    trial: Trial,
    eager: Gradients,
    graph: JointGraph,
    expected: list[Outcome],
    relative: float,
    unrounded: Gradients | None = None,
) -> Gradients:
    compiled = partial(graph.called_by, compile_graph(graph.graph, graph.examples, graph.images))
    with pyro.validation_enabled(False):
        for seed in _SEEDS:
            right = outcomes(trial, eager, seed) if seed else expected
            exact = outcomes(trial, unrounded, seed) if unrounded else None
            try:
                check_same(right, outcomes(trial, compiled, seed), relative, exact)
                break
            except NotCompilable:
                if seed == _SEEDS[-1]:
                    raise
    return compiled


def compile_graph(
    graph: fx.GraphModule, examples: list[Tensor], images: slice = slice(0)
) -> Callable[..., Any]:
    """The function of tensors in a list that inductor makes of a graph of tensor operations.

    Args:
        graph: Changed in place.
        examples: Arguments of it.
        images: Which of them are images, of which most pixels may be 0.

    Raises:
        NotCompilable: If inductor cannot compile it.
    """
    import torch._inductor  # takes seconds, which other verbs need not wait for

    compiled: Callable[..., Callable[..., Any]] = torch._inductor.compile
    try:
        with quiet():
            skip_zeros(graph, examples, images)
            use_onednn(graph)
            draw_at_once(graph)
            return compiled(graph, examples, options=_OPTIONS)
    except Exception as error:  # a missing compiler, an operation that it lacks, ...
        raise NotCompilable(f"cannot be compiled: {first_line(error)}") from error
