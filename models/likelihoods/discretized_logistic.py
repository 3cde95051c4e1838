"""A likelihood of bytes: a logistic distribution, cut into 256 pieces."""

from math import log
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from models.likelihoods.likelihood import Likelihood
from models.ranges import check_number
from models.spec import Domain, Shape, Spec

__all__ = ["DiscretizedLogistic", "LogisticBytes"]

_TOP = 255


class LogisticBytes(TorchDistribution):
    """P(v) = F(v + 1/2) - F(v - 1/2), F(u) = sigmoid((u - loc) / scale), v = 0, ..., 255.

    The outermost values take the tails, so that the masses add up to 1. Salimans, Karpathy, Chen
    and Kingma (2017), equation (2), for one component.

    Args:
        loc: Location, in bytes.
        scale: Scale > 0, in bytes.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.integer_interval(0, _TOP)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogisticBytes":
        shape = torch.Size(batch_shape)
        return LogisticBytes(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(v), without cancellation.

        With b and a the standardised upper and lower edges,
        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), b - a = 1 / scale.
        """
        if self._validate_args:
            self._validate_sample(value)
        upper = logsigmoid((value + 0.5 - self.loc) / self.scale)
        lower = logsigmoid((self.loc - value + 0.5) / self.scale)
        # As exp(-log s): the derivative of 1 / s, its square, would vanish where s is huge.
        inside = upper + lower + torch.log(-torch.expm1(-self.scale.log().neg().exp()))
        return torch.where(value < 0.5, upper, torch.where(value > _TOP - 0.5, lower, inside))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """The nearest byte to a draw from the logistic distribution."""
        shape = self._extended_shape(sample_shape)
        tiny = torch.finfo(self.loc.dtype).tiny
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(tiny)
        drawn = self.loc + self.scale * (uniform.log() - torch.log1p(-uniform))
        return drawn.round().clamp(0, _TOP)

    @property
    def mean(self) -> Tensor:
        """E[v] = sum_(v=0)^254 (1 - F(v + 1/2))."""
        mean = torch.zeros_like(self.loc)
        for value in range(_TOP):
            mean = mean + torch.sigmoid((self.loc - value - 0.5) / self.scale)
        return mean


class DiscretizedLogistic(Likelihood):
    """p(x|z) = prod_i P(x_i), a logistic mass on {0, ..., 255} for each pixel.

    The network gives the location, from the middle of the range in units of half of it, and the
    logarithm of the scale: loc = 127.5 (1 + f), scale = floor + initial_scale exp(g).

    Args:
        spec: The data's shape and domain, and D.
        initial_scale: The scale where g = 0, in bytes.
        floor: The smallest scale allowed, in bytes.

    Raises:
        ValueError: If floor or initial_scale is not a number > 0.
    """

    domain: ClassVar[Domain] = "bytes"

    def __init__(self, spec: Spec, initial_scale: float = 16.0, floor: float = 0.05) -> None:
        super().__init__(spec)
        for name, value in (("initial_scale", initial_scale), ("floor", floor)):
            check_number(name, value, above=0)
        self.initial_log_scale = log(initial_scale)
        self.floor = floor

    @property
    def features(self) -> Shape:
        channels, height, width = self.spec.image_shape
        return (2 * channels, height, width)

    def forward(self, features: Tensor) -> TorchDistribution:
        location, log_scale = features.chunk(2, dim=-3)
        scale = self.floor + (self.initial_log_scale + log_scale).exp()
        return LogisticBytes(_TOP / 2 * (1 + location), scale).to_event(3)

    def features_for_mean(self, mean: Tensor) -> Tensor:
        # Nearly: beside the edges of the range the tails that are cut off shift the mean.
        return torch.cat([2 * mean / _TOP - 1, torch.zeros_like(mean)])
