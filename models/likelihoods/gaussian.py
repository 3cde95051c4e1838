"""The likelihood of real-valued images."""

from math import log
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.likelihoods.likelihood import Likelihood
from models.ranges import check_choice, check_number
from models.spec import Domain, Shape, Spec

__all__ = ["Gaussian"]


class Gaussian(Likelihood):
    """log p(x|z) = log N(x; mu, sigma^2 I), with mu and optionally sigma from the network.

    Kingma and Welling (2014), appendix C.2, equation (12), with sigma = floor + exp(s) where the
    paper has sigma = exp(s / 2): without a floor the density of a perfectly predicted pixel is
    unbounded, and training would end there.

    Args:
        spec: The data's shape and domain, and D.
        scale: How many s there are: `shared` learns one for all pixels, `pixel` one for each pixel;
            `network` computes one for each pixel and image from z, as in the paper.
        initial_scale: The scale before training, in units of x.
        floor: The smallest scale allowed, in units of x. The default is about the standard
            deviation of rounding to one of 256 levels in [0, 1].

    Raises:
        ValueError: If floor is not a number > 0, initial_scale not one above it, or scale unknown.
    """

    domain: ClassVar[Domain] = "real"

    def __init__(
        self,
        spec: Spec,
        scale: Literal["shared", "pixel", "network"] = "shared",
        initial_scale: float = 0.1,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(spec)
        check_choice("scale", scale, ("shared", "pixel", "network"))
        check_number("floor", floor, above=0)
        check_number("initial_scale", initial_scale, above=floor)
        self.scale = scale
        self.floor = floor
        self.initial_log_scale = log(initial_scale - floor)
        if scale != "network":
            shape = (1, 1, 1) if scale == "shared" else spec.image_shape
            self.log_scale = nn.Parameter(torch.full(shape, self.initial_log_scale))

    @property
    def features(self) -> Shape:
        channels, height, width = self.spec.image_shape
        return (2 * channels if self.scale == "network" else channels, height, width)

    def forward(self, features: Tensor) -> TorchDistribution:
        if self.scale == "network":
            loc, offset = features.chunk(2, dim=-3)
            log_scale = self.initial_log_scale + offset
        else:
            loc, log_scale = features, self.log_scale
        return dist.Normal(loc, self.floor + log_scale.exp()).to_event(3)

    def features_for_mean(self, mean: Tensor) -> Tensor:
        return torch.cat([mean, torch.zeros_like(mean)]) if self.scale == "network" else mean
