"""Wake-sleep: each side's gradient is its own, derived by hand, and vanishes at the optimum."""

import pytest
import torch
from comparing import loss_and_gradients
from torch import Tensor, nn

import models
from guides import BottomUp, DiagonalNormal, Ladder, SemiAmortized
from models import VAE, Hierarchical, Spec
from ppl_vae.objectives import WakeSleep
from ppl_vae.objectives.wake_sleep import _sleep


def gradients(loss: Tensor, *modules: nn.Module) -> list[Tensor]:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return list(torch.autograd.grad(loss, parameters))


def test_both_phases_by_hand(pair):
    model, guide, x = pair
    torch.manual_seed(1)
    loss = WakeSleep(3).loss(model, guide, x)
    torch.manual_seed(1)
    with torch.no_grad():
        z = guide.posterior(x).sample((3,))
        dreamt_z = torch.randn(5, 2, dtype=torch.float64)
        mean = dreamt_z @ model.loadings.T + model.mean
        dreamt_x = mean + model.log_scale.exp() * torch.randn(5, 1, 3, 2, dtype=x.dtype).flatten(1)
    residual = (x.flatten(1) - z @ model.loadings.T - model.mean) / model.log_scale.exp()
    log_two_pi = torch.tensor(2 * torch.pi, dtype=x.dtype).log()
    log_likelihood = -0.5 * (residual**2 + log_two_pi).sum(-1) - 6 * model.log_scale
    log_prior = -0.5 * (z**2 + log_two_pi).sum(-1)
    wake = -(log_prior + log_likelihood).mean()
    features = guide.encoder.linear(dreamt_x)
    scale_tril = torch.diag_embed((features[:, 2:4] / 2).exp())
    scale_tril = scale_tril + features[:, 4, None, None] * torch.tensor([[0, 0], [1, 0]])
    normal = torch.distributions.MultivariateNormal(features[:, :2], scale_tril=scale_tril)
    sleep = -normal.log_prob(dreamt_z).mean()
    torch.testing.assert_close(loss, wake + sleep)
    expected = gradients(wake, model) + gradients(sleep, guide)
    torch.testing.assert_close(gradients(loss, model, guide), expected, rtol=1e-9, atol=1e-10)


def _mean_gradient(model, guide, repeats: int = 60) -> tuple[Tensor, Tensor]:
    rows = []
    for _ in range(repeats):
        x = model(size=100).detach()
        loss = WakeSleep().loss(model, guide, x)
        rows.append(torch.cat([g.flatten() for g in gradients(loss, model, guide)]))
    rows = torch.stack(rows)
    return rows.mean(0), rows.std(0) / repeats**0.5


def test_at_the_exact_posterior_of_the_true_model_nothing_pulls(exact_pair):
    model, guide, _ = exact_pair
    mean, error = _mean_gradient(model, guide)
    assert (mean.abs() < 4.5 * error).all()


def test_elsewhere_both_sides_are_pulled(pair):
    model, guide, _ = pair
    mean, error = _mean_gradient(model, guide)
    of_model = sum(parameter.numel() for parameter in model.parameters())
    pulled = mean.abs() > 6 * error
    assert pulled[:of_model].any()
    assert pulled[of_model:].any()


def test_sleep_finds_the_posterior(pair):
    model, guide, x = pair
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.03)
    images = x.repeat(50, 1, 1, 1)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 250)
        optimizer.zero_grad()
        WakeSleep().loss(model, guide, images).backward()
        optimizer.step()
    with torch.no_grad():
        gap = torch.distributions.kl_divergence(guide.posterior(x), model.posterior(x))
    assert gap.mean() < 0.01


def test_what_the_guide_follows_comes_from_the_models_own_images_alone():
    spec = Spec((1, 3, 4), "binary", 3)
    model = Hierarchical(spec)
    guide = BottomUp(spec, model)
    x = torch.rand(5, 1, 3, 4).round()
    before, after = (
        loss_and_gradients(WakeSleep().loss, (guide, model), model, guide, images)[1:]
        for images in (x, 1 - x)
    )
    assert all(gradient.any() for gradient in before)
    of_guide = len(list(guide.parameters()))
    assert all(map(torch.equal, before[:of_guide], after[:of_guide]))
    assert not any(map(torch.equal, before[of_guide:], after[of_guide:]))


@pytest.mark.parametrize(("kind", "guide_kind"), [(VAE, SemiAmortized), (Hierarchical, Ladder)])
def test_sleep_leaves_the_model_alone_where_the_guide_is_made_of_it(kind, guide_kind):
    spec = Spec((1, 3, 4), "binary", 2)
    model = kind(spec)
    guide = guide_kind(spec, model)
    loss = _sleep(model, guide, torch.rand(5, 1, 3, 4).round())
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    of_model = torch.autograd.grad(loss, list(model.parameters()), **options)
    assert not any(gradient.any() for gradient in of_model)
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(guide.parameters())))


@pytest.mark.parametrize(
    "likelihood",
    ["Bernoulli", "BetaBinomial", "ContinuousBernoulli", "DiscretizedLogistic", "Gaussian"],
)
def test_what_the_guide_dreams_is_in_the_domain(likelihood):
    kind = getattr(models, likelihood)
    spec = Spec((1, 3, 4), kind.domain, 2)
    model, guide = VAE(spec, likelihood=kind(spec)), DiagonalNormal(spec)
    seen: list[Tensor] = []
    guide.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = model(size=6).detach()
    WakeSleep().loss(model, guide, x)
    awake, dreamt = seen
    assert torch.equal(awake, x)
    assert dreamt.shape == x.shape
    assert not torch.equal(dreamt, x)
    assert model.decode(torch.zeros(2)).support.check(dreamt).all()
