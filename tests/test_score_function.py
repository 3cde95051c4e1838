"""The slides' "original form" of the gradient against the reparameterised form."""

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.objectives import ELBO, ScoreFunction

REPEATS = 20_000


def feature_gradients(objective, pair) -> Tensor:
    """The gradient for the variational parameters of each datum, many times: (REPEATS, B, F)."""
    model, guide, x = pair
    features: list[Tensor] = []
    handle = guide.encoder.register_forward_hook(lambda _, __, output: features.append(output))
    loss = objective.loss(model, guide, x.repeat(REPEATS, 1, 1, 1))
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, features[-1])
    return (gradient * len(gradient)).reshape(REPEATS, len(x), -1)


def test_both_forms_have_the_exact_mean_and_the_original_one_more_variance(pair):
    model, guide, x = pair
    features = guide.encode(x).detach().requires_grad_()
    # log p(x) does not depend on the guide: the exact gradient is that of the divergence.
    gap = kl_divergence(guide.posterior_of(features), model.posterior(x)).sum()
    (exact,) = torch.autograd.grad(gap, features)
    variance = {}
    for objective in (ELBO(4), ScoreFunction(4, "none"), ScoreFunction(4, "leave_one_out")):
        found = feature_gradients(objective, pair)
        error = found.std(0) / REPEATS**0.5
        assert ((found.mean(0) - exact).abs() < 4 * error).all(), objective
        assert (exact.abs() > 4 * error).any()  # and the comparison is of something
        variance[getattr(objective, "baseline", "reparameterised")] = found.var(0).sum()
    assert variance["reparameterised"] < variance["leave_one_out"] < variance["none"]


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_the_value_is_the_bound_and_the_models_gradient_the_ordinary_one(pair, baseline):
    model, guide, x = pair
    results = []
    for objective in (ELBO(3), ScoreFunction(3, baseline)):
        torch.manual_seed(1)
        loss = objective.loss(model, guide, x)
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_the_surrogate_by_hand(pair, baseline):
    model, guide, x = pair
    torch.manual_seed(1)
    found = torch.autograd.grad(
        ScoreFunction(3, baseline).loss(model, guide, x), guide.encoder.parameters()
    )
    torch.manual_seed(1)
    q = guide.posterior(x)
    z = q.sample((3,))
    joint = model.prior().log_prob(z) + model.decode(z).log_prob(x)
    log_weights = (joint - q.log_prob(z)).detach()
    expected = [torch.zeros_like(p) for p in guide.encoder.parameters()]
    for datum in range(5):
        for k in range(3):
            others = [log_weights[j, datum] for j in range(3) if j != k]
            baseline_k = sum(others) / 2 if baseline == "leave_one_out" else 0.0
            score = torch.autograd.grad(
                guide.posterior(x).log_prob(z)[k, datum], guide.encoder.parameters()
            )
            for total, s in zip(expected, score, strict=True):
                total -= (log_weights[k, datum] - baseline_k) * s / 15
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
