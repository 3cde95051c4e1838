"""Priors p(z)."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import nn

from models.spec import Spec

__all__ = ["Prior", "StandardNormal"]


class Prior(nn.Module, ABC):
    """A module whose `forward` returns a distribution over z with event shape (D,).

    Args:
        spec: What it is built for; D is `spec.latent_dim`.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """p(z), with batch shape () and event shape (D,)."""


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
