"""Trial runs leave a pair and the random numbers as they were."""

import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guides import DiagonalNormal
from models import MLP, VAE, Spec
from ppl_vae.compiler.comparison import NotStageable
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.errors import InputError
from ppl_vae.machine.randomness import isolated, seeded
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.pairs.checks import check_objective, check_pair, find_not_finite
from ppl_vae.pairs.pieces import describe
from ppl_vae.training.step import SVIStep


class Normalised(MLP):
    """Counts its batches while it trains."""

    def __init__(self, inputs, outputs) -> None:
        super().__init__(inputs, outputs, hidden=(5,))
        self.normalise = nn.BatchNorm1d(torch.Size(self.inputs).numel())

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(self.normalise(x.flatten(1)))


def _pair() -> tuple[VAE, DiagonalNormal, Tensor]:
    torch.manual_seed(0)
    spec = Spec((1, 4, 3), "binary", 2)
    return VAE(spec), DiagonalNormal(spec, network=Normalised), torch.rand(8, 1, 4, 3).round()


def test_trial_runs_leave_no_trace():
    model, guide, x = _pair()
    before = {name: buffer.clone() for name, buffer in guide.named_buffers()}
    state = torch.get_rng_state()
    check_pair(model, guide, x)
    check_objective(ELBO(), model, guide, x)
    assert find_not_finite(model, guide, x) is None
    trace_programs(PairLoss(model, guide, ELBO()), (x,))
    assert torch.equal(torch.get_rng_state(), state)
    for name, buffer in guide.named_buffers():
        assert torch.equal(buffer, before[name]), name


class _Noisy(DiagonalNormal):
    """Draws from Python's generator and from NumPy's."""

    def posterior(self, x):
        random.random()
        np.random.rand()
        return super().posterior(x)


def test_trial_runs_leave_other_generators_as_they_were():
    spec = Spec((1, 5, 4), "binary", 3)
    model, guide, x = VAE(spec), _Noisy(spec), torch.rand(6, 1, 5, 4).round()
    states = random.getstate(), repr(np.random.get_state())
    check_pair(model, guide, x)
    check_objective(ELBO(), model, guide, x)
    with pytest.raises(NotStageable, match="draws from Python's random"):
        trace_programs(PairLoss(model, guide, ELBO()), (x,))
    assert (random.getstate(), repr(np.random.get_state())) == states


def test_seeded_numbers_repeat_and_the_others_go_on():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = torch.rand(1)
    draws = []
    for _ in range(2):
        with seeded(torch.device("cpu"), 3):
            draws.append(torch.rand(4))
    with isolated(torch.device("cpu")):
        torch.rand(7)
    second = torch.rand(1)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.cat([first, second]), expected)


def test_an_option_that_a_config_cannot_hold_is_refused():
    with pytest.raises(InputError, match="options that a config can hold"):
        describe(partial(MLP, activation=nn.Tanh))


class Rebinding(DiagonalNormal):
    """Counts in a buffer that it puts another tensor in the place of."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("calls", torch.zeros(()))

    def encode(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().encode(x)


def test_a_buffer_that_is_replaced_is_put_back() -> None:
    spec = Spec((1, 4, 3), "binary", 2)
    guide = Rebinding(spec)
    buffer = guide.calls
    x = torch.ones(8, 1, 4, 3)
    check_pair(VAE(spec), guide, x)
    assert guide.calls is buffer
    with pytest.raises(NotStageable):
        trace_programs(PairLoss(VAE(spec), guide, ELBO()), (x,))
    assert guide.calls is buffer
    assert buffer == 0


class Lazy(MLP):
    """Learns the size of its layer from its first images."""

    def __init__(self, inputs, outputs) -> None:
        super().__init__(inputs, outputs, hidden=(5,))
        self.first = nn.LazyLinear(torch.Size(self.inputs).numel())

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(self.first(x.flatten(1)))


def test_lazy_layers_are_made_by_a_trial_run() -> None:
    spec = Spec((1, 4, 3), "binary", 2)
    model, guide = VAE(spec), DiagonalNormal(spec, network=Lazy)
    for _ in range(2):
        check_pair(model, guide, torch.ones(8, 1, 4, 3))
    assert guide.encoder.first.weight.shape == (12, 12)


class SetUp(DiagonalNormal):
    """Centres its images by the mean of the first ones that it sees."""

    centre: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("centre", torch.zeros(()))
        self.ready = False

    def encode(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.centre.copy_(x.mean())
            self.ready = True
        return super().encode(x - self.centre)


def test_what_the_first_images_set_up_is_left_to_them() -> None:
    spec = Spec((1, 4, 3), "binary", 2)
    model, guide = VAE(spec), SetUp(spec)
    check_pair(model, guide, torch.ones(8, 1, 4, 3))
    step = SVIStep(model, guide, ELBO())
    with pytest.raises(NotStageable, match="is another function in each call"):
        step.compile((torch.ones(8, 1, 4, 3),))
    assert guide.ready is False
    assert guide.centre == 0
    step((torch.rand(8, 1, 4, 3).round(),), 1e-3)
    assert guide.ready
    assert 0 < guide.centre < 1
    trace_programs(step.pair, (torch.ones(8, 1, 4, 3),))


class Keeping(DiagonalNormal):
    """Counts in nested objects, clamps its weights and moves its first bias by a new number."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.kept = SimpleNamespace(calls=[0])
        self.table = {"calls": torch.zeros(())}

    def encode(self, x: Tensor) -> Tensor:
        self.kept.calls[0] += 1
        self.table["calls"] += 1
        self.last = super().encode(x)
        first = self.encoder.layers[0]
        first.weight.data.clamp_(-0.01, 0.01)
        with torch.no_grad():
            first.bias += self.kept.calls[0]
        return self.last


def test_a_compile_that_is_refused_leaves_parameters_and_nested_counts() -> None:
    spec = Spec((1, 4, 3), "binary", 2)
    guide, x = Keeping(spec), torch.ones(8, 1, 4, 3)
    step = SVIStep(VAE(spec), guide, ELBO())
    step((x,), 1e-3)  # so that an attribute holds a tensor in the midst of autograd
    parameters = {name: p.detach().clone() for name, p in guide.named_parameters()}
    kept, table, last = guide.kept, guide.table["calls"], guide.last
    check_pair(step.model, guide, x)
    check_objective(ELBO(), step.model, guide, x)
    with pytest.raises(NotStageable, match=r"changes guide\.(kept|table) in Python"):
        step.compile((x,))
    assert guide.kept is kept
    assert guide.table["calls"] is table
    assert guide.last is last
    assert kept.calls == [1]
    assert table == 1
    for name, parameter in guide.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
