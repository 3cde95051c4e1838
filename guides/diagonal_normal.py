"""The encoder of Kingma and Welling."""

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.guide import Guide
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.spec import Spec

__all__ = ["DiagonalNormal"]


class DiagonalNormal(Guide):
    """log q(z|x) = log N(z; mu, sigma^2 I), mu and log sigma^2 from a network of x.

    Kingma and Welling (2014), equation (9) and appendix C.2.

    Args:
        spec: What it is built for.
        network: Builds the encoder from its input and output shapes.
    """

    def __init__(self, spec: Spec, network: NetworkFactory = MLP) -> None:
        super().__init__(spec)
        self.encoder = network(spec.image_shape, (2 * spec.latent_dim,))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(self.spec.network_input(x))

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        loc, log_variance = features.chunk(2, dim=-1)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
