"""The capture of a whole step, without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, get_args

import pyro
import pytest
import torch
from cases import TRACED, Case, natural_objective, with_labels
from on_device import DEVICE, OnOneDevice
from pyro.infer import Trace_ELBO
from silently_wrong import scaled_by
from torch import Tensor

from guides import DiagonalNormal, Guide
from models import VAE, Spec
from ppl_vae.compiler.comparison import NotCompilable, with_gradients
from ppl_vae.data import Split
from ppl_vae.data.conversion import bernoulli_draw
from ppl_vae.objectives import Beta, Objective
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.runs.settings import Optimizer
from ppl_vae.training.adam import Rule
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.muon import weights_of_layers
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3)


def loss_on_device(
    model: Any, guide: Guide, objective: Objective, batch: tuple[Tensor, ...]
) -> Any:
    """Loss and gradients where nothing can be read and no constant is elsewhere."""
    model.to(DEVICE)
    guide.to(DEVICE)
    batch = tuple(part.to(DEVICE) for part in batch)
    with OnOneDevice(), pyro.validation_enabled(False):
        return with_gradients(PairLoss(model, guide, objective))(*batch)


# Nothing of a step waits


@pytest.mark.parametrize("case", sorted(TRACED, key=str), ids=str)
def test_no_pair_reads_a_number_or_has_a_constant_elsewhere(case: Case) -> None:
    """So no graph has: what it holds is what the programs made."""
    model, guide = case.build()
    batch = with_labels(model, case.data())
    loss, gradients = loss_on_device(model, guide, natural_objective(case), batch)
    assert {loss.device, *(gradient.device for gradient in gradients.values())} == {DEVICE}


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (lambda guide, x: torch.tensor([1.0, 2.0, 3.0]), "cpu is not on the expected device meta"),
        (lambda guide, x: torch.tensor([1.0, 2.0, 3.0]).to(x.device), "works on cpu and meta"),
        (lambda guide, x: 1.0 + abs(x.mean().item()), "reads from the device"),
        (lambda guide, x: 2.0 if x.mean() > 0 else 1.0, "reads from the device"),
    ],
)
def test_what_waits_is_seen(scale: Any, said: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=said):
        loss_on_device(VAE(SPEC), scaled_by(scale)(SPEC), Beta(), (torch.ones(6, 1, 5, 4),))


def test_stock_pyro_waits() -> None:
    model, guide = VAE(SPEC), DiagonalNormal(SPEC)
    with pytest.raises(AssertionError, match="reads from the device"), OnOneDevice():
        Trace_ELBO().loss(model, guide, torch.ones(6, 1, 5, 4))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_no_part_of_a_step_waits(name: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the indices of images that are held as bytes to the update of the parameters."""
    updated: list[tuple[Any, ...]] = []

    def fused(*lists: list[Tensor], **options: Any) -> None:
        updated.append((*lists, [options["lr"], options["found_inf"]]))

    monkeypatch.setattr(torch, "_fused_adam_", fused)
    monkeypatch.setattr(torch, "_fused_adamw_", fused)
    # Otherwise torch's own functions refuse to be captured on devices that they do not know.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    step = SVIStep(
        VAE(SPEC).to(DEVICE),
        DiagonalNormal(SPEC).to(DEVICE),
        Beta(beta=2.0, warmup_epochs=3),
        rule=Rule(name, weight_decay=0.1),
        clip_norm=1.0,
        average=0.9,
    )
    raw = torch.empty((64, 1, 5, 4), dtype=torch.uint8, device=DEVICE)
    images = Split(
        raw, torch.empty(64, dtype=torch.int64, device=DEVICE), partial(bernoulli_draw, top=255)
    )
    index = torch.empty(16, dtype=torch.int64, device=DEVICE)
    with pyro.validation_enabled(False):
        step.update(images.batch(index, labelled=False))  # in which Adam sorts its tensors
        with OnOneDevice():
            step.set(1e-3, 0.5)
            step.update(images.batch(index, labelled=False))
            images.batch(index, labelled=True)
    assert len(updated) == 2 * (name in ("Adam", "AdamW", "Muon"))
    by_muon = weights_of_layers(step.pair) if name == "Muon" else ()
    for parts in updated:
        assert {tensor.device for part in parts for tensor in part} == {DEVICE}
        assert len(parts[0]) == len(step.parameters) - len(by_muon)


# The capture itself, with CUDA's part of it played by Python


class Generator:
    """Stands for the one of a GPU, which a capture that fails leaves of no use."""

    def __init__(self, usable: bool = True) -> None:
        self.usable = usable

    def clone_state(self) -> "Generator":
        return Generator(self.usable)

    def graphsafe_set_state(self, other: "Generator") -> None:
        self.usable = other.usable


class Played:
    """Replays by running the step."""

    def __init__(self) -> None:
        self.generator = Generator()
        self.stream = "the first"

    def replay(self) -> None:
        self.step._loss.copy_(self.step.step.update(self.draw(self.step._index)))

    @contextmanager
    def capture(self, graph: Any) -> Iterator[None]:
        self.generator.usable, self.stream = False, "that of the capture"
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        self.generator.usable, self.stream = True, "the first"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    for name, value in {
        "CUDAGraph": lambda: played,
        "graph": played.capture,
        "Stream": lambda device: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device: (
            played.stream
            if played.stream != "the first"
            else SimpleNamespace(wait_stream=lambda other: None)
        ),
        "set_stream": lambda stream: setattr(played, "stream", "the first"),
        "default_generators": {-1: played.generator},
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return played


IMAGES = torch.rand(64, 1, 5, 4, generator=torch.Generator().manual_seed(1)).round()


def draw(index: Tensor) -> tuple[Tensor, ...]:
    return (bernoulli_draw(IMAGES[index] * 200, 255),)


def new_step(**options: Any) -> SVIStep:
    torch.manual_seed(3)
    return SVIStep(VAE(SPEC), DiagonalNormal(SPEC), Beta(beta=2.0, warmup_epochs=3), **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"rule": Rule("Muon")}, {"rule": Rule("NAdam"), "clip_norm": 0.5, "average": 0.9}],
    ids=str,
)
def test_replays_take_the_steps_that_the_step_takes(
    played: Played, options: dict[str, Any]
) -> None:
    """Each on its own images, at its own rate and weight; a capture takes none itself."""
    plain, other = new_step(**options), new_step(**options)
    states = []
    for step in (plain, other):
        torch.manual_seed(5)
        taken: Any = step
        if step is other:
            taken = CapturedStep(step, draw, torch.arange(16))
            played.step, played.draw = taken, draw
        losses = []
        for number in range(4):
            index = torch.arange(16) + 16 * number
            batch = draw(index) if step is plain else (index,)
            losses.append(taken(batch, 1e-2 * number, epoch=0.5 * number).clone())
        states.append([*losses, *step.parameters.values(), *step.state().values()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert played.generator.usable


def failing(index: Tensor, calls: list[int]) -> tuple[Tensor, ...]:
    calls.append(1)
    if len(calls) == 4:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
    return draw(index)


def test_after_a_capture_that_fails_all_is_as_it_was(played: Played) -> None:
    step = new_step()
    before = [
        value.detach().clone() for value in (*step.parameters.values(), *step.state().values())
    ]
    random = torch.get_rng_state()
    said = "cannot be captured: operation not permitted when stream is capturing$"
    with pytest.raises(NotCompilable, match=said):
        CapturedStep(step, partial(failing, calls=[]), torch.arange(16))
    after = [*step.parameters.values(), *step.state().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert played.generator.usable
    assert played.stream == "the first"
    assert step(draw(torch.arange(16)), 1e-2).isfinite()


def test_a_capture_is_made_without_validation(played: Played) -> None:
    """It would read from the device; a step runs without it in training too."""
    seen: list[bool] = []

    def watching(index: Tensor) -> tuple[Tensor, ...]:
        seen.append(pyro.settings.get("validate_distributions_torch"))
        return draw(index)

    with pyro.validation_enabled(True):
        CapturedStep(new_step(), watching, torch.arange(16))
        assert pyro.settings.get("validate_distributions_torch")
    assert seen == [False] * 4  # three times to warm up, and once for the graph


def test_a_pair_that_has_changed_since_is_not_replayed(played: Played) -> None:
    """A replay would read the parameters where they no longer are."""
    step = new_step()
    captured = CapturedStep(step, draw, torch.arange(16))
    played.step, played.draw = captured, draw
    replays: list[int] = []
    played.replay = lambda: replays.append(1)  # type: ignore[method-assign]
    captured((torch.arange(16),), 1e-2)
    assert len(replays) == 1
    for parameter in step.parameters.values():
        parameter.data = parameter.data.clone()
    before = [parameter.clone() for parameter in step.parameters.values()]
    assert captured((torch.arange(16),), 1e-2).isfinite()
    assert len(replays) == 1
    assert not any(map(torch.equal, before, step.parameters.values()))
