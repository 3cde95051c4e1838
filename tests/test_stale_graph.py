"""A compiled step notices changes of the pair, and runs the programs then."""

import random
from collections.abc import Callable
from itertools import count

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution
from tiny_runs import Annealed
from torch import Tensor

from guides import ConditionalNormal, DiagonalNormal, Guide
from models import VAE, Conditional, Linear, Model, NetworkFactory, Spec
from ppl_vae.compiler.comparison import Outcome, relative_distance
from ppl_vae.objectives import ELBO
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3, 4)
IMAGES = torch.rand(6, 1, 5, 4, generator=torch.Generator().manual_seed(1)).round()
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])

Change = Callable[[SVIStep], None]


class Tempered(DiagonalNormal):
    """With a temperature that is a buffer."""

    temperature: Tensor

    def __init__(self, spec: Spec, network: NetworkFactory = Linear) -> None:
        super().__init__(spec, network)
        self.register_buffer("temperature", torch.tensor(1.0))

    def posterior(self, x: Tensor) -> TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(q.mean, q.stddev * self.temperature).to_event(1)


def steps(
    compiled: bool,
    batches: list[tuple[Tensor, ...]],
    change: Change = lambda step: None,
    pair: tuple[type[Model], type[Guide]] = (VAE, Tempered),
) -> list[Tensor]:
    """The loss of each step; the change comes after the first."""
    torch.manual_seed(3)
    model, guide = pair[0](SPEC, network=Linear), pair[1](SPEC, network=Linear)  # type: ignore[call-arg]
    step = SVIStep(model, guide, ELBO())
    if compiled:
        step.compile((IMAGES, LABELS) if model.labelled else (IMAGES,))
    torch.manual_seed(4)
    losses = []
    for number, batch in enumerate(batches):
        losses.append(step(batch, 0.01).clone())
        if number == 0:
            change(step)
    return losses


def assert_same(*arguments, **options) -> None:
    eager, compiled = (
        torch.stack(steps(engine, *arguments, **options)) for engine in (False, True)
    )
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=0)


ELSEWHERE = {
    "transposed": IMAGES.reshape(6, 1, 4, 5).transpose(2, 3),
    "expanded": IMAGES[:1].expand(6, 1, 5, 4),
    "every second": torch.cat([IMAGES, 1 - IMAGES], 2)[:, :, ::2],
}


def test_batches_of_another_layout() -> None:
    """Labels too; their graph is compiled, since one by operations would follow the strides."""
    pair = (Conditional, ConditionalNormal)
    labels = torch.stack([LABELS, (LABELS + 1) % 4], 1)[:, 1]
    batches = [(batch, labels) for batch in ELSEWHERE.values()]
    for batch, _ in batches:
        assert batch.shape == IMAGES.shape
        assert not batch.is_contiguous()
        # Not the step on an image that it shares its memory with.
        losses = [steps(False, [(x, labels)], pair=pair)[0] for x in (batch, IMAGES)]
        assert abs(losses[0] - losses[1]) > 0.01
    assert_same([(IMAGES, LABELS), *batches], pair=pair)


def clamp(step: SVIStep) -> None:
    for parameter in step.parameters.values():
        parameter.data = parameter.data.clamp(-0.2, 0.2)


def move(step: SVIStep) -> None:
    for program in (step.model, step.guide):
        program.double().float()


def assign(step: SVIStep) -> None:
    step.guide.temperature = torch.tensor(2.0)


@pytest.mark.usefixtures("traced_steps")
@pytest.mark.parametrize("change", [clamp, move, assign])
def test_a_pair_that_lies_elsewhere(change: Change) -> None:
    assert_same(3 * [(IMAGES,)], change)
    if change is not move:  # which changes no number
        assert steps(False, 2 * [(IMAGES,)], change)[1] != steps(False, 2 * [(IMAGES,)])[1]


@pytest.mark.usefixtures("traced_steps")
@pytest.mark.parametrize("wrong_calls", [1, 100])
def test_a_graph_that_parts_under_one_seed_alone_is_kept(wrong_calls: int) -> None:
    """As where draws are chosen by their weights, and rounding decides which."""
    torch.manual_seed(3)
    step = SVIStep(VAE(SPEC, network=Linear), DiagonalNormal(SPEC, network=Linear), ELBO())
    step.compile((IMAGES,))
    right, calls = step._compiled, count()

    def wrong_at_first(*batch: Tensor) -> tuple[Tensor, Outcome]:
        assert right is not None
        loss, gradients = right(*batch)
        return 1.5 * loss if next(calls) < wrong_calls else loss, gradients

    step._compiled = wrong_at_first
    assert step.drop_stale_graph((IMAGES,)) is (wrong_calls > 1)


@pytest.mark.usefixtures("traced_steps")
def test_a_graph_that_parts_from_the_programs_is_dropped_and_nothing_else_changes() -> None:
    torch.manual_seed(3)
    step = SVIStep(VAE(SPEC, network=Linear), Annealed(SPEC, network=Linear), ELBO())
    step.compile((IMAGES,))
    step((IMAGES,), 0.01)
    state = {**step.pair.state_dict(), **step.state()}
    before = {name: value.clone() for name, value in state.items()}
    generators = torch.get_rng_state(), random.getstate()
    step.guide.epochs = 4
    assert not step.drop_stale_graph((IMAGES,))
    assert not step.drop_stale_graph((IMAGES[:4],))  # which the programs take anyway
    step.guide.epochs = 5
    assert step.drop_stale_graph((IMAGES,))
    assert not step.compiled
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]


def test_one_entry_of_a_gradient_does_not_part_two_functions():
    """As where rounding turns a unit on or off; a loss or a gradient that is another does."""
    value = torch.ones(10_000)
    expected = {"its value": torch.tensor(0.1), "the gradient of p": value}
    flipped = value.clone()
    flipped[3] += 0.5
    distances = [
        relative_distance(expected, expected | change)
        for change in (
            {"the gradient of p": flipped},
            {"the gradient of p": 1.1 * value},
            {"its value": torch.tensor(0.2)},
            {"the buffer b": torch.tensor(7.0)},
        )
    ]
    assert distances == pytest.approx([0.005, 0.1, 0.1, 0.0], rel=1e-5)
