"""Gradients of a bounded norm, against torch's `clip_grad_norm_`."""

import pytest
import torch
from torch import Tensor, nn

from guides import DiagonalNormal
from models import VAE, Spec
from ppl_vae.compiler.comparison import with_gradients
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.clipping import clipped
from ppl_vae.training.step import SVIStep


def gradients() -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    return {"a": torch.randn(3, 4), "none": None, "b": torch.randn(5, dtype=torch.float64)}


def torchs(found: dict[str, Tensor | None], most: float) -> dict[str, Tensor | None]:
    parameters = {}
    for name, gradient in found.items():
        shape = () if gradient is None else gradient.shape
        parameters[name] = nn.Parameter(torch.zeros(shape, dtype=getattr(gradient, "dtype", None)))
        parameters[name].grad = None if gradient is None else gradient.clone()
    nn.utils.clip_grad_norm_(parameters.values(), most)
    return {name: parameter.grad for name, parameter in parameters.items()}


@pytest.mark.parametrize("most", [0.01, 1.0, 4.0, 100.0])
def test_gradients_are_those_of_torch(most: float) -> None:
    found = gradients()
    expected, got = torchs(found, most), clipped(found, most)
    assert got.keys() == expected.keys()
    assert got["none"] is None
    for name in ("a", "b"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=0)
    norm = sum(g.double().square().sum() for g in found.values() if g is not None) ** 0.5
    clipped_norm = sum(g.double().square().sum() for g in got.values() if g is not None) ** 0.5
    assert clipped_norm == pytest.approx(min(float(norm), most), rel=1e-4)


def test_a_small_gradient_stays_to_the_last_bit() -> None:
    found = gradients()
    for name, gradient in clipped(found, 100.0).items():
        assert gradient is found[name] is None or torch.equal(gradient, found[name])


@pytest.mark.usefixtures("traced_steps")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_clips_the_gradient_of_the_whole_pair(compiled: bool) -> None:
    """Against torch's optimizer on gradients that torch has clipped."""
    spec = Spec((1, 3, 2), "binary", 2)
    x = torch.rand(10, 1, 3, 2).round()
    torch.manual_seed(0)
    step = SVIStep(VAE(spec), DiagonalNormal(spec), ELBO(), clip_norm=0.5)
    torch.manual_seed(0)
    model, guide = VAE(spec), DiagonalNormal(spec)
    pair = PairLoss(model, guide, ELBO())
    optimizer = torch.optim.Adam(pair.parameters(), fused=True)
    if compiled:
        step.compile((x,))
    norms = []
    for number in range(5):
        torch.manual_seed(number)
        step((x,), 1e-2)
        torch.manual_seed(number)
        _, found = with_gradients(pair)(x)
        for name, parameter in pair.named_parameters():
            parameter.grad = found[name]
        norms.append(nn.utils.clip_grad_norm_(pair.parameters(), 0.5))
        optimizer.param_groups[0]["lr"] = 1e-2
        optimizer.step()
    assert min(norms) > 0.5  # so that there was something to clip
    for name, parameter in pair.named_parameters():
        torch.testing.assert_close(step.parameters[name], parameter, rtol=1e-5, atol=1e-6)
