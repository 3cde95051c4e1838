"""Probabilistic PCA, where everything that inference approximates is known exactly."""

from math import log, pi
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.model import Model
from models.priors.standard_normal import StandardNormal
from models.ranges import check_number
from models.spec import Domain, Spec

__all__ = ["ProbabilisticPCA"]


class ProbabilisticPCA(Model):
    """p(z) = N(0, I), p(x|z) = N(W z + mu, sigma^2 I), Tipping and Bishop (1999).

    The marginal, the posterior and the maximum likelihood are closed forms, which makes it the
    oracle for everything else. Images are treated as vectors of P = C H W values.

    Args:
        spec: The data's shape and domain, and D; its domain must be `real` and D < P.
        initial_scale: sigma before training, in units of x.

    Raises:
        ValueError: If the data are not real, D >= P, or initial_scale is not a number > 0.
    """

    domain: ClassVar[Domain] = "real"

    def __init__(self, spec: Spec, initial_scale: float = 0.1) -> None:
        super().__init__(spec)
        if spec.domain != self.domain:
            raise ValueError(f"ProbabilisticPCA needs real data; got {spec.domain} data")
        if spec.latent_dim >= spec.pixels:
            raise ValueError(
                f"expected latent_dim < {spec.pixels}, the number of pixels; got {spec.latent_dim}"
            )
        check_number("initial_scale", initial_scale, above=0)
        self.prior = StandardNormal(spec)
        self.loadings = nn.Parameter(initial_scale * torch.randn(spec.pixels, spec.latent_dim))
        self.mean = nn.Parameter(torch.zeros(spec.pixels))
        self.log_scale = nn.Parameter(torch.tensor(log(initial_scale)))

    def decode(self, z: Tensor) -> TorchDistribution:
        loc = z @ self.loadings.mT + self.mean
        loc = loc.reshape(*z.shape[:-1], *self.spec.image_shape)
        return dist.Normal(loc, self.log_scale.exp()).to_event(3)

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observed(self.decode(z)), obs=x)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; mu, W W^T + sigma^2 I), (B,) nats; ibid., equations (3) and (4).

        Computed in the D-dimensional space of z by the matrix inversion and determinant lemmas.
        """
        pixels = self.spec.pixels
        variance = (2 * self.log_scale).exp()
        precision = self._posterior_precision()
        centred = x.flatten(1) - self.mean
        projected = centred @ self.loadings
        explained = (projected * torch.linalg.solve(precision, projected.mT).mT).sum(-1)
        mahalanobis = (centred.square().sum(-1) - explained / variance) / variance
        log_determinant = torch.logdet(precision) + pixels * 2 * self.log_scale
        return -0.5 * (pixels * log(2 * pi) + log_determinant + mahalanobis)

    def posterior(self, x: Tensor) -> TorchDistribution:
        """p(z|x) = N(M^-1 W^T (x - mu), sigma^2 M^-1), M = W^T W + sigma^2 I; ibid., section 3.

        Args:
            x: Images (B, C, H, W).

        Returns:
            A multivariate normal with batch shape (B,) and event shape (D,).
        """
        precision = self._posterior_precision()
        projected = (x.flatten(1) - self.mean) @ self.loadings / (2 * self.log_scale).exp()
        loc = torch.linalg.solve(precision, projected.mT).mT
        return dist.MultivariateNormal(loc, precision_matrix=precision.expand(len(x), -1, -1))

    def _posterior_precision(self) -> Tensor:
        identity = torch.eye(self.spec.latent_dim).to(self.loadings)
        return identity + self.loadings.mT @ self.loadings / (2 * self.log_scale).exp()

    @torch.no_grad()
    def maximize_likelihood(self, x: Tensor) -> None:
        """Sets W, mu and sigma to their maximum-likelihood values; ibid., equations (7) and (8).

        W = U (L - sigma^2 I)^(1/2) from the D leading eigenvectors U and eigenvalues L of the
        covariance of x, sigma^2 the mean of the eigenvalues left over. Computed in float64.

        Args:
            x: Images (N, C, H, W).

        Raises:
            ValueError: If x varies in D directions or fewer, within the rounding of the loadings'
                type: sigma would be 0 and the likelihood unbounded.
        """
        flat = x.flatten(1).double()
        covariance = torch.cov(flat.mT, correction=0)
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        kept = self.spec.latent_dim
        variance = eigenvalues[:-kept].mean()
        if not variance > torch.finfo(self.loadings.dtype).eps * eigenvalues[-1]:
            raise ValueError(f"expected data that vary in more than {kept} directions")
        scales = (eigenvalues[-kept:] - variance).clamp(min=0).sqrt()
        self.loadings.copy_((eigenvectors[:, -kept:] * scales).flip(-1))
        self.mean.copy_(flat.mean(0))
        self.log_scale.copy_(0.5 * variance.log())
