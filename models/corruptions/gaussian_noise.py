"""Additive normal noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.corruptions.corruption import Corruption
from models.corruptions.pixels import Pixels
from models.ranges import check_number

__all__ = ["GaussianNoise"]


@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """y_i = x_i + scale e_i, e_i ~ N(0, 1), without a bound on y.

    Where p(x|z) is normal, so are p(y|z) = N(y; mu, sigma^2 + scale^2) and p(x|z, y).

    Args:
        scale: The standard deviation of the noise, in units of intensity: 0.1 is a tenth of the
            way from black to white. Unknown unless given.

    Raises:
        ValueError: If scale is not a number > 0.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"scale": (1e-3, 10.0)}

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None:
            check_number("scale", self.scale, above=0)

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return x + self.value("scale") * noise.to(x.device)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        scale = self.value("scale")
        return -0.5 * ((y - x) / scale).square() - log(scale) - 0.5 * log(2 * pi)

    def log_likelihood(self, pixels: Pixels, y: Tensor) -> Tensor:
        if pixels.normal is None:
            return super().log_likelihood(pixels, y)
        loc, scale = pixels.normal
        whole = (scale.square() + self.value("scale") ** 2).sqrt()
        terms = -0.5 * ((y - loc) / whole).square() - whole.log() - 0.5 * log(2 * pi)
        return terms.sum((-3, -2, -1))

    def posterior(self, pixels: Pixels, y: Tensor) -> TorchDistribution:
        if pixels.normal is None:
            return super().posterior(pixels, y)
        loc, scale = pixels.normal
        noise, variance = self.value("scale") ** 2, scale.square()
        share = variance / (variance + noise)
        return dist.Normal(loc + share * (y - loc), (share * noise).sqrt(), validate_args=False)

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, torch.full_like(y, self.value("scale") ** 2)
