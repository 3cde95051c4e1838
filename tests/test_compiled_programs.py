"""Programs with a part in their own backward pass: compiled with it, or refused."""

from functools import partial
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution
from silently_wrong import SILENTLY_WRONG, Straight
from torch import Tensor

from guides import IAF, DiagonalNormal, SemiAmortized
from models import MLP, VAE, MixtureOfNormals, Spec
from ppl_vae.compiler.comparison import NotStageable
from ppl_vae.compiler.trial_runs import stage
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.pairs.building import build_pair
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3)
PIECES = {"model": VAE, "guide": DiagonalNormal, "network": None, "prior": None, "likelihood": None}
STEPS = 6


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, 1, 5, 4, generator=generator, dtype=torch.float64).round()


def new_step(objective: Objective, **pieces: Any) -> SVIStep:
    torch.manual_seed(1)
    chosen = {**PIECES, "network": partial(MLP, hidden=(7,)), **pieces}
    model, guide = build_pair(SPEC, chosen)
    return SVIStep(model.double(), guide.double(), objective)


class Rounded(DiagonalNormal):
    """A straight-through estimator."""

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(q.mean + Straight.apply(20 * q.mean), q.stddev).to_event(1)


class Clipped(DiagonalNormal):
    """Clips the gradient of its means, at first not at all."""

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        loc = q.mean
        if loc.requires_grad:
            largest = 0.02 + (x.mean() < 0.3)
            loc.register_hook(lambda gradient: gradient.clamp(-largest, largest))
        return dist.Normal(loc, q.stddev).to_event(1)


PAIRS: dict[str, tuple[Objective, dict[str, Any]]] = {
    "dreg": (IWAE(4, "dreg"), {}),
    "dreg with a flow": (IWAE(3, "dreg"), {"guide": IAF, "prior": MixtureOfNormals}),
    "semi-amortized": (ELBO(), {"guide": partial(SemiAmortized, steps=2)}),
    "not through its steps": (
        ELBO(particles=2),
        {"guide": partial(SemiAmortized, steps=2, through_steps=False)},
    ),
    "straight-through": (ELBO(), {"guide": Rounded}),
    "clipped": (ELBO(), {"guide": Clipped}),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_the_steps_are_those_of_the_programs(name: str) -> None:
    objective, pieces = PAIRS[name]
    outcomes = []
    for compiled in (False, True):
        step = new_step(objective, **pieces)
        if compiled:
            with pytest.raises(NotStageable):
                stage(step.model, step.guide, objective, (images(0),))
            step.compile((images(0),))
            assert step.compiled
        torch.manual_seed(2)
        losses = [step((images(number),), 1e-2).clone() for number in range(STEPS)]
        outcomes.append([*losses, *(p.detach() for p in step.parameters.values())])
    for eager, compiled in zip(*outcomes, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-8)


def test_a_hook_is_part_of_the_graph() -> None:
    """Without it the steps are others."""
    losses = []
    for guide in (Clipped, DiagonalNormal):
        step = new_step(ELBO(), guide=guide)
        step.compile((images(0),))
        torch.manual_seed(2)
        losses.append([step((images(number),), 1e-2).item() for number in range(3)])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-12)
    assert losses[0][2] != pytest.approx(losses[1][2], rel=1e-6)


class Branching(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient / 2 if gradient.abs().max() > 1e6 else gradient


class Counting(Branching):
    calls = 0

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        Counting.calls += 1
        return gradient / 2 if Counting.calls > 1000 else gradient


class OwnBackward(DiagonalNormal):
    function: type[torch.autograd.Function]

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(self.function.apply(q.mean), q.stddev).to_event(1)


class BranchingBackward(OwnBackward):
    function = Branching


class CountingBackward(OwnBackward):
    function = Counting


class CountingHook(DiagonalNormal):
    calls = 0

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        loc = q.mean
        if loc.requires_grad:
            loc.register_hook(self.count)
        return dist.Normal(loc, q.stddev).to_event(1)

    def count(self, gradient: Tensor) -> Tensor:
        self.calls += 1
        return gradient / 2 if self.calls > 1000 else gradient


WRONG_BACKWARDS = [
    (BranchingBackward, "has a backward pass of its own, that of Branching"),
    (CountingBackward, "has a backward pass of its own, that of Counting"),
    (CountingHook, "puts a hook on a tensor"),
]
WRONG_ANYHOW = [
    (guide, why)
    for guide, why in SILENTLY_WRONG
    if guide.__name__ not in ("_StraightThrough", "_Clipping")
]


@pytest.mark.parametrize(("guide", "why"), WRONG_BACKWARDS + WRONG_ANYHOW)
def test_what_either_way_would_get_wrong_is_refused(guide, why) -> None:
    step = new_step(ELBO(), guide=guide)
    x = images(0)
    x[0] = 0
    with pytest.raises(NotStageable, match=why) as caught:
        step.compile((x,))
    assert "\n" not in str(caught.value)
    assert not step.compiled
