"""What has changed since a step was compiled is noticed: it then is the step of the programs."""

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides import DiagonalNormal, Guide, SemiSupervisedNormal
from models import VAE, Model, SemiSupervised, Spec
from ppl_vae.compiler.compiling import compile_measurement
from ppl_vae.latents.encoding import posterior_mean
from ppl_vae.objectives import ELBO, SemiSupervisedELBO
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3, 4)
IMAGES = torch.rand(6, 1, 5, 4, generator=torch.Generator().manual_seed(1)).round()
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])

Change = Callable[[SVIStep], None]


class Tempered(DiagonalNormal):
    """With a temperature that is a buffer."""

    temperature: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
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
    model, guide = pair[0](SPEC), pair[1](SPEC)
    step = SVIStep(model, guide, SemiSupervisedELBO() if model.labelled else ELBO())
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


@pytest.mark.parametrize("layout", list(ELSEWHERE))
def test_a_batch_of_another_layout(layout: str) -> None:
    batch = (ELSEWHERE[layout],)
    assert batch[0].shape == IMAGES.shape
    assert not batch[0].is_contiguous()
    assert_same([(IMAGES,), batch, batch])
    # Not the step on an image that these share their memory with.
    assert abs(steps(True, [batch])[0] - steps(True, [(IMAGES,)])[0]) > 0.01


def test_labels_of_another_layout() -> None:
    table = torch.stack([LABELS, (LABELS + 1) % 4], 1)
    batch = (IMAGES, table[:, 1])
    assert_same(3 * [batch], pair=(SemiSupervised, SemiSupervisedNormal))


@pytest.mark.parametrize("layout", list(ELSEWHERE))
def test_measurements_of_another_layout(layout: str) -> None:
    model, guide = VAE(SPEC).eval(), DiagonalNormal(SPEC).eval()
    x = ELSEWHERE[layout]
    mean = posterior_mean(model, guide, x, engine="compiled")
    torch.testing.assert_close(mean, guide.posterior(x).mean)

    class Mean(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return guide.posterior(x).mean

    torch.testing.assert_close(compile_measurement(Mean(), (IMAGES,))(x), mean)


def clamp(step: SVIStep) -> None:
    for parameter in step.parameters.values():
        parameter.data = parameter.data.clamp(-0.2, 0.2)


def move(step: SVIStep) -> None:
    for program in (step.model, step.guide):
        program.double().float()


def assign(step: SVIStep) -> None:
    step.guide.temperature = torch.tensor(2.0)


@pytest.mark.parametrize("change", [clamp, move, assign])
def test_a_pair_that_lies_elsewhere(change: Change) -> None:
    assert_same(3 * [(IMAGES,)], change)
    if change is not move:  # which changes no number
        assert steps(True, 2 * [(IMAGES,)], change)[1] != steps(True, 2 * [(IMAGES,)])[1]
