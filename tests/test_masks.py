"""Masks and scales of Pyro's handlers in programs of one's own: masks count, scales in losses."""

from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import (
    counts,
    counts_guide,
    counts_log_likelihood,
    counts_model,
    refused,
    split_of,
    two_clusters_guide,
    two_clusters_terms,
)
from pyro import poutine
from tiny_runs import TINY
from torch import Tensor

from guides import DiagonalNormal, SemiSupervisedNormal
from models import VAE, SemiSupervised, Spec
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.weights import log_terms, log_weights
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import ELBO, IWAE, Beta, Objective, Renyi, ScoreFunction

SPEC = Spec((1, 3, 4), "binary", 2, classes=3)


class Handled:
    """Runs a program under a handler of Pyro."""

    handler = staticmethod(lambda program, x: program)

    def forward(self, *batch: Tensor) -> Tensor:
        return type(self).handler(super().forward, batch[0])(*batch)


def pair(handler, kinds=(VAE, DiagonalNormal)):
    """A model and a guide, each under the handler."""
    torch.manual_seed(0)
    return [
        type(f"{kind.__name__}Handled", (Handled, kind), {"handler": staticmethod(handler)})(
            SPEC, network=TINY
        ).double()
        for kind in kinds
    ]


def masked(program, x: Tensor):
    return poutine.mask(program, mask=kept(x))


def scaled(program, x: Tensor):
    return poutine.scale(program, scale=3.0)


def plain(program, x: Tensor):
    return program


def kept(x: Tensor) -> Tensor:
    """Which data count: those with a first number above 0, here 3 of 5."""
    return x.flatten(1)[:, 0] > 0


@pytest.fixture
def x() -> Tensor:
    x = torch.rand(5, 1, 3, 4, dtype=torch.float64).bernoulli()
    x[:, 0, 0, 0] = torch.tensor([1, 0, 1, 1, 0])
    return x


def plain_terms(x: Tensor, particles: int):
    model, guide = pair(plain)
    torch.manual_seed(1)
    return log_terms(model, guide, x, particles)


def bound(objective: Objective, terms, factor: Tensor | float) -> Tensor:
    """The loss by hand, from terms that are multiplied by the mask or the scale."""
    prior, likelihood, guide = (
        factor * term for term in (terms.log_prior, terms.log_likelihood, terms.log_guide)
    )
    weights = prior + likelihood - guide
    if isinstance(objective, IWAE):
        return -(weights.logsumexp(0) - log(len(weights))).mean()
    if isinstance(objective, Renyi):
        return -2 * ((weights / 2).logsumexp(0) - log(len(weights))).mean()
    if isinstance(objective, Beta):
        return (4 * (guide - prior) - likelihood).mean()
    return -weights.mean()


@pytest.mark.parametrize("handler", [masked, scaled])
@pytest.mark.parametrize(
    "objective",
    [
        ELBO(3), IWAE(3), IWAE(3, "stl"), IWAE(3, "dreg"), IWAE(3, "dreg", 2), Renyi(0.5, 3),
        Beta(4.0, particles=3), ScoreFunction(3),
    ],
    ids=str,
)  # fmt: skip
def test_losses_obey_masks_and_scales(handler, objective: Objective, x: Tensor) -> None:
    factor = kept(x).double() if handler is masked else 3.0
    expected = bound(objective, plain_terms(x, 3), factor)
    model, guide = pair(handler)
    torch.manual_seed(1)
    torch.testing.assert_close(objective.loss(model, guide, x), expected)


@pytest.mark.parametrize("handler", [masked, scaled])
def test_measurements_obey_masks_and_leave_scales_out(handler, x: Tensor) -> None:
    terms = plain_terms(x, 6)
    factor = kept(x).double() if handler is masked else 1.0
    expected = factor * terms.log_weights
    model, guide = pair(handler)
    torch.manual_seed(1)
    torch.testing.assert_close(log_weights(model, guide, x, 6), expected)
    with torch.no_grad():
        joint = Joint.of(model, guide, x)
        torch.manual_seed(1)
        torch.testing.assert_close(joint.log_weights(6), expected)
        torch.manual_seed(1)
        found = estimate(model, guide, split_of(x), 6)
    torch.testing.assert_close(found.elbo, expected.mean(0))
    rate = factor * (terms.log_guide - terms.log_prior).mean(0)
    torch.testing.assert_close(found.rate, rate)


def test_masked_images_do_not_train_what_sums_classes_out(x: Tensor) -> None:
    """The loss of five images of which two are masked is that of the other three."""
    labels = torch.tensor([0, 2, -1, 1, -1])
    kinds = (SemiSupervised, SemiSupervisedNormal)
    model, guide = pair(masked, kinds)
    terms = log_terms(model, guide, x, 40, labels=labels)
    bound = terms.sum(terms.log_weights) / 40
    assert (bound[~kept(x)].abs() < 1e-10).all()
    without = pair(plain, kinds)
    torch.manual_seed(1)
    expected = log_terms(*without, x, 40, labels=labels)
    torch.manual_seed(1)
    again = log_terms(model, guide, x, 40, labels=labels)
    for name in ("log_prior", "log_likelihood", "log_guide", "log_share"):
        ours, theirs = getattr(again, name), getattr(expected, name)
        torch.testing.assert_close(ours[:, kept(x)], theirs[:, kept(x)])


@pytest.mark.parametrize("by", ["handler", "distribution"])
def test_classes_that_are_summed_out_under_a_mask(by: str) -> None:
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)

    def model(x: Tensor) -> None:
        there = x > -2
        keep = lambda fn: fn.mask(there) if by == "distribution" else fn  # noqa: E731
        mask = poutine.mask(mask=there if by == "handler" else True)
        with pyro.plate("data", len(x), dim=-1), mask:
            weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
            y = pyro.sample("y", keep(dist.Categorical(weights)), infer={"enumerate": "parallel"})
            z = pyro.sample("z", keep(dist.Normal(4.0 * y - 2, 1.0 + 0 * x)))
            pyro.sample("x", keep(dist.Normal(z, 0.5**0.5)), obs=x)

    def guide(x: Tensor) -> None:
        with poutine.mask(mask=x > -2):
            two_clusters_guide(x)

    weights = Joint.of(model, guide, x).log_weights(9)
    exact = (x > -2) * two_clusters_terms(x).logsumexp(-1)
    torch.testing.assert_close(weights, exact.expand(9, 5))


def test_a_mask_of_pixels_and_a_factor() -> None:
    """Counts that are missing tell nothing, and a factor adds its own logarithm."""
    x = counts()
    there = torch.rand(4, 5) < 0.6

    def model(x: Tensor, there: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, torch.full((len(x),), 2.0).to(x)))
            counts = dist.Poisson(rate[..., None].expand(*rate.shape, 5))
            pyro.sample("x", counts.mask(there).to_event(1), obs=x)
            pyro.factor("prior_knowledge", 0.25 + 0 * rate)

    def guide(x: Tensor, there: Tensor) -> None:
        total, seen = (x * there).sum(-1), there.sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(3.0 + total, 2.0 + seen))

    weights = log_weights(model, guide, (x, there), 7)
    assert torch.allclose(weights, weights[:1].expand(7, 4))  # the guide is the posterior
    one = torch.where(there, x, 0.0)
    total, seen = one.sum(-1), there.sum(-1)
    exact = (
        3 * log(2.0) - log(2.0) + torch.lgamma(3 + total) - (3 + total) * (2.0 + seen).log()
        - torch.lgamma(one + 1).sum(-1) + 0.25
    )  # fmt: skip
    torch.testing.assert_close(weights[0], exact)


def test_a_prior_that_is_masked_out_leaves_the_likelihood() -> None:
    x = counts()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 2.0 + 0 * x[:, 0]).mask(False))
            counts = dist.Poisson(rate[..., None].expand(*rate.shape, 5))
            pyro.sample("x", counts.to_event(1), obs=x)

    joint = Joint.of(model, counts_guide, x)
    whole = Joint.of(counts_model, counts_guide, x)
    latents, log_q = whole.draw(3)
    log_prior, log_likelihood = joint.log_terms(latents)
    assert (log_prior == 0).all()
    prior, likelihood = whole.log_terms(latents)
    assert torch.equal(log_likelihood, likelihood)
    torch.testing.assert_close(prior + likelihood - log_q, counts_log_likelihood(x).expand(3, 4))


def test_a_mask_that_does_not_follow_the_data_is_refused(x: Tensor) -> None:
    fixed = kept(x)
    model, guide = pair(lambda program, x: poutine.mask(program, mask=fixed))
    with refused("Hand it over with the data"):
        Joint.of(model, guide, x)
