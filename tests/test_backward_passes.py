"""Programs with a part in their own backward pass are compiled with it."""

from functools import partial
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution
from silently_wrong import Straight
from torch import Tensor

from guides import DiagonalNormal, SemiAmortized
from models import VAE, Linear, Spec
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.pairs.building import build_pair
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3)
PIECES = {
    "model": VAE,
    "guide": DiagonalNormal,
    "network": Linear,
    "prior": None,
    "likelihood": None,
}
STEPS = 6


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, 1, 5, 4, generator=generator, dtype=torch.float64).round()


def new_step(objective: Objective, **pieces: Any) -> SVIStep:
    torch.manual_seed(1)
    model, guide = build_pair(SPEC, {**PIECES, **pieces})
    return SVIStep(model.double(), guide.double(), objective)


class Rounded(DiagonalNormal):
    """A straight-through estimator."""

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(q.mean + Straight.apply(20 * q.mean), q.stddev).to_event(1)


class Clipped(DiagonalNormal):
    """Clips the gradient of its means, of batches that are not too dark."""

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        loc = q.mean
        if loc.requires_grad:
            largest = 0.02 + (x.mean() < 0.3)
            loc.register_hook(lambda gradient: gradient.clamp(-largest, largest))
        return dist.Normal(loc, q.stddev).to_event(1)


PAIRS: dict[str, tuple[Objective, dict[str, Any]]] = {
    "dreg": (IWAE(3, "dreg"), {}),
    "semi-amortized": (ELBO(), {"guide": partial(SemiAmortized, steps=1)}),
    "not through its steps": (
        ELBO(particles=2),
        {"guide": partial(SemiAmortized, steps=1, through_steps=False)},
    ),
    "straight-through": (ELBO(), {"guide": Rounded}),
    "clipped": (ELBO(), {"guide": Clipped}),
}


def steps_of(objective: Objective, compiled: bool, **pieces: Any) -> list[Tensor]:
    """The losses of a few steps, and the parameters after them."""
    step = new_step(objective, **pieces)
    if compiled:
        step.compile((images(0),))
        assert step.compiled
    torch.manual_seed(2)
    losses = [step((images(number),), 1e-2).clone() for number in range(STEPS)]
    return [*losses, *(p.detach() for p in step.parameters.values())]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PAIRS))
def test_compiled_steps_are_those_of_the_programs(name: str) -> None:
    check(name)


@pytest.mark.usefixtures("traced_steps")
@pytest.mark.parametrize("name", list(PAIRS))
def test_steps_of_the_graph_are_those_of_the_programs(name: str) -> None:
    check(name)


def test_a_hook_is_compiled() -> None:
    check("clipped")


def check(name: str) -> None:
    objective, pieces = PAIRS[name]
    eager, compiled = (steps_of(objective, engine, **pieces) for engine in (False, True))
    for expected, got in zip(eager, compiled, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_without_the_hook_the_steps_are_others() -> None:
    clipped, plain = (steps_of(ELBO(), False, guide=g) for g in (Clipped, DiagonalNormal))
    assert clipped[0].item() == pytest.approx(plain[0].item(), rel=1e-12)
    assert clipped[2].item() != pytest.approx(plain[2].item(), rel=1e-6)
