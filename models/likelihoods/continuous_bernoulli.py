"""The likelihood of intensities that a Bernoulli is often misused for."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.likelihoods.likelihood import Likelihood
from models.spec import Domain, Shape

__all__ = ["ContinuousBernoulli"]

_STEEPEST = 15.0  # beyond this logit y and 1 - y round to 0 and 1 in float32
_HALVINGS = 30


class ContinuousBernoulli(Likelihood):
    """p(x|z) = prod_i C(y_i) y_i^x_i (1 - y_i)^(1 - x_i) on [0, 1], y = sigmoid(features).

    Loaiza-Ganem and Cunningham (2019), equations (5) and (6). The constant
    C(y) = 2 artanh(1 - 2 y) / (1 - 2 y), 2 at y = 1/2, makes it a density.
    """

    domain: ClassVar[Domain] = "unit"

    @property
    def features(self) -> Shape:
        return self.spec.image_shape

    def forward(self, features: Tensor) -> TorchDistribution:
        return dist.ContinuousBernoulli(logits=features).to_event(3)

    def features_of(self, mean: Tensor) -> Tensor:
        # E[x] = y / (2 y - 1) + 1 / (2 artanh(1 - 2 y)) grows with the logit; it has no inverse.
        low, high = torch.full_like(mean, -_STEEPEST), torch.full_like(mean, _STEEPEST)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = dist.ContinuousBernoulli(logits=middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
