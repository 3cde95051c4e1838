"""The encoder with correlations."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.guide import Guide
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.spec import Spec

__all__ = ["FullRankNormal"]


class FullRankNormal(Guide):
    """log q(z|x) = log N(z; mu, L L^T), mu and the lower triangle L from a network of x.

    The diagonal of L is the exponential of what the network gives, halved, as in `DiagonalNormal`.
    Kingma and Welling (2019), section 2.5.1.

    Args:
        spec: The data's shape and domain, and D.
        network: Builds the encoder from its input and output shapes.
    """

    def __init__(self, spec: Spec, network: NetworkFactory = MLP) -> None:
        super().__init__(spec)
        size = spec.latent_dim
        self.below = size * (size - 1) // 2
        self.encoder = network(spec.encoder_shape, (2 * size + self.below,))

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(self.spec.network_input(x))

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        size = self.spec.latent_dim
        loc, log_variance, below = features.split([size, size, self.below], dim=-1)
        row, column = torch.tril_indices(size, size, offset=-1, device=features.device)
        triangle = loc.new_zeros(*loc.shape, size)
        triangle[..., row, column] = below
        scale = torch.diag_embed((log_variance / 2).exp())
        return dist.MultivariateNormal(loc, scale_tril=scale + triangle)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
