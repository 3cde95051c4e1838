"""The further priors, likelihoods and guides, against SciPy and closed forms."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import logsumexp

from guides import DiagonalNormal, FullRankNormal
from models import (
    BetaBinomial,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Linear,
    MixtureOfNormals,
    ProbabilisticPCA,
    Spec,
)
from ppl_vae.densities.weights import log_weights

DRAWS = 20_000
BYTES = torch.arange(256.0, dtype=torch.float64)


def _masses(likelihood: type, features: torch.Tensor, **options) -> np.ndarray:
    """P(v) for v = 0, ..., 255 of a single pixel with these two features."""
    built = likelihood(Spec((1, 1, 1), "bytes", 2), **options)
    one_pixel = built(features.reshape(2, 1, 1))
    return one_pixel.log_prob(BYTES.reshape(-1, 1, 1, 1)).exp().numpy()


@pytest.mark.parametrize("location", [-3.0, -1.0, 0.1, 0.99, 2.0])
@pytest.mark.parametrize("log_scale", [-8.0, -3.0, 0.0, 2.0])
def test_a_discretized_logistic_is_differences_of_the_distribution_function(location, log_scale):
    features = torch.tensor([location, log_scale], dtype=torch.float64)
    got = _masses(DiscretizedLogistic, features)
    loc, scale = 127.5 * (1 + location), 0.05 + 16 * np.exp(log_scale)
    edges = np.concatenate([[-np.inf], np.arange(255) + 0.5, [np.inf]])
    upper, lower = edges[1:], edges[:-1]
    # Each side of the median from its own tail, so that SciPy's differences do not cancel.
    below = scipy.stats.logistic.cdf(upper, loc, scale) - scipy.stats.logistic.cdf(
        lower, loc, scale
    )
    above = scipy.stats.logistic.sf(lower, loc, scale) - scipy.stats.logistic.sf(upper, loc, scale)
    np.testing.assert_allclose(got, np.where(upper < loc, below, above), rtol=1e-6, atol=1e-300)
    assert got.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("features", [(-2.0, 0.5), (0.0, 0.0), (3.0, -6.0)])
def test_a_beta_binomial_is_scipys(features):
    values = torch.tensor(features, dtype=torch.float64)
    got = _masses(BetaBinomial, values)
    a, b = 1e-3 + np.log1p(np.exp(values.numpy()))
    np.testing.assert_allclose(got, scipy.stats.betabinom.pmf(BYTES, 255, a, b), rtol=1e-8)
    assert got.sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("likelihood", [DiscretizedLogistic, BetaBinomial])
def test_draws_of_bytes_follow_the_masses(likelihood):
    features = torch.tensor([0.3, 0.4], dtype=torch.float64)
    masses = _masses(likelihood, features)
    pixel = likelihood(Spec((1, 1, 1), "bytes", 2))(features.reshape(2, 1, 1))
    draws = pixel.sample((DRAWS,)).flatten().numpy()
    bins = np.linspace(0, 256, 17)  # of 16 values each, so that every bin expects many draws
    observed = np.histogram(draws, bins)[0]
    expected = DRAWS * masses.reshape(16, 16).sum(1)
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-4
    mean = float((BYTES.numpy() * masses).sum())
    assert pixel.mean.item() == pytest.approx(mean, rel=1e-6)


def test_a_mixture_prior_is_scipys_mixture_and_its_draws_follow_it():
    prior = MixtureOfNormals(Spec((1, 2, 2), "binary", 2), components=3).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.log_scale.normal_()
    z = torch.randn(50, 2, dtype=torch.float64)
    weights = prior.logits.softmax(0).detach().numpy()
    loc, scale = prior.loc.detach().numpy(), prior.log_scale.exp().detach().numpy()
    parts = scipy.stats.norm.logpdf(z.numpy()[:, None], loc, scale).sum(-1)
    expected = logsumexp(parts, b=weights, axis=1)
    np.testing.assert_allclose(prior().log_prob(z).detach(), expected, rtol=1e-10)
    draws = prior().sample((DRAWS,)).numpy()
    mean = weights @ loc
    covariance = (weights[:, None] * (scale**2 + loc**2)).sum(0) - mean**2
    assert (np.abs(draws.mean(0) - mean) < 4 * np.sqrt(covariance / DRAWS)).all()


def test_a_full_rank_normal_is_scipys():
    guide = FullRankNormal(Spec((1, 3, 2), "real", 3), network=Linear).double()
    x = torch.randn(4, 1, 3, 2, dtype=torch.float64)
    q = guide.posterior(x)
    z = torch.randn(4, 3, dtype=torch.float64)
    off_diagonal = q.covariance_matrix[:, 0, 1].abs()
    assert (off_diagonal > 1e-3).all()
    for each, loc, covariance, log_prob in zip(
        z, q.mean, q.covariance_matrix, q.log_prob(z), strict=True
    ):
        expected = scipy.stats.multivariate_normal.logpdf(
            each.numpy(), loc.detach().numpy(), covariance.detach().numpy()
        )
        assert log_prob.item() == pytest.approx(expected, rel=1e-8)


def test_a_full_rank_normal_closes_the_gap_of_a_correlated_posterior_and_a_diagonal_one_cannot():
    torch.manual_seed(0)
    spec = Spec((1, 3, 2), "real", 2)
    model = ProbabilisticPCA(spec, initial_scale=0.5).double()
    with torch.no_grad():  # two loadings that overlap: z_1 and z_2 are correlated given x
        model.loadings.copy_(torch.randn(6, 1) + 0.3 * torch.randn(6, 2))
    x = model(size=200).detach()
    exact = model.log_likelihood(x).detach()
    gaps = {}
    posterior = model.posterior(x)
    true = torch.distributions.MultivariateNormal(
        posterior.mean.detach(), posterior.covariance_matrix.detach()
    )
    for kind in (FullRankNormal, DiagonalNormal):
        guide = kind(spec, network=Linear).double()
        optimizer = torch.optim.LBFGS(
            guide.parameters(), max_iter=500, line_search_fn="strong_wolfe"
        )

        def divergence(guide=guide, optimizer=optimizer):
            optimizer.zero_grad()
            q = guide.posterior(x)
            covariance = getattr(q, "covariance_matrix", torch.diag_embed(q.variance))
            q = torch.distributions.MultivariateNormal(q.mean, covariance)
            loss = torch.distributions.kl_divergence(q, true).mean()
            loss.backward()
            return loss

        optimizer.step(divergence)
        with torch.no_grad():
            gaps[kind] = (exact - log_weights(model, guide, x, 500).mean(0)).mean().item()
    # Of a mean-field normal the smallest KL to N(mu, S) is (sum log diag(S^-1) + log det S) / 2.
    covariance = model.posterior(x[:1]).covariance_matrix[0].detach()
    smallest = (covariance.inverse().diagonal().log().sum() + covariance.logdet()).item() / 2
    assert gaps[FullRankNormal] < 0.01
    assert smallest > 0.1
    assert gaps[DiagonalNormal] == pytest.approx(smallest, abs=0.02)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: MixtureOfNormals(Spec((1, 2, 2), "binary", 2), 0), "components >= 1; got 0"),
        (lambda: BetaBinomial(Spec((1, 2, 2), "bytes", 2), 0.0), "floor > 0; got 0.0"),
        (lambda: DiscretizedLogistic(Spec((1, 2, 2), "bytes", 2), 0), "initial_scale > 0; got 0"),
        (lambda: DiscretizedLogistic(Spec((1, 2, 2), "bytes", 2), 1, -1), "floor > 0; got -1"),
        (lambda: ContinuousBernoulli(Spec((1, 2, 2), "binary", 2)), "needs unit data"),
    ],
)
def test_options_out_of_range_are_refused(build, said):
    with pytest.raises(ValueError, match=said):
        build()
