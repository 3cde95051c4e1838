"""A point instead of a distribution."""

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.guide import Guide
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.spec import Spec

__all__ = ["Delta"]


class Delta(Guide):
    """All of q(z|x) at the one point z = g(x), g a network.

    With the objective `ELBO` it is the maximum a posteriori z, amortized: the loss is
    -log p(x|g(x)) - log p(g(x)). That is not a bound on log p(x), since a point has no density:
    objectives and measures that need log q(z|x) refuse this guide. Beside the model `Autoencoder`,
    which has no log p(z), it is the deterministic autoencoder.

    Args:
        spec: The data's shape and domain, and D.
        network: Builds the encoder g from its input and output shapes.
    """

    has_density = False

    def __init__(self, spec: Spec, network: NetworkFactory = MLP) -> None:
        super().__init__(spec)
        self.encoder = network(spec.encoder_shape, (spec.latent_dim,))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(self.spec.network_input(x))

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        return dist.Delta(features, event_dim=1)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
