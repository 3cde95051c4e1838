"""Muon against torch's, and its orthogonal matrices against the singular value decomposition."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from guides import DiagonalNormal
from models import VAE, Convolutional, GatedMLP, Spec, VampPrior
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.adam import Rule
from ppl_vae.training.muon import Muon, orthogonal, weights_of_layers
from ppl_vae.training.step import SVIStep

GO, SKIP = torch.tensor(0.0), torch.tensor(1.0)
RULE = Rule("Muon", 0.8, 0.95, 1e-3, 0.1)
SHAPES = {"wide": (6, 20), "tall": (20, 6), "square": (7, 7), "unused": (3, 4), "bias": (7,)}
MATRICES = frozenset(SHAPES) - {"bias"}


def learned() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}


def gradients(steps: int) -> list[dict[str, Tensor | None]]:
    torch.manual_seed(1)
    return [
        {name: None if name == "unused" else torch.randn(shape) for name, shape in SHAPES.items()}
        for _ in range(steps)
    ]


def ours(
    steps: Sequence[dict[str, Tensor | None]], dtype: torch.dtype = torch.float32
) -> tuple[Muon, dict[str, nn.Parameter]]:
    parameters = learned()
    muon = Muon(parameters, MATRICES, RULE, dtype)
    for number, step in enumerate(steps):
        muon.set_rate(0.1 / (1 + number))
        muon.update(step)
    return muon, parameters


def torchs(steps: Sequence[dict[str, Tensor | None]]) -> dict[str, nn.Parameter]:
    """torch.optim.Muon, which multiplies in bfloat16, and AdamW for the bias."""
    parameters = learned()
    optimizers = [
        torch.optim.Muon(
            [parameters[name] for name in SHAPES if name in MATRICES],
            weight_decay=RULE.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [parameters["bias"]], betas=(0.8, 0.95), eps=1e-3, weight_decay=RULE.weight_decay
        ),
    ]
    for number, step in enumerate(steps):
        for name, parameter in parameters.items():
            gradient = step[name]
            parameter.grad = None if gradient is None else gradient.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            optimizer.step()
    return parameters


def test_steps_are_those_of_torch() -> None:
    steps = gradients(6)
    for name, value in ours(steps, torch.bfloat16)[1].items():
        torch.testing.assert_close(value, torchs(steps)[name], rtol=1e-5, atol=1e-6)


def test_bfloat16_alone_parts_float32_from_torch() -> None:
    steps = gradients(6)
    for name, value in ours(steps)[1].items():
        torch.testing.assert_close(value, torchs(steps)[name], rtol=0, atol=0.02)


@pytest.mark.parametrize("shape", [(5, 30), (30, 5), (12, 12), (1, 9)])
def test_orthogonal_changes_singular_values_alone(shape: tuple[int, int]) -> None:
    """Each becomes what the polynomial makes of it, five times; from 0.01 on about 1."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.logspace(0, -2, len(values), dtype=torch.float64)
    matrix = left @ values.diag() @ right
    expected = values / values.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    assert ((expected > 0.65) & (expected < 1.25)).all()
    torch.testing.assert_close(
        orthogonal(3 * matrix, torch.float64), left @ expected.diag() @ right
    )


def test_a_zero_gradient_moves_nothing_to_nan() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_an_update_is_as_large_as_adams_usual_one() -> None:
    """A root mean square of about 0.2 learning rates, whatever the shape."""
    torch.manual_seed(0)
    for shape in ((50, 200), (200, 50), (100, 100)):
        weight = nn.Parameter(torch.zeros(shape))
        muon = Muon({"w": weight}, frozenset({"w"}), Rule("Muon"))
        muon.set_rate(0.1)
        muon.update({"w": torch.randn(shape)})
        assert weight.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.25)


def test_filters_of_a_convolution_are_a_matrix() -> None:
    torch.manual_seed(0)
    filters, gradient = torch.randn(2, 8, 3, 2, 2)
    moved = []
    for shape in (filters.shape, filters.flatten(1).shape):
        weight = nn.Parameter(filters.reshape(shape).clone())
        muon = Muon({"w": weight}, frozenset({"w"}), RULE)
        muon.set_rate(0.1)
        muon.update({"w": gradient.reshape(shape)})
        moved.append(weight.detach().flatten(1))
    assert torch.equal(*moved)
    assert not torch.equal(moved[0], filters.flatten(1))


def test_a_skipped_step_leaves_everything() -> None:
    first, second = gradients(2)
    muon, parameters = ours([first])
    before = {name: value.clone() for name, value in (muon.state() | parameters).items()}
    muon.update({name: torch.full_like(p, torch.nan) for name, p in parameters.items()}, SKIP)
    for name, value in (muon.state() | parameters).items():
        assert torch.equal(value, before[name]), name
    muon.set_rate(0.05)
    muon.update(second, GO)
    for name, value in ours([first, second])[1].items():
        assert torch.equal(parameters[name], value), name


def test_a_saved_state_goes_on() -> None:
    steps = gradients(4)
    muon, parameters = ours(steps[:2])
    saved = {name: value.clone() for name, value in muon.state().items()}
    assert saved["momentum.wide"].abs().sum() > 0
    other = Muon(parameters, MATRICES, RULE)
    other.restore(saved)
    for number, step in enumerate(steps[2:], start=2):
        other.set_rate(0.1 / (1 + number))
        other.update(step)
    for name, value in ours(steps)[1].items():
        assert torch.equal(parameters[name], value), name
    other.restore({})
    for key, value in Muon(learned(), MATRICES, RULE).state().items():
        assert torch.equal(other.state()[key], value), key


SPEC = Spec((1, 8, 8), "binary", 3)


@pytest.mark.parametrize("network", [GatedMLP, Convolutional])
def test_weights_of_layers_are_matrices_and_nothing_else_is(network: type) -> None:
    """No bias, and no pseudo-input, of two dimensions though it has."""
    model, guide = VAE(SPEC, VampPrior(SPEC, components=4), network=network), DiagonalNormal(SPEC)
    pair = PairLoss(model, guide, ELBO())
    names, parameters = weights_of_layers(pair), dict(pair.named_parameters())
    assert {name for name in parameters if name.endswith("weight")} == names
    assert all(parameters[name].ndim >= 2 for name in names)
    assert "model.prior.unclamped" in parameters.keys() - names


def test_a_step_has_the_products_of_its_precision() -> None:
    for precision, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        step = SVIStep(
            VAE(SPEC), DiagonalNormal(SPEC), ELBO(), precision=precision, rule=Rule("Muon")
        )
        assert step._optimizer._dtype == dtype


def test_the_constants_of_adamw_are_those_of_the_rule() -> None:
    steps = gradients(3)
    for change in ({"beta1": 0.5}, {"beta2": 0.5}, {"epsilon": 1.0}, {"weight_decay": 0.9}):
        parameters = learned()
        muon = Muon(parameters, MATRICES, dataclasses.replace(RULE, **change))
        for number, step in enumerate(steps):
            muon.set_rate(0.1 / (1 + number))
            muon.update(step)
        assert not torch.equal(parameters["bias"], ours(steps)[1]["bias"]), change
