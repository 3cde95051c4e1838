"""Likelihoods against SciPy."""

from math import log, pi, sqrt

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from models import DOMAINS, Bernoulli, Gaussian, Likelihood, Spec

SCALES = ["shared", "pixel", "network"]


def gaussian(scale: str) -> Gaussian:
    """A Gaussian whose learned scales, where it has any, are not the ones that it began with."""
    likelihood = Gaussian(Spec((2, 3, 2), "real", 2), scale).double()
    for parameter in likelihood.parameters():
        parameter.data += torch.randn_like(parameter)
    return likelihood


def features_for(likelihood: Likelihood, *batch: int) -> Tensor:
    return torch.randn(*batch, *likelihood.features, dtype=torch.float64)


def expected_parameters(likelihood: Gaussian, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """mu and sigma = floor + exp(s), in NumPy."""
    values = features.numpy()
    if likelihood.scale == "network":
        channels = likelihood.spec.image_shape[0]
        loc = values[..., :channels, :, :]
        log_scale = np.log(0.1 - likelihood.floor) + values[..., channels:, :, :]
    else:
        loc, log_scale = values, likelihood.log_scale.detach().numpy()
    return loc, likelihood.floor + np.exp(log_scale)


def test_bernoulli_matches_scipy() -> None:
    likelihood = Bernoulli(Spec((2, 3, 2), "binary", 2))
    features = 3 * features_for(likelihood, 5, 4)
    images = torch.bernoulli(torch.full((4, 2, 3, 2), 0.5, dtype=torch.float64))
    expected = scipy.stats.bernoulli.logpmf(images.numpy(), scipy.special.expit(features.numpy()))
    np.testing.assert_allclose(
        likelihood(features).log_prob(images), expected.sum((-3, -2, -1)), rtol=1e-12
    )


def test_bernoulli_stays_finite_where_the_sigmoid_rounds_to_one() -> None:
    likelihood = Bernoulli(Spec((1, 1, 1), "binary", 2))
    # log(1 - sigmoid(200)) = -200 - log(1 + exp(-200)); the sigmoid itself is 1.0 in float64.
    value = likelihood(torch.full((1, 1, 1), 200.0)).log_prob(torch.zeros(1, 1, 1))
    assert value == -200


@pytest.mark.parametrize("scale", SCALES)
def test_gaussian_matches_scipy(scale: str) -> None:
    likelihood = gaussian(scale)
    features = features_for(likelihood, 5, 4)
    images = torch.randn(4, 2, 3, 2, dtype=torch.float64)
    expected = scipy.stats.norm.logpdf(images.numpy(), *expected_parameters(likelihood, features))
    distribution = likelihood(features)
    assert distribution.batch_shape == (5, 4)
    assert distribution.event_shape == (2, 3, 2)
    np.testing.assert_allclose(
        distribution.log_prob(images).detach(), expected.sum((-3, -2, -1)), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("scale", "scales"), [("shared", 1), ("pixel", 12), ("network", 0)], ids=SCALES
)
def test_gaussian_learns_as_many_scales_as_it_says(scale: str, scales: int) -> None:
    likelihood = gaussian(scale)
    assert sum(parameter.numel() for parameter in likelihood.parameters()) == scales
    assert likelihood.features == ((4 if scale == "network" else 2), 3, 2)


@pytest.mark.parametrize("scale", SCALES)
def test_gaussian_begins_at_the_initial_scale(scale: str) -> None:
    likelihood = Gaussian(Spec((2, 3, 2), "real", 2), scale, initial_scale=0.3, floor=0.05)
    stddev = likelihood(torch.zeros(likelihood.features)).stddev
    # log and exp in float32: relative error of a few 1e-7.
    np.testing.assert_allclose(stddev.detach(), np.full((2, 3, 2), 0.3), rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_gaussian_floor_bounds_the_density(scale: str) -> None:
    likelihood = Gaussian(Spec((1, 2, 2), "real", 2), scale, floor=0.02).double()
    for parameter in likelihood.parameters():
        parameter.data.fill_(-1000.0)
    features = torch.zeros(likelihood.features, dtype=torch.float64)
    if scale == "network":
        features[1:] = -1000.0
    at_the_mean = likelihood(features).log_prob(torch.zeros(1, 2, 2, dtype=torch.float64))
    # exp(-1000) is 0 in float64, so that the scale is the floor and nothing else.
    assert at_the_mean.item() == pytest.approx(-4 * log(0.02 * sqrt(2 * pi)), rel=1e-14)


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
@pytest.mark.parametrize("domain", DOMAINS)
def test_only_its_own_domain_is_accepted(likelihood: type[Likelihood], domain: str) -> None:
    spec = Spec((1, 2, 2), domain, 2)
    if domain == likelihood.domain:
        assert likelihood(spec).features == (1, 2, 2)
    else:
        message = f"{likelihood.__name__} needs {likelihood.domain} data; got {domain} data"
        with pytest.raises(ValueError, match=message):
            likelihood(spec)


def test_grey_levels_are_never_scored_by_a_bernoulli() -> None:
    distribution = Bernoulli(Spec((1, 2, 2), "binary", 2))(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.full((1, 2, 2), 0.5))
