"""The training loop: seeds, the schedule, the step, and early stopping."""

import json
from functools import partial
from math import ceil, cos, pi, sqrt
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyro
import pytest
import torch
from tiny_runs import TINY, metrics, tiny
from torch import Tensor

from guides import DiagonalNormal
from models import MLP, VAE, Bernoulli, Gaussian, Spec
from ppl_vae import load
from ppl_vae.data import Arrays, Digits
from ppl_vae.errors import InputError
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import ELBO
from ppl_vae.runs.checkpoints import read_checkpoint
from ppl_vae.runs.run import Run
from ppl_vae.training.schedules import learning_rate_at
from ppl_vae.training.step import SVIStep

PATIENCE = 2


pytestmark = pytest.mark.usefixtures("no_pictures")


class Taken(NamedTuple):
    """A step that was taken."""

    x: Tensor
    rate: float
    loss: float


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Taken]:
    """The steps that follow."""
    taken: list[Taken] = []
    step = SVIStep.__call__

    def record(self: SVIStep, batch: Any, learning_rate: float, *rest: Any) -> Tensor:
        loss = step(self, batch, learning_rate, *rest)
        taken.append(Taken(batch[0].clone(), learning_rate, loss.item()))
        return loss

    monkeypatch.setattr(SVIStep, "__call__", record)
    return taken


def parameters(run: Run) -> dict[str, Tensor]:
    named = [*run.model.state_dict().items(), *run.guide.state_dict().items()]
    return {name: value.clone() for name, value in named}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    first = tiny(tmp_path / "first", seed=3)
    generators = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    # Draws before the fit do not matter, and draws after it follow from the seed too.
    torch.manual_seed(99)
    np.random.seed(99)
    again = tiny(tmp_path / "again", seed=3)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == generators
    assert equal(parameters(first), parameters(again))
    name = "metrics.csv"
    assert (first.path / name).read_bytes() == (again.path / name).read_bytes()

    other = tiny(tmp_path / "other", seed=4)
    assert (other.path / name).read_bytes() != (first.path / name).read_bytes()
    for key, value in parameters(other).items():
        assert not torch.equal(value, parameters(first)[key]), key


def test_the_learning_rate_follows_the_formula() -> None:
    peak, warmup, total = 0.3, 10, 110
    rates = [learning_rate_at(step, peak, warmup, total) for step in range(total)]
    np.testing.assert_allclose(rates[:warmup], peak * np.arange(1, 11) / 10, rtol=1e-15)
    done = np.arange(100) / 100
    np.testing.assert_allclose(rates[warmup:], peak / 2 * (1 + np.cos(pi * done)), rtol=1e-15)
    assert learning_rate_at(0, peak, 0, total) == peak
    assert learning_rate_at(total, peak, 0, total) == pytest.approx(0, abs=1e-15)


def test_the_learning_rate_is_that_of_each_step(tmp_path: Path, steps: list[Taken]) -> None:
    tiny(tmp_path / "run", epochs=3, batch_size=500, warmup_epochs=0.5, learning_rate=0.01)
    # 1,297 images are three batches; half an epoch of warm-up is two steps, 1.5 rounded to even.
    rise = [0.005, 0.01]
    fall = [0.005 * (1 + cos(pi * k / 7)) for k in range(7)]
    rates = [step.rate for step in steps]
    np.testing.assert_allclose(rates, rise + fall, rtol=1e-14)
    shown = [row["learning_rate"] for row in metrics(tmp_path / "run")]
    assert shown == [rates[2], rates[5], rates[8]]


def test_an_epoch_shows_each_image_once(tmp_path: Path, steps: list[Taken]) -> None:
    images = np.linspace(0, 1, 50 * 4, dtype=np.float32).reshape(50, 2, 2)
    np.save(tmp_path / "images.npy", images)
    data = Arrays(path=tmp_path / "images.npy")
    run = tiny(tmp_path / "run", data=data, batch_size=16)
    batches = [step.x for step in steps]
    assert [len(batch) for batch in batches] == 2 * [16, 16, 8]  # eight tenths of 50
    train = run.data.train[:].flatten(1)
    epochs = [torch.cat(batches[:3]).flatten(1), torch.cat(batches[3:]).flatten(1)]
    for shown in epochs:
        assert sorted(shown.tolist()) == sorted(train.tolist())
    assert not torch.equal(*epochs)
    assert not torch.equal(epochs[0], train)


def test_the_metrics_are_averages_over_images(tmp_path: Path, steps: list[Taken]) -> None:
    run = tiny(tmp_path / "run", batch_size=500)
    losses = [(len(step.x), step.loss) for step in steps]
    assert len(losses) == 2 * ceil(1297 / 500)
    for number, row in enumerate(metrics(run.path)):
        epoch = losses[3 * number : 3 * number + 3]
        expected = sum(count * loss for count, loss in epoch) / 1297
        assert row["loss_nats_per_datum"] == pytest.approx(expected, rel=1e-6)
        assert row["epoch"] == number + 1
        assert row["steps"] == 3 * (number + 1)
        elbo, rate, distortion = (
            row[f"validation_{term}_nats_per_datum"] for term in ("elbo", "rate", "distortion")
        )
        assert elbo == pytest.approx(-(rate + distortion), rel=1e-5)
    summary = json.loads((run.path / "summary.json").read_text())
    last = metrics(run.path)[-1]
    assert {name: summary[name] for name in last} == last
    assert summary["training_images"] == 1297
    # One hidden layer of 8: an encoder 64 -> 8 -> 2 * 2 and a decoder 2 -> 8 -> 64.
    assert summary["parameters"] == (64 * 8 + 8 + 8 * 4 + 4) + (2 * 8 + 8 + 8 * 64 + 64)


def test_validation_sees_no_dropout_and_no_noise(tmp_path: Path) -> None:
    """The bound of an epoch is that of the same parameters on the same images and draws of z."""
    run = tiny(tmp_path / "run")
    again = bound(run)
    assert metrics(run.path)[-1]["validation_elbo_nats_per_datum"] == again
    # 25 draws for each of 200 images: another seed moves it by a few standard errors at most.
    torch.manual_seed(5)
    other = estimate(run.model, run.guide, run.data.validation, 1000)
    draws = estimate(run.model, run.guide, run.data.validation, 1)
    spread = (draws.elbo - other.elbo).std().item() / sqrt(5000)
    assert abs(again - other.elbo.mean().item()) < 4 * spread


def bound(run: Run) -> float:
    """The validation ELBO as the training loop estimates it: 5,000 draws in all, seed 1."""
    images = run.data.validation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        estimates = estimate(run.model, run.guide, images, max(1, 5000 // len(images)))
    return estimates.elbo.double().mean().item()


@pytest.mark.parametrize("binarize", ["dynamic", "fixed"])
def test_dynamic_binarisation_is_fresh_in_every_epoch(
    tmp_path: Path, steps: list[Taken], binarize: Literal["dynamic", "fixed"]
) -> None:
    tiny(tmp_path / "run", data=Digits(binarize=binarize), batch_size=1297)
    ones = [sorted(x.flatten(1).sum(1).tolist()) for x, *_ in steps]
    assert (ones[0] == ones[1]) == (binarize == "fixed")


# One step


def pair(likelihood: type = Bernoulli) -> tuple[VAE, DiagonalNormal, list[Tensor]]:
    spec = Spec((1, 3, 3), likelihood.domain, 2)
    model = VAE(spec, likelihood=likelihood(spec), network=TINY)
    guide = DiagonalNormal(spec, network=TINY)
    batches = [torch.rand(5, 1, 3, 3).bernoulli() for _ in range(6)]
    return model, guide, batches


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_step_is_that_of_adam_on_the_objective(likelihood: type, particles: int) -> None:
    """The same loop written out with the objective and torch's optimizer, bit for bit."""
    rates = [0.01, 0.02, 0.03, 0.02, 0.01, 0.0]
    pairs = []
    for _ in range(2):
        torch.manual_seed(2)
        pairs.append(pair(likelihood))
    model, guide, batches = pairs[0]
    step = SVIStep(model, guide, ELBO(particles=particles))
    torch.manual_seed(3)
    losses = [step((x,), rate).item() for x, rate in zip(batches, rates, strict=True)]

    model, guide, batches = pairs[1]
    objective = ELBO(particles=particles)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], fused=True)
    torch.manual_seed(3)
    for x, rate, shown in zip(batches, rates, losses, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = objective.loss(model, guide, x)
        loss.backward()
        optimizer.step()
        assert loss.item() == shown
    for index in (0, 1):
        assert equal(dict(pairs[0][index].state_dict()), dict(pairs[1][index].state_dict()))


def test_a_step_is_that_of_the_equations() -> None:
    """Kingma and Ba's algorithm 1 on the bound written out by hand, in float64."""
    model, guide, batches = pair()
    model.double()
    guide.double()
    batches = [x.double() for x in batches]
    step = SVIStep(model, guide, ELBO())
    values = [p.detach().clone().requires_grad_() for p in step.parameters.values()]
    names = list(step.parameters)
    torch.manual_seed(3)
    for x in batches:
        step((x,), 0.05)

    def loss(x: Tensor) -> Tensor:
        p = dict(zip(names, values, strict=True))

        def network(side: str, h: Tensor) -> Tensor:
            for layer in (0, 2):
                weight, bias = (p[f"{side}.layers.{layer}.{part}"] for part in ("weight", "bias"))
                h = (h if layer == 0 else h.tanh()) @ weight.mT + bias
            return h

        loc, log_variance = network("guide.encoder", x.flatten(1)).chunk(2, -1)
        eps = torch.randn(loc.shape, dtype=torch.float64)
        z = loc + (log_variance / 2).exp() * eps
        logits = network("model.decoder", z)
        log_x = (x.flatten(1) * logits - logits.exp().log1p()).sum()
        log_prior, log_q = -z.square().sum() / 2, -(eps.square() + log_variance).sum() / 2
        return -(log_x + log_prior - log_q) / len(x)

    torch.manual_seed(3)
    first, second = ([torch.zeros_like(v) for v in values] for _ in range(2))
    for t, x in enumerate(batches, 1):
        gradients = torch.autograd.grad(loss(x), values)
        with torch.no_grad():
            for value, gradient, m, v in zip(values, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient**2)
                m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
                value -= 0.05 * m_hat / (v_hat.sqrt() + 1e-8)
    for name, value in zip(names, values, strict=True):
        torch.testing.assert_close(
            step.parameters[name].detach(), value.detach(), rtol=1e-9, atol=1e-9
        )


# Early stopping


@pytest.fixture
def overfitted(tmp_path: Path) -> Run:
    """A run on noise, where the validation bound soon falls."""
    images = np.random.default_rng(0).random((100, 4, 4)) > 0.5
    np.save(tmp_path / "noise.npy", images)
    data = Arrays(path=tmp_path / "noise.npy")
    return tiny(
        tmp_path / "run",
        data=data,
        network=partial(MLP, hidden=(64,)),
        latent_dim=8,
        epochs=60,
        batch_size=20,
        learning_rate=0.03,
        patience=PATIENCE,
    )


def test_patience_keeps_the_best_epoch(overfitted: Run) -> None:
    rows = metrics(overfitted.path)
    bounds = [row["validation_elbo_nats_per_datum"] for row in rows]
    best = int(np.argmax(bounds))
    assert len(rows) == best + 1 + PATIENCE < 60
    # Not one of the epochs before was followed by so long a wait.
    for epoch in range(best):
        assert max(bounds[epoch + 1 : epoch + 1 + PATIENCE]) > max(bounds[: epoch + 1])
    assert bound(overfitted) == bounds[best]
    assert overfitted.summary["epoch"] == best + 1
    assert overfitted.summary["validation_elbo_nats_per_datum"] == bounds[best]
    loaded = load(overfitted.path)
    assert bound(loaded) == bounds[best]
    assert equal(parameters(loaded), parameters(overfitted))
    last = read_checkpoint(overfitted.path / "checkpoint.safetensors")[0]
    assert not torch.equal(
        last["model.decoder.layers.0.weight"], loaded.model.decoder.layers[0].weight
    )


def test_without_patience_the_last_parameters_are_kept(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run")
    assert not (run.path / "best.safetensors").exists()
    last = read_checkpoint(run.path / "checkpoint.safetensors")[0]
    for name, value in load(run.path).model.state_dict().items():
        assert torch.equal(value, last[f"model.{name}"]), name


# Values that are not finite


class FailsInValidation(Bernoulli):
    """A likelihood that is finite while it trains only."""

    def forward(self, features: Tensor):
        return super().forward(features if self.training else features * torch.nan)


def test_a_validation_bound_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"epoch 1, step 13: .* site 'x' in the model is not"):
        tiny(tmp_path / "run", likelihood=FailsInValidation)
    assert read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1]["steps"] == 0


def test_a_loss_that_is_not_finite_changes_no_parameter() -> None:
    model, guide, batches = pair()
    step = SVIStep(model, guide, ELBO())
    step((batches[0],), 0.01)
    before = {name: p.detach().clone() for name, p in step.parameters.items()}
    state = {name: value.clone() for name, value in step.state().items()}
    with pyro.validation_enabled(False):  # as it is in training
        assert step((batches[1] * torch.nan,), 0.01).isnan()
    for name, parameter in step.parameters.items():
        assert torch.equal(parameter, before[name]), name
    assert equal(step.state(), state)
    step((batches[2],), 0.01)
    for name, parameter in step.parameters.items():
        assert not torch.equal(parameter, before[name]), name
