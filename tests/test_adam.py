"""Adam and its family against torch's own."""

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.runs.settings import Optimizer
from ppl_vae.training.adam import FAMILY, Adam, Rule

SHAPE = (33, 40)
GO, SKIP = torch.tensor(0.0), torch.tensor(1.0)


@pytest.fixture(params=[True, False], ids=["fused", "without the kernel"], autouse=True)
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether torch has its fused kernels; everything holds without them."""
    if not request.param:
        monkeypatch.delattr(torch, "_fused_adam_")
        monkeypatch.delattr(torch, "_fused_adamw_")
    return request.param


def learned(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {
        "weight": nn.Parameter(torch.randn(SHAPE, dtype=dtype)),
        "unused": nn.Parameter(torch.ones(3, dtype=dtype)),
        "other": nn.Parameter(torch.randn(7, dtype=torch.float32)),
    }


def gradients(steps: int, dtype: torch.dtype = torch.float64) -> list[dict[str, Tensor | None]]:
    torch.manual_seed(1)
    return [
        {"weight": torch.randn(SHAPE, dtype=dtype), "unused": None, "other": torch.randn(7)}
        for _ in range(steps)
    ]


def torchs(
    steps: list[dict[str, Tensor | None]], name: str = "Adam", **options: object
) -> dict[str, nn.Parameter]:
    parameters = learned()
    optimizer = getattr(torch.optim, name)(parameters.values(), **options)
    for number, step in enumerate(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
        for name, parameter in parameters.items():
            parameter.grad = step[name]
        optimizer.step()
    return parameters


def ours(
    steps: list[dict[str, Tensor | None]], rule: Rule | None = None
) -> dict[str, nn.Parameter]:
    parameters = learned()
    adam = Adam(parameters, rule)
    for number, step in enumerate(steps):
        adam.set_rate(0.1 / (1 + number))
        adam.update(step, GO)
    return parameters


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_torch(weight_decay: float, fused: bool) -> None:
    """To the last bit; up to rounding those of the arithmetic that torch has in Python."""
    steps = gradients(5)
    expected = torchs(steps, weight_decay=weight_decay, fused=fused, foreach=False)
    in_python = torchs(steps, weight_decay=weight_decay, fused=False, foreach=False)
    for name, parameter in ours(steps, Rule(weight_decay=weight_decay)).items():
        assert torch.equal(parameter, expected[name]), name
        torch.testing.assert_close(parameter, in_python[name])


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_every_rule_is_that_of_torch(name: Optimizer, weight_decay: float, fused: bool) -> None:
    """Over more steps than RAdam takes to trust its denominator, with constants of one's own."""
    steps = gradients(12)
    has_kernel = {"fused": True} if fused and name in ("Adam", "AdamW") else {}
    expected = torchs(
        steps, name, betas=(0.8, 0.95), eps=1e-3, weight_decay=weight_decay,
        **(has_kernel or {"foreach": False}),
    )  # fmt: skip
    rule = Rule(name, 0.8, 0.95, 1e-3, weight_decay)
    for parameter, value in ours(steps, rule).items():
        assert torch.equal(value, expected[parameter]), parameter


@pytest.mark.parametrize("name", FAMILY)
def test_what_a_captured_step_computes(
    name: Optimizer, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding the same, with tensors for the rate and the counts, here on the CPU."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as no device is refused
    steps, rule = gradients(12), Rule(name, weight_decay=0.1)
    parameters = learned()
    adam = Adam(parameters, rule)
    adam._capturable, adam._rate = True, torch.zeros(())
    for number, step in enumerate(steps):
        adam.set_rate(0.1 / (1 + number))
        adam.update(step, GO)
    monkeypatch.undo()
    for parameter, value in ours(steps, rule).items():
        torch.testing.assert_close(parameters[parameter], value, rtol=1e-5, atol=1e-5)


def test_the_rules_differ() -> None:
    steps = gradients(12)
    ends = [ours(steps, Rule(name, weight_decay=0.1))["weight"] for name in FAMILY]
    assert all(not torch.allclose(a, b) for a, b in combinations(ends, 2))


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_a_gradient_that_lies_otherwise_in_memory(layout: str) -> None:
    values = torch.randn(SHAPE, dtype=torch.float64)
    gradient = {
        "transposed": values.t().contiguous().t(),
        "expanded": values[:, :1].expand(SHAPE),
        "strided": torch.cat([values, values], 1)[:, ::2],
    }[layout]
    assert not gradient.is_contiguous()
    steps: list[dict[str, Tensor | None]] = [{"weight": gradient, "unused": None, "other": None}]
    expected = torchs(steps * 3, foreach=False)
    torch.testing.assert_close(ours(steps * 3)["weight"], expected["weight"])


def test_a_transposed_parameter() -> None:
    values, gradient = torch.randn(2, 4, 3, dtype=torch.float64)
    transposed, plain = nn.Parameter(values.t().clone()), nn.Parameter(values.t().contiguous())
    assert not transposed.is_contiguous()
    assert plain.is_contiguous()
    for parameter in (transposed, plain):
        adam = Adam({"p": parameter})
        adam.set_rate(0.1)
        for _ in range(3):
            adam.update({"p": gradient.t().contiguous()}, GO)
    assert torch.equal(transposed, plain)


def test_a_parameter_with_gaps_is_refused() -> None:
    with pytest.raises(InputError, match=r"fill their memory; p is a view .* \.contiguous\(\)$"):
        Adam({"p": nn.Parameter(torch.zeros(3, 8)[:, ::2])})


@pytest.mark.parametrize("name", FAMILY)
def test_a_skipped_step_leaves_everything(name: Optimizer) -> None:
    """Also the count, so that the next step is what it would have been."""
    first, second = gradients(2)
    parameters, rule = learned(), Rule(name)
    adam = Adam(parameters, rule)
    adam.set_rate(0.1)
    adam.update(first, GO)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    state = {name: value.clone() for name, value in adam.state().items()}
    adam.update({name: torch.full_like(p, torch.nan) for name, p in parameters.items()}, SKIP)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name]), name
    for name, value in state.items():
        assert torch.equal(adam.state()[name], value), name
    adam.set_rate(0.05)
    adam.update(second, GO)
    expected = ours([first, second], rule)
    for name in ("weight", "other"):
        assert torch.equal(parameters[name], expected[name]), name


@pytest.mark.parametrize("name", FAMILY)
def test_no_skip_is_a_skip_of_zero(name: Optimizer) -> None:
    steps, parameters = gradients(4), learned()
    adam = Adam(parameters, Rule(name))
    adam.set_rate(0.1)
    for step in steps:
        adam.update(step)
    other = learned()
    expected = Adam(other, Rule(name))
    expected.set_rate(0.1)
    for step in steps:
        expected.update(step, GO)
    for key, value in expected.state().items():
        assert torch.equal(adam.state()[key], value), key
    for key, parameter in other.items():
        assert torch.equal(parameters[key], parameter), key


@pytest.mark.parametrize("name", FAMILY)
def test_a_saved_state_goes_on(name: Optimizer) -> None:
    steps, rule = gradients(4), Rule(name)
    whole = ours(steps, rule)
    parameters = learned()
    adam = Adam(parameters, rule)
    for number, step in enumerate(steps[:2]):
        adam.set_rate(0.1 / (1 + number))
        adam.update(step, GO)
    saved = {name: value.clone() for name, value in adam.state().items()}
    assert saved["step.unused"] == 0
    assert saved["step.weight"] == 2
    other = Adam(parameters, rule)
    other.restore(saved)
    for number, step in enumerate(steps[2:], start=2):
        other.set_rate(0.1 / (1 + number))
        other.update(step, GO)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, whole[name]), name
    other.restore({})
    for key, value in Adam(learned(), rule).state().items():
        assert torch.equal(other.state()[key], value), key
