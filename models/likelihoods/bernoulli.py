"""The likelihood of binary images."""

from typing import ClassVar

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.likelihoods.likelihood import EDGE, Likelihood
from models.spec import Domain, Shape

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """log p(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i), y = sigmoid(features).

    Kingma and Welling (2014), appendix C.1, equation (11). A mass on {0, 1}: grey levels have to
    be binarised first.
    """

    domain: ClassVar[Domain] = "binary"

    @property
    def features(self) -> Shape:
        return self.spec.image_shape

    def forward(self, features: Tensor) -> TorchDistribution:
        return dist.Bernoulli(logits=features).to_event(3)

    def features_for_mean(self, mean: Tensor) -> Tensor:
        return mean.logit(EDGE)
