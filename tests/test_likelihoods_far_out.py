"""Likelihoods in float32 over all features that training reaches, against 90 digits."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from mpmath import mp, mpf
from torch import Tensor

from guides import DiagonalNormal, FullRankNormal
from guides.ladder import precision_weighted
from models import (
    Bernoulli,
    BetaBinomial,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    Spec,
)
from models.likelihoods.continuous_bernoulli import LogitContinuousBernoulli

FEATURES = [-80.0, -30.0, -17.0, -3.0, -1.0, -0.9, -0.01, 0.0, 1e-3, 0.5, 2.0, 16.0, 50.0, 80.0]
FEW = [-80.0, -17.0, -1.0, 0.0, 2.0, 50.0, 80.0]
SCALE, FLOOR = 0.1, 1e-3


def sigmoid(u: Any) -> Any:
    return 1 / (1 + mp.exp(-u))


def bernoulli(x: float, r: Any) -> Any:
    return x * r - mp.log1p(mp.exp(r))


def continuous_bernoulli(x: float, r: Any) -> Any:
    """The constant by quadrature, for which 0 is a number like any other."""
    return r * x - mp.log(mp.quad(lambda t: mp.exp(r * t), [0, 0.1, 0.5, 0.9, 1]))


def gaussian(x: float, loc: Any, log_scale: Any) -> Any:
    scale = mpf(FLOOR) + mp.exp(log_scale) * (mpf(SCALE) - mpf(FLOOR))
    return -mp.log(scale) - mp.log(2 * mp.pi) / 2 - ((x - loc) / scale) ** 2 / 2


def discretized_logistic(x: float, location: Any, log_scale: Any) -> Any:
    """A difference of F, or of 1 - F where that is the smaller."""
    loc, scale = mpf(255) / 2 * (1 + location), mpf("0.05") + 16 * mp.exp(log_scale)
    upper, lower = (x + mpf(0.5) - loc) / scale, (x - mpf(0.5) - loc) / scale
    if x == 0:
        return mp.log(sigmoid(upper))
    if x == 255:
        return mp.log(sigmoid(-lower))
    left = upper < 0
    pair = (sigmoid(upper), sigmoid(lower)) if left else (sigmoid(-lower), sigmoid(-upper))
    return mp.log(pair[0] - pair[1])


def beta_binomial(x: float, first: Any, second: Any) -> Any:
    a, b = (mpf(FLOOR) + mp.log1p(mp.exp(feature)) for feature in (first, second))
    terms = mp.loggamma(x + a), mp.loggamma(255 - x + b), mp.loggamma(a + b)
    minus = mp.loggamma(255 + a + b), mp.loggamma(a), mp.loggamma(b)
    return mp.log(mp.binomial(255, x)) + sum(terms) - sum(minus)


def single(kind: type[Likelihood], features: list[tuple[float, ...]], dtype=torch.float32):
    """The distributions of one pixel, (N,), and the features that they were made from, (N, F)."""
    options = {"scale": "network"} if kind is Gaussian else {}
    likelihood = kind(Spec((1, 1, 1), kind.domain, 2), **options)
    values = torch.tensor(features, dtype=dtype).requires_grad_()
    return likelihood(values[..., None, None]).base_dist, values


# What is scored, by hand; and by how much float32 may be off: units in the last place of the
# largest term.
CASES: dict[str, Any] = {
    "Bernoulli": (Bernoulli, bernoulli, [0.0, 1.0], 1e-6),
    "ContinuousBernoulli": (ContinuousBernoulli, continuous_bernoulli, [0.0, 0.25, 1.0], 1e-5),
    "Gaussian": (Gaussian, gaussian, [0.0, 1.0], 1e-5),
    "DiscretizedLogistic": (DiscretizedLogistic, discretized_logistic, [0.0, 100.0, 255.0], 1e-5),
    "BetaBinomial": (BetaBinomial, beta_binomial, [0.0, 100.0, 255.0], 1e-5),
}


@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_and_gradients(name: str) -> None:
    kind, by_hand, xs, atol = CASES[name]
    several = kind in (Gaussian, DiscretizedLogistic, BetaBinomial)
    features = [(f, g) for f in FEW for g in FEW] if several else [(f,) for f in FEATURES]
    pixels, values = single(kind, features)
    for x in xs:
        got = pixels.log_prob(torch.tensor(x)).flatten()
        (gradient,) = torch.autograd.grad(got.sum(), values, retain_graph=True)
        with mp.workdps(90):
            expected = [float(by_hand(x, *map(mpf, f))) for f in features]
            slopes = [_gradient(by_hand, x, f) for f in features]
        # atol is of a few units in the last place; rtol of the rounding of large log-probabilities
        np.testing.assert_allclose(got.detach(), expected, rtol=1e-6, atol=atol)
        np.testing.assert_allclose(gradient, slopes, rtol=2e-4, atol=1e-6)


def test_all_masses_of_a_beta_binomial_at_once() -> None:
    """By the ratios of neighbours, against log-gamma functions."""
    features = [(f, g) for f in FEW for g in FEW]
    pixels, _ = single(BetaBinomial, features)
    got = pixels.log_masses().flatten(1)
    with mp.workdps(90):
        expected = [[float(beta_binomial(x, *map(mpf, f))) for f in features] for x in (0, 9, 255)]
    np.testing.assert_allclose(got.detach()[[0, 9, 255]], expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(got.detach().exp().sum(0), 1.0, rtol=1e-6)


def test_a_continuous_bernoulli_in_double_precision() -> None:
    """Its series meets its closed form within rounding, in value and gradient."""
    features = [(f,) for f in (*FEATURES, 0.999, 1.001)]
    pixels, values = single(ContinuousBernoulli, features, torch.float64)
    got = pixels.log_prob(torch.tensor(0.25).double()).flatten()
    (gradient,) = torch.autograd.grad(got.sum(), values)
    with mp.workdps(90):
        expected = [float(continuous_bernoulli(0.25, mpf(*f))) for f in features]
        slopes = [_gradient(continuous_bernoulli, 0.25, f) for f in features]
    np.testing.assert_allclose(got.detach(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, slopes, atol=1e-12)


def _gradient(by_hand: Any, x: float, features: tuple[float, ...]) -> list[float]:
    """By differences of 1e-15, right to as many digits."""
    slopes = []
    for place in range(len(features)):
        ends = []
        for step in (mpf("1e-15"), -mpf("1e-15")):
            moved = [mpf(f) + (step if i == place else 0) for i, f in enumerate(features)]
            ends.append(by_hand(x, *moved))
        slopes.append(float((ends[0] - ends[1]) / mpf("2e-15")))
    return slopes


def test_masses_add_up_to_one_and_means_are_those_of_the_masses() -> None:
    pixels, _ = single(Bernoulli, [(f,) for f in FEATURES])
    masses = torch.stack([pixels.log_prob(torch.tensor(x)).exp() for x in (0.0, 1.0)])
    torch.testing.assert_close(masses.sum(0), torch.ones_like(masses[0]))
    torch.testing.assert_close(pixels.mean, masses[1])
    levels = torch.arange(256.0)
    tolerance = 1e-5
    for kind in (DiscretizedLogistic, BetaBinomial):
        pixels, _ = single(kind, [(f, g) for f in FEATURES for g in FEATURES])
        masses = pixels.log_prob(levels.reshape(-1, 1, 1, 1, 1)).exp()
        np.testing.assert_allclose(masses.detach().sum(0), 1, atol=tolerance)
        mean = (masses * levels.reshape(-1, 1, 1, 1, 1)).sum(0)
        np.testing.assert_allclose(
            pixels.mean.detach(), mean.detach(), rtol=2 * tolerance, atol=1e-6
        )


def test_the_mass_and_the_mean_of_a_continuous_bernoulli() -> None:
    pixels, _ = single(ContinuousBernoulli, [(f,) for f in FEATURES])
    x, weights = np.polynomial.legendre.leggauss(40)
    edges = np.array([0, 0.02, 0.1, 0.5, 0.9, 0.98, 1])
    lows, widths = edges[:-1, None], np.diff(edges)[:, None]
    points = torch.tensor((lows + widths * (x + 1) / 2).flatten())
    weights = torch.tensor((widths * weights / 2).flatten())
    masses = pixels.log_prob(points.float().reshape(-1, 1, 1, 1, 1)).double().exp()
    masses = (masses * weights.reshape(-1, 1, 1, 1, 1)).detach()
    np.testing.assert_allclose(masses.sum(0), 1, atol=2e-5)
    moments = (masses * points.reshape(-1, 1, 1, 1, 1)).sum(0)
    np.testing.assert_allclose(pixels.mean.detach(), moments, rtol=2e-5)
    squares = (masses * (points.reshape(-1, 1, 1, 1, 1) - moments).square()).sum(0)
    np.testing.assert_allclose(pixels.variance.detach(), squares, rtol=2e-5)


@pytest.mark.parametrize("logit", FEATURES)
def test_quantiles_of_a_continuous_bernoulli(logit: float) -> None:
    """icdf is the inverse of F by quadrature, and its gradient that of the implicit function."""
    u = torch.tensor([0.0, 1e-4, 0.3, 0.7, 0.9999, 1.0], requires_grad=True)
    logits = torch.full_like(u, logit).detach().requires_grad_()
    pixels = LogitContinuousBernoulli(logits)
    x = pixels.icdf(u)
    assert x[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-6)
    slopes = torch.autograd.grad(x.sum(), (logits, u), retain_graph=True)
    for place in range(1, 5):
        with mp.workdps(30):
            r, share = mpf(logit), mpf(u[place].item())

            def quantile(r: Any, share: Any) -> Any:
                return mp.log1p(share * mp.expm1(r)) / r if abs(r) > mpf("1e-12") else share

            expected = quantile(r, share)
            by_r = mp.diff(lambda r, share=share: quantile(r, share), r or mpf("1e-9"), h=1e-12)
            by_u = mp.diff(lambda share, r=r: quantile(r, share), share, h=1e-12)
        assert x[place].item() == pytest.approx(float(expected), rel=1e-5, abs=2e-7)
        assert slopes[0][place].item() == pytest.approx(float(by_r), rel=2e-3, abs=2e-6)
        assert slopes[1][place].item() == pytest.approx(float(by_u), rel=1e-3)


@pytest.mark.parametrize("logit", [-1000.0, 1000.0])
def test_the_ends_of_a_continuous_bernoulli_beyond_the_range_of_float32(logit: float) -> None:
    pixels = LogitContinuousBernoulli(torch.tensor([logit, logit]))
    assert pixels.icdf(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


@pytest.mark.parametrize("logit", [-80.0, -30.0, 0.0, 0.5, 30.0])
def test_draws_of_a_continuous_bernoulli_follow_it(logit: float) -> None:
    torch.manual_seed(0)
    draws = LogitContinuousBernoulli(torch.tensor(logit)).sample((20_000,)).double().numpy()

    def cdf(x: np.ndarray) -> np.ndarray:
        return np.expm1(logit * x) / np.expm1(logit) if logit else x

    assert scipy.stats.kstest(draws, cdf).pvalue > 1e-3


@pytest.mark.parametrize("feature", [-80.0, -7.0, -4.0, 0.0])
def test_draws_of_a_beta_binomial_follow_its_masses(feature: float) -> None:
    """Where a and b are tiny half of them are 0 and half 255, and hardly any is grey."""
    torch.manual_seed(0)
    pixels, _ = single(BetaBinomial, [(feature, feature)])
    masses = pixels.log_prob(torch.arange(256.0).reshape(-1, 1, 1, 1, 1)).exp().flatten()
    draws = pixels.sample((20_000,)).flatten().long()
    bins = torch.tensor([0, 1, 16, 64, 128, 192, 240, 255, 256])
    observed = np.histogram(draws, bins)[0]
    expected = [20_000 * masses[a:b].sum().item() for a, b in pairwise(bins)]
    scores = (observed - expected) / np.sqrt(np.maximum(expected, 1))
    assert np.abs(scores).max() < 5


LOG_VARIANCES = torch.tensor([-40.0, -20.0, -4.0, 0.0, 4.0, 20.0, 40.0])


def _both_precisions(function: Any, features: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A function of features and its gradient, in float32 and in float64."""
    pairs = []
    for dtype in (torch.float32, torch.float64):
        values = features.to(dtype).requires_grad_()
        result = function(values)
        (gradient,) = torch.autograd.grad(result.sum(), values)
        pairs.append((result.detach().double(), gradient.double()))
    return pairs


def _mixture(features: Tensor) -> Tensor:
    """log density at 1 of a mixture of N(0, 1) and a normal from the features of an encoder."""
    narrow = DiagonalNormal(Spec((1, 1, 1), "real", 1)).posterior_of(features)
    loc = torch.cat([narrow.mean, torch.zeros_like(narrow.mean)], -1)
    scale = torch.cat([narrow.stddev, torch.ones_like(narrow.stddev)], -1)
    weights = dist.Categorical(logits=torch.zeros(2).to(features))
    return dist.MixtureSameFamily(weights, dist.Normal(loc, scale)).log_prob(torch.ones(()))


def _full_rank(features: Tensor) -> Tensor:
    """log density at 1 of a normal whose scales are the features'."""
    loc, log_variance = features.chunk(2, -1)
    every = torch.cat([loc, loc, log_variance, log_variance, torch.zeros_like(loc)], -1)
    guide = FullRankNormal(Spec((1, 1, 1), "real", 2))
    return guide.posterior_of(every).log_prob(torch.ones(2).to(features))


def _product(features: Tensor) -> Tensor:
    """Moments of products of a normal of the features with N(1, s^2), s as wide, 1, and inverse."""
    loc, log_variance = features.unbind(-1)
    scale = (log_variance / 2).exp()
    others = [dist.Normal(1.0, s) for s in (scale, torch.ones_like(scale), 1 / scale)]
    both = [precision_weighted(dist.Normal(loc, scale), other) for other in others]
    return torch.stack([q.mean.atan() + q.stddev.log() for q in both]).sum(0)


@pytest.mark.parametrize("function", [_mixture, _full_rank, _product])
def test_normals_of_tiny_and_of_huge_scales(function: Any) -> None:
    """Standard deviations of 2e-9 to 5e8: float32 has the values and gradients of float64."""
    features = torch.cartesian_prod(torch.tensor([-5.0, 0.0, 2.0]), LOG_VARIANCES)
    single_precision, double = _both_precisions(function, features)
    for got, expected in zip(single_precision, double, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_product_of_normals_beyond_the_range_of_float32() -> None:
    """Precisions of exp(80), whose powers in a gradient would overflow."""
    features = torch.cartesian_prod(torch.tensor([0.0, 2.0]), torch.tensor([-80.0, 80.0]))
    single_precision, double = _both_precisions(_product, features)
    for got, expected in zip(single_precision, double, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
