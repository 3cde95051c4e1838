"""The encoder of Kingma and Welling."""

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.guide import Guide
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import normal_of
from models.spec import Spec

__all__ = ["DiagonalNormal"]


class DiagonalNormal(Guide):
    """log q(z|x) = log N(z; mu, sigma^2 I), mu and log sigma^2 from a network of x.

    Kingma and Welling (2014), equation (9) and appendix C.2.

    Args:
        spec: The data's shape and domain, and D.
        network: Builds the encoder from its input and output shapes.
    """

    def __init__(self, spec: Spec, network: NetworkFactory = MLP) -> None:
        super().__init__(spec)
        self.encoder = network(spec.encoder_shape, (2 * spec.latent_dim,))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(self.spec.network_input(x))

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        return normal_of(features).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
