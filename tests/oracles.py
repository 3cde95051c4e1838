"""Pairs of which everything is known: for the tests of what measures inference."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import lgamma, sqrt

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import torch
from torch import Tensor, nn

from guides import FullRankNormal, Guide
from models import Linear, ProbabilisticPCA, Spec
from ppl_vae.data import Split
from ppl_vae.errors import InputError

SPEC = Spec((1, 3, 4), "real", 2)


@contextmanager
def refused(said: str) -> Iterator[None]:
    """Bad input is refused in one line that matches."""
    with pytest.raises(InputError, match=said) as caught:
        yield
    assert "\n" not in str(caught.value)


def split_of(images: Tensor, labels: Tensor | None = None) -> Split:
    """Images that the model sees as they are."""
    return Split(images, labels, lambda raw: raw)


def ppca(correlated: bool = True) -> ProbabilisticPCA:
    """A fixed probabilistic PCA; its posterior's correlation is below one half."""
    model = ProbabilisticPCA(SPEC, initial_scale=0.7).double().requires_grad_(False)
    basis, _ = torch.linalg.qr(torch.randn(SPEC.pixels, 2, dtype=torch.float64))
    mix = torch.tensor([[1.0, 0.4], [0.0, 0.9]] if correlated else [[1.0, 0.0], [0.0, 0.9]])
    model.loadings.copy_(basis @ mix.double())
    model.mean.copy_(torch.randn(SPEC.pixels))
    return model


def mean_field_gap(model: ProbabilisticPCA, x: Tensor) -> Tensor:
    """KL of the best diagonal normal to N(m, Lambda^-1): (sum log diag Lambda - log det) / 2."""
    precision = model.posterior(x).precision_matrix
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    return 0.5 * (diagonal.log().sum(-1) - torch.logdet(precision))


class Posterior(Guide):
    """q(z|x) = p(z|x) of a probabilistic PCA, with its covariance scaled."""

    def __init__(self, model: ProbabilisticPCA, variance: float = 1.0) -> None:
        super().__init__(model.spec)
        self.exact, self.variance = model.posterior, variance

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        exact = self.exact(x)
        return dist.MultivariateNormal(exact.mean, self.variance * exact.covariance_matrix)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


def exact_guide(model: ProbabilisticPCA) -> FullRankNormal:
    """A guide with parameters that is the posterior of a probabilistic PCA of two latents."""
    guide = FullRankNormal(model.spec, network=Linear).to(model.loadings)
    with torch.no_grad():
        variance = (2 * model.log_scale).exp()
        precision = torch.eye(2) + model.loadings.mT @ model.loadings / variance
        to_loc = torch.linalg.solve(precision, model.loadings.mT / variance)
        triangle = torch.linalg.cholesky(torch.linalg.inv(precision))
        layer = guide.encoder.linear
        layer.weight.zero_()
        layer.weight[:2] = to_loc
        layer.bias[:2] = -to_loc @ model.mean
        layer.bias[2:4] = 2 * triangle.diagonal().log()
        layer.bias[4] = triangle[1, 0]
    return guide


class MeanField(Guide):
    """A diagonal normal at the posterior's mean, `offset` away and of the given variances."""

    def __init__(self, model: ProbabilisticPCA, offset: float) -> None:
        super().__init__(model.spec)
        self.exact, self.offset = model.posterior, offset

    def encode(self, x: Tensor) -> Tensor:
        exact = self.exact(x)
        precision = exact.precision_matrix.diagonal(dim1=-2, dim2=-1)
        return torch.cat([exact.mean + self.offset, -precision.log() / 2], -1)

    def posterior_of(self, features: Tensor) -> dist.TorchDistribution:
        loc, log_scale = features.chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


def counts(size: int = 4) -> Tensor:
    return torch.poisson(torch.full((size, 5), 2.0, dtype=torch.float64))


def counts_model(x: Tensor) -> None:
    """rate ~ Gamma(3, 2), five counts x ~ Poisson(rate): written by hand, conjugate."""
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(3.0, torch.full((len(x),), 2.0).to(x)))
        pyro.sample("x", dist.Poisson(rate[..., None].expand(*rate.shape, 5)).to_event(1), obs=x)


def counts_posterior(x: Tensor) -> dist.Gamma:
    return dist.Gamma(3.0 + x.sum(-1), torch.full((len(x),), 2.0 + 5).to(x))


def counts_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("rate", counts_posterior(x))


def counts_lognormal_guide(x: Tensor) -> None:
    """Near the posterior, and of another family."""
    exact = counts_posterior(x)
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.LogNormal(exact.mean.log(), 1.2 * exact.stddev / exact.mean))


def counts_log_likelihood(x: Tensor) -> Tensor:
    total = x.sum(-1)
    base = 3 * np.log(2.0) - lgamma(3.0)
    return base + torch.lgamma(3 + total) - (3 + total) * np.log(7.0) - torch.lgamma(x + 1).sum(-1)


class TwoLevels(nn.Module):
    """q(z2|x) q(z1|z2) for `two_levels_model`: the second site needs a draw of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(2, 1).double()
        self.top = nn.Linear(1, 1).double()
        self.log_scales = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        scales = self.log_scales.exp()
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.up(x), scales[0]).to_event(1))
            pyro.sample("z1", dist.Normal(self.top(z2), scales[1]).to_event(1))


def two_levels_model(x: Tensor) -> None:
    """z1 ~ N(0, 1), z2 ~ N(z1, 1), two x ~ N(z2, 1/2)."""
    with pyro.plate("data", len(x), dim=-1):
        zeros = torch.zeros(len(x), 1, dtype=torch.float64)
        z1 = pyro.sample("z1", dist.Normal(zeros, 1.0).to_event(1))
        z2 = pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z2.expand(*z2.shape[:-1], 2), 0.5**0.5).to_event(1), obs=x)


def two_levels_log_likelihood(x: Tensor) -> Tensor:
    covariance = torch.full((2, 2), 2.0, dtype=torch.float64) + 0.5 * torch.eye(2)
    return dist.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(x)


_WEIGHTS = torch.tensor([1.0, -0.8, 0.5, 1.5, -1.0, 0.3], dtype=torch.float64)


def curved_model(x: Tensor) -> None:
    """z ~ N(0, 1), six binary pixels with logits w sin(z) + z^2 / 4 - 1: far from normal."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1).double(), 1.0).to_event(1))
        logits = _WEIGHTS * z.sin() + z.square() / 4 - 1
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def curved_guide(x: Tensor) -> None:
    loc = 0.3 * (2 * x - 1) @ _WEIGHTS.sign()[:, None] / 6
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc, 1.5).to_event(1))


def curved_grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """The grid of z, (G,), and log p(x, z) + log dz on it, (G, B): exact enough to be summed."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    logits = _WEIGHTS * z[:, None].sin() + z[:, None].square() / 4 - 1
    pixels = dist.Bernoulli(logits=logits[:, None]).log_prob(x).sum(-1)
    return z, dist.Normal(0.0, 1.0).log_prob(z)[:, None] + pixels + (z[1] - z[0]).log()


def two_clusters(x: Tensor) -> None:
    """y ~ Bernoulli(0.3), z ~ N(4 y - 2, 1), x ~ N(z, 1/2), y summed out."""
    with pyro.plate("data", len(x), dim=-1):
        weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
        y = pyro.sample("y", dist.Categorical(weights), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(4.0 * y - 2, 1.0 + 0 * x))
        pyro.sample("x", dist.Normal(z, 0.5**0.5), obs=x)


def two_clusters_guide(x: Tensor) -> None:
    """The exact posterior: both clusters, each updated, weighted by how well it predicts x."""
    centres = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    with pyro.plate("data", len(x), dim=-1):
        logits = two_clusters_terms(x)
        each = dist.Normal((centres + 2 * x[:, None]) / 3, (1 / 3) ** 0.5)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=logits), each))


def two_clusters_terms(x: Tensor) -> Tensor:
    """log p(y) p(x|y), (B, 2)."""
    weights, centres = torch.tensor([[0.7, 0.3], [-2.0, 2.0]], dtype=torch.float64)
    return weights.log() + dist.Normal(centres, 1.5**0.5).log_prob(x[:, None])


def two_clusters_normal(x: Tensor) -> None:
    """A normal that is wider than the posterior, beside it."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(2 * x / 3 + 0.2, 1.2))


def direct_k_hat(log_weights: np.ndarray) -> float:
    """Zhang and Stephens' estimate with its weak prior, written out for one datum."""
    weights = np.sort(np.exp(log_weights - log_weights.max()))
    tail = int(min(0.2 * len(weights), 3 * sqrt(len(weights))))
    excess = weights[-tail:] - weights[-tail - 1]
    grid = 30 + int(sqrt(tail))
    quartile = excess[int(tail / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(grid / (np.arange(grid) + 0.5))) / (3 * quartile)
    shapes = np.array([np.mean(np.log1p(-t * excess)) for t in theta])
    profile = tail * (np.log(-theta / shapes) - shapes - 1)
    posterior = scipy.special.softmax(profile)
    k = np.mean(np.log1p(-(theta @ posterior) * excess))
    return (tail * k + 10 * 0.5) / (tail + 10)
