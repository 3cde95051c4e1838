"""What every objective promises: ranges, finite gradients, tracing, and refusals in one line."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from comparing import assert_equal, loss_and_gradients, seeded
from torch import Tensor

import ppl_vae.objectives
from guides import DiagonalNormal
from models import MLP, VAE, Spec
from ppl_vae.compiler.comparison import with_gradients
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.errors import InputError
from ppl_vae.objectives import (
    ELBO,
    IWAE,
    MMD,
    Beta,
    Objective,
    Renyi,
    ScoreFunction,
    SemiSupervisedELBO,
    WakeSleep,
)
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.pairs.checks import check_objective
from ppl_vae.pairs.descriptions import describe, restore
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 3, 4), "binary", 3)
EVERY = [
    ELBO(),
    ELBO(3, analytic_kl=True),
    IWAE(4),
    IWAE(4, "stl"),
    IWAE(4, "dreg"),
    Renyi(0.5, 4),
    Renyi(1.0, 4),
    Beta(warmup_epochs=3),
    Beta(3.0, free_bits=0.1, particles=2),
    Beta(0.5, free_bits=0.1, analytic_kl=True),
    MMD(),
    MMD(5.0, 0.5, "normal", 2.0),
    WakeSleep(),
    WakeSleep(3),
    ScoreFunction(),
    ScoreFunction(1, "none"),
]

each = pytest.mark.parametrize("objective", EVERY, ids=str)


@pytest.fixture
def vae() -> tuple[VAE, DiagonalNormal, Tensor]:
    network = partial(MLP, hidden=(6,))
    x = torch.rand(5, 1, 3, 4).round()
    return VAE(SPEC, network=network), DiagonalNormal(SPEC, network=network), x


def test_every_objective_is_here():
    exported = {getattr(ppl_vae.objectives, name) for name in ppl_vae.objectives.__all__}
    with_classes = {SemiSupervisedELBO}  # has tests of its own, on a model with classes
    assert exported == {type(objective) for objective in EVERY} | {Objective} | with_classes


@each
def test_gradients_are_finite_and_reach_every_parameter(vae, objective):
    model, guide, x = vae
    scheduled = {name: torch.tensor(v) for name, v in objective.schedule(1.0).items()}
    found = loss_and_gradients(objective.loss, vae[:2], model, guide, x, **scheduled)
    assert found[0].shape == ()
    assert all(value.isfinite().all() and value.any() for value in found)
    check_objective(objective, model, guide, x)


@each
def test_a_config_gives_it_back(objective):
    description = describe(objective)
    assert description["class_path"] == f"ppl_vae.objectives.{type(objective).__name__}"
    assert restore("objective", description) == objective


@each
def test_it_is_traced(vae, objective):
    model, guide, x = vae
    scheduled = {name: torch.tensor(v) for name, v in objective.schedule(1.0).items()}
    pair = PairLoss(model, guide, objective)
    traced = trace_programs(pair, (x,), scheduled)
    for epoch in (0.0, 2.0):  # the graph takes what changes in training
        later = {name: torch.tensor(v) for name, v in objective.schedule(epoch).items()}
        fresh = torch.rand(5, 1, 3, 4).round()
        (loss, gradients), (expected, wanted) = (
            seeded(run, fresh, **later) for run in (traced, with_gradients(pair))
        )
        assert torch.equal(loss, expected)
        assert_equal(gradients, wanted)


class Point(DiagonalNormal):
    """A guide that says of itself that it is a point."""

    has_density: ClassVar[bool] = False


@pytest.mark.parametrize(
    "objective", [IWAE(2), Renyi(particles=2), WakeSleep(), ScoreFunction()], ids=str
)
def test_a_point_is_refused_where_a_density_is_needed(vae, objective):
    model, _, x = vae
    with pytest.raises(InputError) as caught:
        check_objective(objective, model, Point(SPEC), x)
    message = str(caught.value)
    assert message.startswith(f"{type(objective).__name__} cannot be computed for VAE with guide")
    assert message.endswith(
        "needs q(z|x) as a density, and that of Point is a point; choose a guide that is a "
        "density, such as DiagonalNormal"
    )


@pytest.mark.parametrize("objective", [ELBO(), Beta(0.5), MMD()], ids=str)
def test_a_point_is_welcome_elsewhere(vae, objective):
    model, _, x = vae
    check_objective(objective, model, Point(SPEC), x)


class Counts(DiagonalNormal):
    """q(z|x) is a Poisson distribution, whose draws no gradient comes through."""

    def posterior(self, x):
        return dist.Poisson(self.encoder(x)[..., :3].exp()).to_event(1)


@pytest.mark.parametrize("objective", EVERY, ids=str)
def test_draws_that_no_gradient_comes_through(vae, objective):
    """Without the score's term the gradient would be another one, and nothing would show it."""
    model, _, x = vae
    model.prior.forward = lambda: dist.Poisson(torch.ones(3)).to_event(1)
    if objective in (ELBO(), WakeSleep(), WakeSleep(3), ScoreFunction(), ScoreFunction(1, "none")):
        check_objective(objective, model, Counts(SPEC), x)
        return
    with pytest.raises(InputError, match=r"draws of 'z' .*; (choose|take)") as caught:
        check_objective(objective, model, Counts(SPEC), x)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Weighted(Objective):
    """An ELBO with a weight on the rate, from a table of epochs."""

    weights: tuple

    def schedule(self, epoch: float) -> dict[str, Any]:
        names = self.weights[int(epoch)]
        return names if isinstance(names, dict) else {"beta": names}

    def loss(self, model, guide, x, beta=1.0):
        return Beta().loss(model, guide, x, beta=beta)


@pytest.mark.parametrize("first", [0, np.float64(0), np.int64(0), False, torch.tensor(0)], ids=repr)
def test_a_scheduled_number_of_any_type_is_a_real_one(vae, first):
    model, guide, x = vae
    step = SVIStep(model, guide, Weighted((first, 0.5)))
    for epoch, beta in ((0.0, 0.0), (1.0, 0.5)):
        expected = loss_and_gradients(Beta().loss, vae[:2], model, guide, x, beta=beta)[0]
        got = seeded(step, (x,), 0.0, epoch)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
        assert got.dtype == torch.float32


class Clamped(Weighted):
    def loss(self, model, guide, x, beta=None):
        return super().loss(model, guide, x, beta.clamp(max=1.0))


def test_scheduled_numbers_are_tensors_before_training_too(vae):
    model, guide, x = vae
    check_objective(Clamped((0.5,)), model, guide, x)
    assert torch.isfinite(SVIStep(model, guide, Clamped((0.5,)))((x,), 0.0))


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (float("nan"), "beta at epoch 1 as a finite number; got nan"),
        (None, "beta at epoch 1 as a finite number; got None"),
        ({"gamma": 0.5}, "the names of epoch 0, beta, at every epoch; got gamma at epoch 1"),
        ({}, "the names of epoch 0, beta, at every epoch; got none at epoch 1"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(vae, later, said):
    model, guide, _ = vae
    step = SVIStep(model, guide, Weighted((0, later)))
    with pytest.raises(InputError, match=f"Weighted.schedule: expected {said}"):
        step.set(1e-3, 1.0)
    with pytest.raises(InputError, match="at epoch 0 as a finite number; got inf"):
        SVIStep(model, guide, Weighted((float("inf"),)))
