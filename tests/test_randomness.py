"""Trial runs leave a pair and the random numbers as they were."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guides import DiagonalNormal
from models import MLP, VAE, Spec
from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.machine.randomness import isolated, seeded
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.pairs.checks import check_objective, check_pair, find_not_finite
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 4, 3), "binary", 2)
ONES = torch.ones(8, 1, 4, 3)


class Restless(DiagonalNormal):
    """Changes in every call all that a program can change, and draws from every generator."""

    calls: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, network=Normalised)
        self.register_buffer("calls", torch.zeros(()))
        self.kept = SimpleNamespace(calls=[0])
        self.table = {"calls": torch.zeros(())}

    def encode(self, x: Tensor) -> Tensor:
        random.random()
        np.random.rand()
        self.calls = self.calls + 1  # another tensor in the place of the buffer
        self.kept.calls[0] += 1
        self.table["calls"] += 1
        self.last = super().encode(x)
        first = self.encoder.layers[0]
        first.weight.data.clamp_(-0.01, 0.01)
        with torch.no_grad():
            first.bias += self.kept.calls[0]
        return self.last


class Normalised(MLP):
    """Counts its batches while it trains."""

    def __init__(self, inputs, outputs) -> None:
        super().__init__(inputs, outputs, hidden=(5,))
        self.normalise = nn.BatchNorm1d(torch.Size(self.inputs).numel())

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(self.normalise(x.flatten(1)))


def refused_compile(model: VAE, guide: Restless) -> None:
    step = SVIStep(model, guide, ELBO())
    with pytest.raises(NotCompilable, match="draws from Python's random"):
        step.compile((ONES,))
    assert not step.compiled


@pytest.mark.parametrize(
    "trial",
    [
        lambda model, guide: check_pair(model, guide, ONES),
        lambda model, guide: check_objective(ELBO(), model, guide, ONES),
        lambda model, guide: find_not_finite(model, guide, ONES),
        refused_compile,
    ],
    ids=["pair", "objective", "finite", "compile"],
)
def test_a_trial_run_leaves_no_trace(trial: Callable) -> None:
    model, guide = VAE(SPEC), Restless(SPEC)
    SVIStep(model, guide, ELBO())((ONES,), 1e-3)  # leaves a tensor with a history in autograd
    state = {name: value.clone() for name, value in guide.state_dict().items()}
    things = guide.calls, guide.kept, guide.table["calls"], guide.last
    generators = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    trial(model, guide)
    assert (
        torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
    ) == generators  # fmt: skip
    for name, value in guide.state_dict().items():
        assert torch.equal(value, state[name]), name
    for thing, before in zip(
        (guide.calls, guide.kept, guide.table["calls"], guide.last), things, strict=True
    ):
        assert thing is before
    assert (guide.kept.calls, guide.table["calls"].item()) == ([1], 1)


def test_seeded_numbers_repeat_and_the_others_go_on() -> None:
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


def test_a_traced_pair_that_normalises_its_batches_keeps_their_count() -> None:
    guide = DiagonalNormal(SPEC, network=Normalised)
    before = {name: buffer.clone() for name, buffer in guide.named_buffers()}
    trace_programs(PairLoss(VAE(SPEC), guide, ELBO()), (torch.rand(8, 1, 4, 3).round(),))
    for name, buffer in guide.named_buffers():
        assert torch.equal(buffer, before[name]), name


class Lazy(MLP):
    """Learns the size of its layer from its first images."""

    def __init__(self, inputs, outputs) -> None:
        super().__init__(inputs, outputs, hidden=(5,))
        self.first = nn.LazyLinear(torch.Size(self.inputs).numel())

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(self.first(x.flatten(1)))


def test_lazy_layers_are_made_by_a_trial_run() -> None:
    model, guide = VAE(SPEC), DiagonalNormal(SPEC, network=Lazy)
    for _ in range(2):
        check_pair(model, guide, ONES)
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
    model, guide = VAE(SPEC), SetUp(SPEC)
    check_pair(model, guide, ONES)
    step = SVIStep(model, guide, ELBO())
    with pytest.raises(NotCompilable, match="is another function in each call"):
        step.compile((ONES,))
    assert guide.ready is False
    assert guide.centre == 0
    step((torch.rand(8, 1, 4, 3).round(),), 1e-3)
    assert guide.ready
    assert 0 < guide.centre < 1
    trace_programs(step.pair, (ONES,))
