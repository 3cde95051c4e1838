"""The prior N(0, I)."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from models.priors.prior import Prior
from models.spec import Spec

__all__ = ["StandardNormal"]


class StandardNormal(Prior):
    """p(z) = N(z; 0, I), the prior of Kingma and Welling (2014, section 3)."""

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("loc", torch.zeros(spec.latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(spec.latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
