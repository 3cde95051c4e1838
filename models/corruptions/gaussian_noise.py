"""Additive normal noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

from models.corruptions.corruption import Corruption
from models.corruptions.pixels import Pixels
from models.ranges import check_flag, check_number

__all__ = ["GaussianNoise"]


@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """y_i = x_i + scale e_i, e_i ~ N(0, 1), cut at black and white where `clipped`.

    Where p(x|z) is normal, p(y|z) = N(y; mu, sigma^2 + scale^2), and p(x|z, y) is normal too. A
    value that was cut says that the one before was at most 0, or at least 1: its likelihood is the
    mass there (Tobin, 1958), and p(x|z, y) an average over values that were cut.

    Args:
        scale: The standard deviation of the noise, in units of intensity: 0.1 is a tenth of the
            way from black to white. Unknown unless given.
        clipped: Whether values below 0 became 0, and those above 1 became 1, as in pictures.

    Raises:
        ValueError: If scale is not a number > 0.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"scale": (1e-3, 10.0)}

    scale: float | None = None
    clipped: bool = False

    def __post_init__(self) -> None:
        check_flag("clipped", self.clipped)
        if self.scale is not None:
            check_number("scale", self.scale, above=0)

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        y = x + self.value("scale") * noise.to(x.device)
        return y.clamp(0, 1) if self.clipped else y

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self._log_normal(y, x, torch.full_like(y, self.value("scale")))

    def log_likelihood(self, pixels: Pixels, y: Tensor) -> Tensor:
        if pixels.normal is None:
            return super().log_likelihood(pixels, y)
        loc, scale = pixels.normal
        whole = (scale.square() + self.value("scale") ** 2).sqrt()
        return self._log_normal(y, loc, whole).sum((-3, -2, -1))

    def posterior(self, pixels: Pixels, y: Tensor) -> TorchDistribution:
        if pixels.normal is None:
            return super().posterior(pixels, y)
        loc, scale = pixels.normal
        noise, variance = self.value("scale") ** 2, scale.square()
        share = variance / (variance + noise)
        left = (share * noise).sqrt()
        if not self.clipped:
            return dist.Normal(loc + share * (y - loc), left, validate_args=False)
        return _BeforeTheCut(y, *torch.broadcast_tensors(loc, variance, share, left))

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, torch.full_like(y, self.value("scale") ** 2)

    def _log_normal(self, y: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """The log-density of y, or the log-mass at a value that was cut."""
        density = -0.5 * ((y - loc) / scale).square() - scale.log() - 0.5 * log(2 * pi)
        if not self.clipped:
            return density
        below, above = log_ndtr(-loc / scale), log_ndtr((loc - 1) / scale)
        return torch.where(y <= 0, below, torch.where(y >= 1, above, density))


class _BeforeTheCut(TorchDistribution):
    """Normal pixels given y: x = loc + share (v - loc) + left e, v the value that became y.

    v is y itself, or normal and truncated to v <= 0 or v >= 1.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self, y: Tensor, loc: Tensor, variance: Tensor, share: Tensor, left: Tensor
    ) -> None:
        self.y, self.loc, self.share, self.left = y, loc, share, left
        self.scale = (variance / share).sqrt()
        # From the mean towards the end where it was cut: v = loc + sign scale t, t >= edge.
        self.sign = torch.where(y >= 1, 1.0, -1.0).to(loc)
        self.edge = torch.where(y >= 1, 1 - loc, loc) / self.scale
        self.cut = ((y <= 0) | (y >= 1)).expand(loc.shape)
        super().__init__(loc.shape, torch.Size(), validate_args=False)

    @property
    def _hazard(self) -> Tensor:
        return (-0.5 * self.edge.square() - 0.5 * log(2 * pi) - log_ndtr(-self.edge)).exp()

    @property
    def mean(self) -> Tensor:
        v = torch.where(self.cut, self.loc + self.sign * self.scale * self._hazard, self.y)
        return self.loc + self.share * (v - self.loc)

    @property
    def variance(self) -> Tensor:
        truncated = 1 + self.edge * self._hazard - self._hazard.square()
        spread = torch.where(self.cut, self.scale.square() * truncated.clamp(min=0), 0.0)
        return self.left.square() + self.share.square() * spread

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        uniform = torch.rand_like(self.loc, dtype=torch.float64).clamp(min=1e-12)
        edge = self.edge.double().clamp(max=30)
        t = -ndtri(uniform * ndtr(-edge))
        v = torch.where(self.cut, self.loc + self.sign * self.scale * t.to(self.loc), self.y)
        return self.loc + self.share * (v - self.loc) + self.left * torch.randn_like(self.loc)
