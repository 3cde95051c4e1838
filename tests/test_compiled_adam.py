"""Adam's updates compiled, as they are on a GPU, here on the CPU."""

import pytest
import torch
import torch._inductor
from torch import Tensor, nn

from ppl_vae.runs.settings import Optimizer
from ppl_vae.training.adam import FAMILY, Adam, Rule

GO, SKIP = torch.tensor(0.0), torch.tensor(1.0)


def learned() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {
        "weight": nn.Parameter(torch.randn(33, 40)),
        "unused": nn.Parameter(torch.ones(3)),
        "other": nn.Parameter(torch.randn(7)),
    }


def gradients(steps: int) -> list[dict[str, Tensor | None]]:
    torch.manual_seed(1)
    return [
        {"weight": torch.randn(33, 40), "unused": None, "other": torch.randn(7)}
        for _ in range(steps)
    ]


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's functions take tensors for the rate and the counts on GPUs alone."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def compiled(rule: Rule) -> Adam:
    adam = Adam(learned(), rule)
    adam._capturable, adam._rate = True, torch.zeros(())
    adam.compile()
    return adam


@pytest.mark.parametrize("name", FAMILY)
def test_what_a_compiled_update_computes(name: Optimizer, capsys) -> None:
    """Up to rounding the same, also where steps are left out, gradients vanish or lie otherwise."""
    rule = Rule(name, weight_decay=0.1)
    ours, plain = compiled(rule), Adam(learned(), rule)
    for number, step in enumerate(gradients(6)):
        if number == 4:  # from here on the count of one parameter is behind that of the others
            step = step | {"other": None}
        weight = step["weight"]
        assert weight is not None
        for adam, values in ((ours, weight.t().contiguous().t()), (plain, weight)):
            adam.set_rate(0.1 / (1 + number))
            adam.update(step | {"weight": values}, SKIP if number == 2 else GO)
    for key, value in plain.state().items():
        torch.testing.assert_close(ours.state()[key], value, rtol=1e-5, atol=1e-6)
    assert [int(ours.state()[f"step.{key}"]) for key in ("weight", "unused", "other")] == [5, 0, 4]
    for key, parameter in plain._parameters.items():
        torch.testing.assert_close(ours._parameters[key], parameter, rtol=1e-5, atol=1e-5)
    assert capsys.readouterr().err == ""


def test_nan_in_a_step_that_is_left_out_reaches_nothing() -> None:
    adam, (first, second) = compiled(Rule()), gradients(2)
    adam.set_rate(0.1)
    adam.update(first, GO)
    before = {key: value.clone() for key, value in adam.state().items()}
    adam.update({key: g if g is None else g * torch.nan for key, g in second.items()}, SKIP)
    assert all(torch.equal(adam.state()[key], value) for key, value in before.items())


def test_an_update_that_differs_once_compiled_is_not_taken(capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda *given, **options: lambda *tensors: None)
    ours, plain, (step,) = compiled(Rule()), Adam(learned()), gradients(1)
    for adam in (ours, plain):
        adam.set_rate(0.1)
        adam.update(step, GO)
    assert "because it is another function once compiled" in capsys.readouterr().err
    assert ours._compiling is False  # so that the fused kernel goes on, where there is one
    for key, parameter in plain._parameters.items():
        torch.testing.assert_close(ours._parameters[key], parameter, rtol=1e-5, atol=1e-5)
