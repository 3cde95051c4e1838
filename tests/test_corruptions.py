"""Corruptions: p(y|z) is a mass or density, p(x|z, y) follows from it by Bayes' rule."""

from dataclasses import dataclass
from itertools import product
from math import log

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import Tensor

from models import Domain
from models.corruptions import (
    Corruption,
    Downsampled,
    GaussianNoise,
    Masked,
    Pixels,
    SaltAndPepper,
)
from models.likelihoods.beta_binomial import _Bytes
from models.likelihoods.continuous_bernoulli import LogitContinuousBernoulli
from models.likelihoods.discretized_logistic import LogisticBytes


@dataclass(frozen=True)
class Flipped(Corruption):
    """Somebody's own: a binary pixel is flipped, with a probability."""

    probability: float = 0.2

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        flipped = torch.rand(x.shape, generator=generator) < self.probability
        return torch.where(flipped, 1 - x, x)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.where(y == x, log(1 - self.probability), log(self.probability))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1)


# Three pixels of each likelihood.
PIXELS: dict[str, Pixels] = {
    name: Pixels(distribution.to_event(3), domain)
    for name, domain, distribution in [
        ("Bernoulli", "binary", dist.Bernoulli(logits=double(-2.0, 0.3, 4.0))),
        ("BetaBinomial", "bytes", _Bytes(double(0.3, 2, 9), double(2, 0.5, 7), total_count=255)),
        ("DiscretizedLogistic", "bytes", LogisticBytes(double(3, 120, 250), double(2, 20, 5))),
        ("ContinuousBernoulli", "unit", LogitContinuousBernoulli(double(-8.0, 0.0, 3.0))),
        ("Gaussian", "real", dist.Normal(double(0.1, 0.5, 0.9), double(0.05, 0.1, 0.2))),
    ]
}
NAMES = list(PIXELS)
POINTWISE = [GaussianNoise(0.2), GaussianNoise(0.4, clipped=True), SaltAndPepper(0.3)]
BINARY_ONLY = [Flipped()]
CASES = [*product(NAMES, POINTWISE), *product(["Bernoulli"], BINARY_ONLY)]


def grid(domain: Domain, corruption: Corruption) -> tuple[Tensor, Tensor]:
    """Values of y that cover all of them, (Y,), and the weights of a sum over them."""
    if isinstance(corruption, GaussianNoise) and corruption.clipped:
        places, weights = np.polynomial.legendre.leggauss(200)
        y = torch.as_tensor(np.concatenate([[0], (1 + places) / 2, [1]]))
        return y, torch.as_tensor(np.concatenate([[1], weights / 2, [1]]))
    if isinstance(corruption, GaussianNoise):
        y = torch.linspace(-2.5, 3.5, 6001, dtype=torch.float64)
    elif domain in ("binary", "bytes"):
        levels = 2 if domain == "binary" else 256
        y = torch.arange(levels, dtype=torch.float64) / (levels - 1)
        return y, torch.ones_like(y)
    else:  # the cells next to black and white on points of their own
        edges = torch.tensor([-2.5, 0, 1 / 256, 255 / 256, 1, 3.5], dtype=torch.float64)
        if domain == "unit":
            edges = edges[1:-1]
        places, weights = np.polynomial.legendre.leggauss(200)
        half = edges.diff() / 2
        y = (edges[:-1] + half)[:, None] + half[:, None] * torch.as_tensor(places)
        return y.flatten(), (half[:, None] * torch.as_tensor(weights)).flatten()
    return y, torch.full_like(y, float(y[1] - y[0]))


def one_pixel(pixels: Pixels, place: int) -> Pixels:
    """That pixel as an image of its own."""
    base = pixels.base
    names = {"loc", "scale", "logits", "concentration1", "concentration0"} & {*base.arg_constraints}
    values = {name: getattr(base, name)[..., [place]] for name in names}
    if isinstance(base, _Bytes):
        values["total_count"] = 255
    return Pixels(type(base)(**values).to_event(3), pixels.domain)


@pytest.mark.parametrize(("name", "corruption"), CASES)
@pytest.mark.parametrize("place", range(3))
def test_p_of_y_given_z_adds_up_to_one(name: str, corruption: Corruption, place: int) -> None:
    pixels = one_pixel(PIXELS[name], place)
    y, weights = grid(pixels.domain, corruption)
    many = pixels.expand(torch.Size((len(y), 1, 1, 1)))
    log_prob = corruption.log_likelihood(many, y.reshape(-1, 1, 1, 1))
    assert float((weights * log_prob.exp()).sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_gaussian_noise_is_the_integral_over_the_pixel(name: str, scale: float) -> None:
    pixels, y = PIXELS[name], 0.37
    if pixels.domain in ("binary", "bytes"):
        top = 1 if pixels.domain == "binary" else 255
        x = torch.arange(top + 1, dtype=torch.float64) / top
        weights = torch.ones_like(x)
    else:
        x = torch.linspace(0 if pixels.domain == "unit" else -1, 1, 40001, dtype=torch.float64)
        x = x if pixels.domain == "unit" else torch.linspace(-1, 2, 60001, dtype=torch.float64)
        weights = torch.full_like(x, float(x[1] - x[0]))
        weights[[0, -1]] /= 2
    prior = pixels.log_prob(x.reshape(-1, 1, 1, 1)).exp().numpy()
    noise = scipy.stats.norm(x.numpy(), scale).pdf(y).reshape(-1, 1, 1, 1)
    joint = weights.numpy().reshape(-1, 1, 1, 1) * prior * noise
    expected = joint.sum(0)
    corruption = GaussianNoise(scale)
    seen = torch.full((1, 1, 3), y, dtype=torch.float64)
    found = corruption.log_likelihood(pixels, seen)
    np.testing.assert_allclose(found, np.log(expected).sum(), rtol=1e-6)
    posterior = corruption.posterior(pixels, seen)
    places = x.numpy().reshape(-1, 1, 1, 1)
    mean = (joint * places).sum(0) / expected
    variance = (joint * (places - mean) ** 2).sum(0) / expected
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(posterior.variance, variance, rtol=1e-4)


@pytest.mark.parametrize(("name", "corruption"), CASES)
def test_draws_of_x_given_y_have_its_mean_and_variance(name: str, corruption: Corruption) -> None:
    count = 4000
    pixels = PIXELS[name].expand(torch.Size((count, 1, 1, 3)))
    x = pixels.sample()
    y = corruption.corrupt(x, torch.Generator().manual_seed(1))
    posterior = corruption.posterior(pixels, y)
    draws, mean, variance = posterior.sample(), posterior.mean, posterior.variance
    # Averaged over y the posterior is the prior: of x itself and of its draw alike.
    for values in (x, draws):
        distance = values - mean
        error = distance.std(0) / count**0.5 + 1e-12
        assert (distance.mean(0).abs() < 4 * error).all()
        squares = distance.square() - variance
        assert (squares.mean(0).abs() < 4 * squares.std(0) / count**0.5 + 1e-12).all()


def test_salt_and_pepper_keeps_a_grey_value_and_doubts_black() -> None:
    pixels, corruption = PIXELS["Gaussian"], SaltAndPepper(0.3)
    y = double(0.2, 0.0, 1.0)
    posterior = corruption.posterior(pixels, y)
    black = 0.7 * scipy.stats.norm(0.5, 0.1).pdf(0)
    kept = black / (black + 0.15 * 256)
    assert posterior.mean[0, 0, 0] == 0.2
    assert posterior.variance[0, 0, 0] == 0
    assert float(posterior.mean[0, 0, 1]) == pytest.approx((1 - kept) * 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_leaves_the_likelihood_of_the_pixels_seen(name: str) -> None:
    pixels = PIXELS[name]
    x = pixels.sample()
    y = torch.where(torch.tensor([False, True, False]), torch.nan, x)
    found = Masked().log_likelihood(pixels, Masked().observe(y[None]))
    np.testing.assert_allclose(found, pixels.log_prob(x)[..., [0, 2]].sum())
    posterior = Masked().posterior(pixels, y)
    np.testing.assert_array_equal(posterior.mean[..., [0, 2]], x[..., [0, 2]])
    assert (posterior.variance[..., [0, 2]] == 0).all()
    np.testing.assert_allclose(posterior.mean[..., 1], pixels.mean[..., 1])
    np.testing.assert_allclose(posterior.variance[..., 1], pixels.variance[..., 1])


def test_downsampling_conditions_a_normal_on_the_means_of_blocks() -> None:
    torch.manual_seed(0)
    loc = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    scale = torch.rand(1, 1, 4, 4, dtype=torch.float64) + 0.1
    pixels = Pixels(dist.Normal(loc, scale).to_event(3), "real")
    corruption = Downsampled(2)
    rows = np.zeros((4, 16))
    for row, column in product(range(4), range(4)):
        rows[2 * (row // 2) + column // 2, 4 * row + column] = 1 / 4
    mean, covariance = loc.flatten().numpy(), np.diag(scale.flatten().square().numpy())
    y = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    whole = rows @ covariance @ rows.T
    expected = scipy.stats.multivariate_normal(rows @ mean, whole).logpdf(y.flatten())
    np.testing.assert_allclose(corruption.log_likelihood(pixels, y)[0], expected)
    gain = covariance @ rows.T @ np.linalg.inv(whole)
    posterior = corruption.posterior(pixels, y)
    np.testing.assert_allclose(
        posterior.mean.flatten(), mean + gain @ (y.flatten().numpy() - rows @ mean)
    )
    left = covariance - gain @ rows @ covariance
    np.testing.assert_allclose(posterior.variance.flatten(), np.diag(left))
    draw = posterior.sample()
    np.testing.assert_allclose(corruption.corrupt(draw, torch.Generator()), y)
    with pytest.raises(ValueError, match="Downsampled needs a likelihood that is normal"):
        corruption.log_likelihood(PIXELS["Bernoulli"], y)


def test_the_corrupted_images_follow_the_law() -> None:
    x = torch.full((2000, 1, 2, 2), 0.4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noisy = GaussianNoise(0.3).corrupt(x, generator)
    assert scipy.stats.kstest((noisy - 0.4).flatten() / 0.3, "norm").pvalue > 1e-3
    salted = SaltAndPepper(0.2).corrupt(x, generator)
    for value in (0.0, 1.0):
        share = (salted == value).double()
        assert abs(float(share.mean()) - 0.1) < 4 * float(share.std()) / 8000**0.5
    hidden = Masked(fraction=0.25).corrupt(x, generator).isnan().double()
    assert abs(float(hidden.mean()) - 0.25) < 4 * float(hidden.std()) / 8000**0.5
    assert not Masked(fraction=0.999).corrupt(x, generator).isnan().flatten(1).all(1).any()


def test_masks_of_every_kind(tmp_path) -> None:
    lower = Masked(half="lower").missing((1, 5, 4))
    assert lower is not None
    assert lower[0, 3:].all()
    assert not lower[0, :3].any()
    rectangle = Masked(rectangle=[1, 2, 2, 1]).missing((1, 5, 4))
    assert rectangle is not None
    assert rectangle.nonzero()[:, 1:].tolist() == [[1, 2], [2, 2]]
    array = np.zeros((5, 4), dtype=bool)
    array[0, 1] = True
    np.save(tmp_path / "mask.npy", array)
    Image.fromarray((255 * array).astype(np.uint8)).save(tmp_path / "mask.png")
    for mask in (array, tmp_path / "mask.npy", tmp_path / "mask.png"):
        missing = Masked(mask=mask).missing((1, 5, 4))
        assert missing is not None
        np.testing.assert_array_equal(missing[0], array)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"half": "lower", "fraction": 0.5}, "expected one of mask, rectangle, half, fraction"),
        ({"fraction": 1.5}, "expected fraction > 0 and <= 0.999; got 1.5"),
        ({"half": "middle"}, "expected half of upper, lower, left, right; got 'middle'"),
        ({"rectangle": [0, 0, 2]}, "expected rectangle as \\[row, column, height, width\\]"),
        ({"mask": "nowhere.npy"}, "cannot read nowhere.npy"),
        ({"mask": "no-mask.npy"}, "cannot read no-mask.npy"),
        ({"mask": np.array(["a", "b"])}, "expected a mask of two values"),
        ({"mask": np.arange(20).reshape(5, 4)}, "expected a mask of two values"),
    ],
)
def test_a_bad_mask_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Masked(**options)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a mask of shape \(5, 4\) or \(1, 5, 4\)"):
        Masked(mask=np.eye(4)).missing((1, 5, 4))
    with pytest.raises(ValueError, match="it leaves none"):
        Masked(mask=np.ones((5, 4))).missing((1, 5, 4))
    with pytest.raises(ValueError, match="within 5 x 4 pixels"):
        Masked(rectangle=[0, 0, 6, 1]).missing((1, 5, 4))
    nothing = torch.full((2, 1, 5, 4), torch.nan)
    nothing[0] = 0
    with pytest.raises(ValueError, match="image 1 has none"):
        Masked().observe(nothing)
    with pytest.raises(ValueError, match="expected finite pixels for GaussianNoise"):
        GaussianNoise(0.1).observe(nothing)
    with pytest.raises(ValueError, match="expected scale > 0; got -1"):
        GaussianNoise(-1)
    with pytest.raises(ValueError, match="it is unknown"):
        SaltAndPepper().corrupt(nothing, torch.Generator())


def test_pixels_that_are_not_independent_are_refused() -> None:
    normal = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="pixels and channels are independent given z"):
        Pixels(normal, "real")
