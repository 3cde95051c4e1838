"""The variational autoencoder's generative model."""

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.likelihoods.default import default_likelihood
from models.likelihoods.likelihood import Likelihood
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.priors.prior import Prior
from models.priors.standard_normal import StandardNormal
from models.spec import Spec

__all__ = ["VAE"]


class VAE(Model):
    """p(x, z) = p(z) p(x|z), p(x|z) a likelihood around a decoder network.

    Kingma and Welling (2014), figure 1 (solid arrows) and section 3.

    Args:
        spec: The data's shape and domain, and D.
        prior: p(z); a standard normal by default.
        likelihood: p(x|z); by default Bernoulli for binary and Gaussian for real data.
        network: Builds the decoder from its input and output shapes.
    """

    def __init__(
        self,
        spec: Spec,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
    ) -> None:
        super().__init__(spec)
        self.prior = StandardNormal(spec) if prior is None else prior
        self.likelihood = default_likelihood(spec) if likelihood is None else likelihood
        self.decoder = network((spec.latent_dim,), self.likelihood.features)

    def decode(self, z: Tensor) -> TorchDistribution:
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observed(self.decode(z)), obs=x)
