"""A compiled step in bfloat16 may round otherwise than the programs, and differ in nothing else."""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from guides import DiagonalNormal, Guide
from models import MLP, VAE, Model, Spec
from ppl_vae.compiler.comparison import (
    Gradients,
    Outcome,
    Trial,
    difference,
    with_gradients,
)
from ppl_vae.compiler.compiling import compile_programs, parted
from ppl_vae.objectives import Objective
from ppl_vae.training.precision import matrix_precision
from ppl_vae.training.step import SVIStep

BATCH = (torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


class AtTheOptimum(nn.Module):
    """Squared distance of a network to its own outputs in float32: all its gradient is rounding.

    Args:
        away: How far the outputs are from there.
    """

    def __init__(self, away: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.network = MLP((1, 8, 8), (20,), hidden=(40, 40))
        # No `Network`, so that no precision is its own.
        self.best = deepcopy(self.network.layers).requires_grad_(False)
        self.away = away

    def forward(self, x: Tensor) -> Tensor:
        return (self.network(x) - self.best(x.flatten(1)) - self.away).square().mean()


def in_float32(programs: nn.Module) -> Gradients:
    def run(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, Outcome]:
        with matrix_precision("float32", programs):
            return with_gradients(programs)(*batch, **scheduled)

    return run


def test_where_all_of_a_gradient_is_rounding_there_is_a_graph() -> None:
    """As where a trained run is gone on with."""
    programs = AtTheOptimum()
    unrounded = in_float32(programs)
    with matrix_precision("bfloat16", programs):
        compiled = compile_programs(programs, BATCH, {}, torch.bfloat16, unrounded)
        assert not parted(Trial(programs, BATCH, {}), compiled, torch.bfloat16, unrounded)


@dataclass(frozen=True)
class ToItself(Objective):
    """The same of an encoder, as an objective."""

    best: nn.Module

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return (guide.encoder(x) - self.best(x.flatten(1))).square().mean()


def test_a_step_at_the_optimum_compiles_and_stays_compiled() -> None:
    spec = Spec((1, 8, 8), "real", 10)
    network = partial(MLP, hidden=(40, 40))
    guide = DiagonalNormal(spec, network)
    best = deepcopy(guide.encoder.layers).requires_grad_(False)
    step = SVIStep(VAE(spec, network=network), guide, ToItself(best), "bfloat16")
    step.compile(BATCH)
    assert not step.drop_stale_graph(BATCH)


def test_other_rounding_of_the_same_size_is_no_other_function() -> None:
    programs = AtTheOptimum()
    unrounded = in_float32(programs)
    trial = Trial(programs, BATCH, {})

    def mirrored(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, Outcome]:
        """Off by nine tenths of the programs' rounding, to the other side."""
        loss, rounded = with_gradients(programs)(*batch, **scheduled)
        exact = unrounded(*batch, **scheduled)[1]
        pairs = {name: (exact[name], gradient) for name, gradient in rounded.items()}
        other = {
            n: None if g is None or e is None else 1.9 * e - 0.9 * g for n, (e, g) in pairs.items()
        }
        return loss, other

    with matrix_precision("bfloat16", programs):
        assert parted(trial, mirrored, torch.bfloat16)
        assert not parted(trial, mirrored, torch.bfloat16, unrounded)


@pytest.mark.parametrize("away", [0.0, 1.0])
def test_another_function_is_still_seen(away: float) -> None:
    programs = AtTheOptimum(away)
    unrounded = in_float32(programs)
    trial = Trial(programs, BATCH, {})

    def other(*batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, Outcome]:
        loss, gradients = with_gradients(programs)(*batch, **scheduled)
        # Near the optimum four times the rounding; elsewhere a tenth of the gradient.
        factor = 5.0 if away == 0.0 else 1.1
        return loss, {name: None if g is None else factor * g for name, g in gradients.items()}

    with matrix_precision("bfloat16", programs):
        assert parted(trial, other, torch.bfloat16, unrounded)


@pytest.mark.parametrize(
    ("got", "same"), [(1.1, True), (1.19, True), (1.21, False), (0.79, False), (0.81, True)]
)
def test_twice_the_rounding_is_allowed(got: float, same: bool) -> None:
    """An outcome as far from the unrounded one as the right one is may lie on its other side."""

    def outcome(gradient: float) -> Outcome:
        return {"the gradient of w": torch.tensor([gradient], dtype=torch.float64)}

    expected, other, exact = map(outcome, (1.0, got, 1.1))
    assert (difference(expected, other, 1e-3, exact) is None) == same
    assert difference(expected, other, 1e-3) is not None


def test_float32_inside_of_bfloat16_is_float32() -> None:
    programs = AtTheOptimum()
    plain = with_gradients(programs)
    expected = plain(*BATCH)[0]
    with matrix_precision("bfloat16", programs):
        assert torch.equal(in_float32(programs)(*BATCH)[0], expected)
        assert not torch.equal(plain(*BATCH)[0], expected)
        assert programs.network.precision == torch.bfloat16
    assert programs.network.precision is None
