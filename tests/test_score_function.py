"""The slides' "original form" of the gradient against the reparameterised form."""

from functools import partial

import pyro
import pytest
import torch
from comparing import loss_and_gradients, seeded
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from guides import BottomUp, Ladder, SemiAmortized
from models import MLP, Hierarchical, Spec
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
    results = [
        loss_and_gradients(objective.loss, [model], model, guide, x)
        for objective in (ELBO(3), ScoreFunction(3, baseline))
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_the_surrogate_by_hand(pair, baseline):
    model, guide, x = pair
    objective = ScoreFunction(3, baseline)
    found = loss_and_gradients(objective.loss, [guide.encoder], model, guide, x)[1:]
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
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_draws_are_scored_under_the_parameters_that_they_were_drawn_from(pair, baseline):
    """Where the guide draws noise of its own, another run of it would be another q(z|x)."""
    model, _, x = pair
    guide = SemiAmortized(model.spec, model, network=partial(MLP, hidden=(5,)), steps=2).double()
    objectives = ELBO(3), ScoreFunction(3, baseline)
    losses = [seeded(objective.loss, model, guide, x) for objective in objectives]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", [BottomUp, Ladder])
def test_no_gradient_comes_from_one_layer_of_draws_through_the_other(kind):
    spec = Spec((1, 3, 2), "binary", 2)
    model = Hierarchical(spec, network=partial(MLP, hidden=(5,)))
    guide = kind(spec, model, network=partial(MLP, hidden=(5,)))
    torch.nn.ModuleList([model, guide]).double()
    x = torch.rand(4, 1, 3, 2, dtype=torch.float64).round()
    loss = ScoreFunction(1, "none").loss
    found = loss_and_gradients(loss, (model, guide), model, guide, x)[1:]
    torch.manual_seed(1)
    with torch.no_grad(), pyro.plate("particles", 1, dim=-2):
        draws = poutine.trace(guide).get_trace(x)
    log_q = poutine.trace(poutine.replay(guide, draws)).get_trace(x).log_prob_sum()
    joint = poutine.trace(poutine.replay(model, draws)).get_trace(x)
    scores = poutine.trace(poutine.replay(guide, draws)).get_trace(x)
    scores.compute_log_prob()
    joint.compute_log_prob()
    per_datum = [
        sum(trace.nodes[name]["log_prob"] for name in names)
        for trace, names in ((joint, ("z2", "z1", "x")), (scores, ("z2", "z1")))
    ]
    assert torch.isclose(per_datum[1].sum(), log_q)
    signal = (per_datum[0] - per_datum[1]).detach()
    surrogate = -(per_datum[0] + signal * per_datum[1]).mean()
    expected = torch.autograd.grad(surrogate, [*model.parameters(), *guide.parameters()])
    torch.testing.assert_close(found, [*expected], rtol=1e-9, atol=1e-12)
