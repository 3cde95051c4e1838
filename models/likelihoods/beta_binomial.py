"""A likelihood of bytes with two parameters a pixel and no rounding."""

from math import lgamma, log
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.ops.special import log_beta
from torch import Tensor
from torch.nn.functional import softplus

from models.likelihoods.likelihood import EDGE, Likelihood
from models.ranges import check_number
from models.spec import Domain, Shape, Spec

__all__ = ["BetaBinomial"]


class _Bytes(dist.BetaBinomial):
    """Pyro's distribution of 255 trials, in float32 too.

    Pyro's log-gamma functions reach 1,000 nats and cancel: in float32 the masses add up to as much
    as 1.0002. Here they are float64, with which a step on a CPU takes a quarter longer.

    Pyro divides gamma variables. Where both round to 0 its draws are 127 or 128, although the mass
    lies at 0 and 255. Their logarithms do not round: if g ~ Gamma(a + 1) and e ~ Exponential(1),
    then g exp(-e / a) ~ Gamma(a).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, a, b = (part.double() for part in (value, self.concentration1, self.concentration0))
        log_choices = lgamma(256) - (x + 1).lgamma() - (256 - x).lgamma()
        log_prob = log_choices + log_beta(x + a, 255 - x + b) - log_beta(a, b)
        return log_prob.to(self.concentration1.dtype)

    def log_masses(self) -> Tensor:
        """log p(x) of all x = 0, ..., 255, (256, ...), by the ratio of neighbours.

        p(x + 1) / p(x) = (255 - x) (x + a) / ((x + 1) (254 - x + b)), which needs no log-gamma.
        """
        a, b = self.concentration1.double(), self.concentration0.double()
        x = torch.arange(255).to(a).reshape(-1, *[1] * a.dim())
        ratios = ((255 - x) * (x + a) / ((x + 1) * (254 - x + b))).log()
        log_masses = torch.cat([torch.zeros_like(ratios[:1]), ratios.cumsum(0)]).log_softmax(0)
        return log_masses.to(self.concentration1.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        logs = [
            dist.Gamma(c + 1, 1.0).sample(sample_shape).log()
            - dist.Exponential(c).sample(sample_shape)
            for c in (self.concentration1, self.concentration0)
        ]
        return dist.Binomial(self.total_count, logits=logs[0] - logs[1]).sample()


class BetaBinomial(Likelihood):
    """p(x|z) = prod_i int Binomial(x_i; 255, y) Beta(y; a_i, b_i) dy, a mass on {0, ..., 255}.

    a and b are the softplus of the network's features, plus a floor.

    Args:
        spec: The data's shape and domain, and D.
        floor: The smallest a and b allowed; towards 0 the mass gathers at 0 and 255.

    Raises:
        ValueError: If floor is not a number > 0.
    """

    domain: ClassVar[Domain] = "bytes"

    def __init__(self, spec: Spec, floor: float = 1e-3) -> None:
        super().__init__(spec)
        check_number("floor", floor, above=0)
        self.floor = floor

    @property
    def features(self) -> Shape:
        channels, height, width = self.spec.image_shape
        return (2 * channels, height, width)

    def forward(self, features: Tensor) -> TorchDistribution:
        a, b = (self.floor + softplus(half) for half in features.chunk(2, dim=-3))
        return _Bytes(a, b, total_count=255).to_event(3)

    def features_for_mean(self, mean: Tensor) -> Tensor:
        # E[x] = 255 a / (a + b); the sum a + b is what features of 0 give.
        share = (mean / 255).clamp(EDGE, 1 - EDGE)
        counts = 2 * log(2) * torch.cat([share, 1 - share])
        return (counts - self.floor).clamp(min=EDGE).expm1().log()
