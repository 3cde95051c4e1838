"""The aggregate posterior against its definition, and the ELBO under it."""

from math import log

import pytest
import torch
from oracles import Posterior, ppca, split_of
from torch.distributions import MultivariateNormal

from guides import BottomUp, ConditionalNormal, Delta, DiagonalNormal, FullRankNormal
from models import VAE, Conditional, Hierarchical, Linear, Spec
from ppl_vae.densities.weights import log_terms
from ppl_vae.measures.estimates import estimate
from ppl_vae.measures.exemplars import (
    AggregatePosterior,
    exemplar_elbo,
    has_aggregate_posterior,
)


@pytest.mark.parametrize("guide", [DiagonalNormal, FullRankNormal])
@torch.no_grad()
def test_it_is_the_mean_of_the_posteriors(guide) -> None:
    torch.manual_seed(0)
    spec = Spec((1, 3, 4), "real", 3)
    q = guide(spec, network=Linear).double()
    x = torch.randn(40, 1, 3, 4, dtype=torch.float64)
    z = 3 * torch.randn(2, 7, 3, dtype=torch.float64)
    each = q.posterior(x)
    expected = each.log_prob(z[:, :, None]).logsumexp(-1) - log(40)
    aggregate = AggregatePosterior.of(q, split_of(x))
    torch.testing.assert_close(aggregate.log_prob(z), expected)


@torch.no_grad()
def test_the_elbo_has_it_as_the_prior() -> None:
    torch.manual_seed(0)
    model = ppca()
    x, others = model(size=30), model(size=20)
    guide = Posterior(model)
    aggregate = AggregatePosterior.of(guide, split_of(others))
    torch.manual_seed(1)
    found = exemplar_elbo(model, guide, split_of(x), aggregate, 3)
    torch.manual_seed(1)
    terms = log_terms(model, guide, x, 3)
    exact = model.posterior(others)
    mixture = MultivariateNormal(exact.mean, exact.covariance_matrix)
    log_q = mixture.log_prob(terms.latents["z"][:, :, None]).logsumexp(-1) - log(20)
    expected = terms.log_weights - terms.log_prior + log_q
    torch.testing.assert_close(found, expected.mean(0))


@torch.no_grad()
def test_no_prior_gives_its_exemplars_a_higher_elbo() -> None:
    """Hoffman and Johnson (2016): the mean over the exemplars is highest under their q(z)."""
    torch.manual_seed(0)
    model = ppca()
    images = split_of(model(size=400))
    guide = DiagonalNormal(model.spec, network=Linear).double()
    aggregate = AggregatePosterior.of(guide, images)
    under_it = exemplar_elbo(model, guide, images, aggregate, 10)
    under_prior = estimate(model, guide, images, 10).elbo
    difference = under_it - under_prior
    assert difference.mean() > 3 * difference.std() / 400**0.5


def test_it_needs_one_distribution_of_an_image_alone() -> None:
    spec = Spec((1, 3, 4), "binary", 3, 2)
    one = split_of(torch.zeros(1, 1, 3, 4))
    assert has_aggregate_posterior(VAE(spec), DiagonalNormal(spec), one)
    assert not has_aggregate_posterior(VAE(spec), Delta(spec), one)
    assert not has_aggregate_posterior(Conditional(spec), ConditionalNormal(spec), one)
    levels = Hierarchical(spec)
    assert not has_aggregate_posterior(levels, BottomUp(spec, levels), one)
