"""A learned mixture as the prior."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from models.priors.prior import Prior
from models.ranges import check_count
from models.spec import Spec

__all__ = ["MixtureOfNormals"]


class MixtureOfNormals(Prior):
    """p(z) = sum_k pi_k N(z; mu_k, diag(sigma_k^2)), weights, means and scales learned.

    Means start as draws from N(0, I), from the seed; weights are equal and scales one.

    Args:
        spec: The data's shape and domain, and D.
        components: K, the number of normals.

    Raises:
        ValueError: If components < 1.
    """

    def __init__(self, spec: Spec, components: int = 10) -> None:
        super().__init__(spec)
        check_count("components", components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, spec.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, spec.latent_dim))

    def forward(self) -> TorchDistribution:
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), normals)
