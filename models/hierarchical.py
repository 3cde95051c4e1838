"""Two layers of latent variables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.likelihoods.default import default_likelihood
from models.likelihoods.likelihood import Likelihood
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import normal_of
from models.priors.prior import Prior
from models.priors.standard_normal import StandardNormal
from models.ranges import check_count
from models.spec import Spec

__all__ = ["Hierarchical"]


class Hierarchical(Model):
    """p(x, z1, z2) = p(z2) p(z1|z2) p(x|z1), p(z1|z2) a diagonal normal around a network.

    Rezende, Mohamed and Wierstra (2014), section 2; with the network between the layers, of two
    times 100 tanh units, of Burda, Grosse and Salakhutdinov (2016), section 5.

    Args:
        spec: The data's shape and domain, and D; `latent_dim` is the dimension of z1.
        prior: p(z2); a standard normal by default.
        likelihood: p(x|z1); by default Bernoulli for binary and Gaussian for real data.
        network: Builds the decoder of x from z1 from its input and output shapes.
        top_dim: The dimension of z2; half of that of z1 by default.
        hidden: Widths of the tanh layers between z2 and z1.

    Raises:
        ValueError: If top_dim or a width is below 1, or the prior is of another dimension.
    """

    latents: tuple[str, ...] = ("z2", "z1")

    def __init__(
        self,
        spec: Spec,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
        top_dim: int | None = None,
        hidden: Sequence[int] = (100, 100),
    ) -> None:
        super().__init__(spec)
        top = self.prior_spec(spec, top_dim)
        self.top_dim = top.latent_dim
        self.prior = StandardNormal(top) if prior is None else prior
        if self.prior.spec.latent_dim != self.top_dim:
            raise ValueError(
                f"expected a prior of dimension top_dim = {self.top_dim}; "
                f"got {self.prior.spec.latent_dim}"
            )
        self.likelihood = default_likelihood(spec) if likelihood is None else likelihood
        self.between = MLP((self.top_dim,), (2 * spec.latent_dim,), hidden)
        self.decoder = network((spec.latent_dim,), self.likelihood.features)

    @classmethod
    def prior_spec(cls, spec: Spec, top_dim: int | None = None, **options: Any) -> Spec:
        if top_dim is None:
            top_dim = max(1, spec.latent_dim // 2)
        check_count("top_dim", top_dim)
        return replace(spec, latent_dim=top_dim)

    def lower_prior(self, z2: Tensor) -> dist.Normal:
        """p(z1|z2), independent normals of shape (..., D), for z2 of shape (..., top_dim)."""
        return normal_of(self.between(z2))

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x|z1)."""
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.lower_prior(z2).to_event(1))
            return pyro.sample("x", self.observed(self.decode(z1)), obs=x)
