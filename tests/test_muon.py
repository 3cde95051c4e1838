"""Muon against torch's, and its orthogonal matrices against the singular value decomposition."""

from collections.abc import Sequence
from math import prod

import pytest
import torch
from pyro.nn.auto_reg_nn import MaskedLinear
from torch import Tensor, nn

from guides import IAF, DiagonalNormal
from models import VAE, Convolutional, GatedMLP, Spec, VampPrior
from models.spec import Shape
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.runs.settings import Precision
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
    expected = torchs(steps)
    for name, value in ours(steps, torch.bfloat16)[1].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    for name, value in ours(steps)[1].items():  # in float32; each entry moves by some 0.05
        torch.testing.assert_close(value, expected[name], rtol=0, atol=4e-3)


@pytest.mark.parametrize("shape", [(5, 30), (30, 5), (12, 12), (1, 9)])
def test_orthogonal_changes_singular_values_alone(shape: tuple[int, int]) -> None:
    """Each becomes what the polynomial makes of it, five times."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.logspace(0, -2, min(shape), dtype=torch.float64)
    matrix = left @ values.diag() @ right
    expected = values / values.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    assert ((expected > 0.68) & (expected < 1.21)).all()
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


def names_of(pair: nn.Module) -> tuple[frozenset[str], dict[str, nn.Parameter]]:
    return weights_of_layers(pair), dict(pair.named_parameters())


def test_a_flow_keeps_the_zeros_of_its_masks() -> None:
    """Their gradients are zero, and an orthogonal matrix is not."""
    pair = PairLoss(VAE(SPEC), IAF(SPEC), ELBO())
    matrices, parameters = names_of(pair)
    masked = {
        f"{name}.weight" for name, layer in pair.named_modules() if isinstance(layer, MaskedLinear)
    }
    assert masked
    assert masked < parameters.keys() - matrices


def test_one_weight_of_two_layers_and_a_convolution_in_groups() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    layers = nn.ModuleDict({"embedding": nn.Embedding(3, 3), "first": first, "second": second})
    layers["embedding"].weight = first.weight
    layers["grouped"], layers["whole"] = nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3)
    assert weights_of_layers(layers) == {"embedding.weight", "whole.weight"}


def test_no_parameter_is_left_to_adamw() -> None:
    torch.manual_seed(0)
    weight, gradient = nn.Parameter(torch.randn(4, 5)), torch.randn(4, 5)
    muon = Muon({"w": weight}, frozenset({"w"}), Rule("Muon"))
    muon.compile()
    muon.set_rate(0.1)
    expected = weight.detach() - 0.02 * 5**0.5 * orthogonal((1 - 0.95**2) * gradient)
    muon.update({"w": gradient})
    torch.testing.assert_close(weight.detach(), expected)
    assert muon.state().keys() == {"momentum.w"}
    muon.restore({})
    assert not muon.state()["momentum.w"].any()


def test_filters_that_lie_channels_last() -> None:
    torch.manual_seed(0)
    filters, gradient = torch.randn(2, 8, 3, 2, 2)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(filters.clone(memory_format=layout))
        muon = Muon({"w": weight}, frozenset({"w"}), RULE)
        muon.set_rate(0.1)
        muon.update({"w": gradient})
        assert weight.is_contiguous(memory_format=layout)
        moved.append(weight.detach())
    torch.testing.assert_close(*moved)


def linear(inputs: Shape, outputs: Shape) -> nn.Module:
    """Not a `Network`, so that it computes in float32 in every precision."""
    layer = nn.Linear(prod(inputs), prod(outputs))
    return nn.Sequential(nn.Flatten(-len(inputs)), layer, nn.Unflatten(-1, outputs))


def test_a_step_has_the_products_of_its_precision() -> None:
    """The gradients are the same in both."""
    images, moved = torch.rand(4, 1, 8, 8).round(), {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        torch.manual_seed(0)
        model, guide = VAE(SPEC, network=linear), DiagonalNormal(SPEC, linear)
        step = SVIStep(model, guide, ELBO(), precision=precision, rule=Rule("Muon"))
        before = {name: p.detach().clone() for name, p in step.parameters.items()}
        torch.manual_seed(1)
        step((images,), 0.1)
        moved[precision] = {name: p.detach() - before[name] for name, p in step.parameters.items()}
    matrices = weights_of_layers(step.pair)
    for name, change in moved["float32"].items():
        assert torch.equal(moved["bfloat16"][name], change) == (name not in matrices), name


def test_a_double_pair_moves_in_double() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 4, 5, dtype=torch.float64)
    left, values, right = torch.linalg.svd((1 - 0.95**2) * gradient, full_matrices=False)
    values /= values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = weight - 0.1 * 0.2 * 5**0.5 * left @ values.diag() @ right
    parameter = nn.Parameter(weight.clone())
    muon = Muon({"w": parameter}, frozenset({"w"}), Rule("Muon"))
    muon.set_rate(0.1)
    muon.update({"w": gradient})
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)


def test_a_weight_that_is_frozen_stays() -> None:
    torch.manual_seed(0)
    step = SVIStep(VAE(SPEC), DiagonalNormal(SPEC), ELBO(), rule=Rule("Muon"))
    name = min(weights_of_layers(step.pair))
    frozen = step.parameters[name].requires_grad_(False)
    before = {key: p.detach().clone() for key, p in step.parameters.items()}
    step((torch.rand(4, 1, 8, 8).round(),), 0.1)
    assert torch.equal(frozen, before[name])
    assert not any(torch.equal(p, before[key]) for key, p in step.parameters.items() if key != name)
