"""p(x|z) pixel by pixel, as the corruptions need it."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.spec import Domain

__all__ = ["Atoms", "DependentPixels", "Pixels", "white"]

_NODES = 64  # of a quadrature over one pixel


def white(domain: Domain) -> float:
    """The value of white, by which images are divided to be intensities."""
    return 255.0 if domain == "bytes" else 1.0


class DependentPixels(ValueError):
    """A likelihood has no distribution of a single pixel given z."""


class Pixels:
    """Independent pixels x_i ~ p(x_i|z), in units of intensity.

    Bytes are divided by 255; data of the other domains are intensities as they are.

    Args:
        images: p(x|z), batch shape (...) and event shape (C, H, W).
        domain: Of the images.

    Raises:
        DependentPixels: If the pixels, or their channels, are not independent given z.
    """

    def __init__(self, images: TorchDistribution, domain: Domain) -> None:
        base = images
        while isinstance(base, torch.distributions.Independent):
            base = base.base_dist
        if base.event_shape or len(base.batch_shape) < 3:
            raise DependentPixels(
                "expected a likelihood whose pixels and channels are independent given z; got "
                f"{type(images).__name__}"
            )
        self.base = base
        self.domain = domain
        self.unit = white(domain)

    def expand(self, batch_shape: torch.Size) -> "Pixels":
        """The same pixels for more z: batch shape (..., C, H, W) of `base`."""
        return Pixels(self.base.expand(batch_shape).to_event(3), self.domain)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_i|z) in nats, (..., C, H, W): a mass, or a density of intensities."""
        return self.base.log_prob((x * self.unit).round() if self.domain == "bytes" else x)

    @property
    def normal(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation where each pixel is normal; else None."""
        if isinstance(self.base, torch.distributions.Normal):
            return self.base.loc, self.base.scale
        return None

    @cached_property
    def mean(self) -> Tensor:
        """E[x_i|z], (..., C, H, W)."""
        return self.base.mean / self.unit

    @cached_property
    def variance(self) -> Tensor:
        """Var[x_i|z], (..., C, H, W)."""
        try:
            return self.base.variance / self.unit**2
        except NotImplementedError:
            return Atoms(*self.nodes()).variance

    def sample(self) -> Tensor:
        """x_i ~ p(x_i|z), (..., C, H, W)."""
        return self.base.sample() / self.unit

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Values v and log-weights, (V, ..., C, H, W): sum_v w_v f(v) = E[f(x_i)|z].

        Exact for binary data (2 values) and bytes (256). For the densities on [0, 1] and the
        normal ones it is the quadrature of Gauss, with 64 values.

        Raises:
            ValueError: If the domain is `real` and the pixels are not normal.
        """
        like = self.base.mean if self.normal is None else self.base.loc
        if self.domain in ("binary", "bytes"):
            values = torch.arange(2 if self.domain == "binary" else 256).to(like)
            log_weights = None
        elif self.domain == "unit":
            places, weights = np.polynomial.legendre.leggauss(_NODES)
            values = torch.as_tensor((1 + places) / 2).to(like)
            log_weights = torch.as_tensor(np.log(weights / 2)).to(like)
        elif self.normal is not None:
            places, weights = np.polynomial.hermite_e.hermegauss(_NODES)
            spread = _column(torch.as_tensor(places).to(like), like)
            log_weights = torch.as_tensor(np.log(weights) - np.log(weights.sum())).to(like)
            values = self.normal[0] + self.normal[1] * spread
            return values, _column(log_weights, like).expand_as(values)
        else:
            raise ValueError(
                "expected a likelihood of real images whose pixels are normal; got "
                f"{type(self.base).__name__}"
            )
        values = _column(values, like)
        all_at_once = getattr(self.base, "log_masses", None)  # where that is faster
        log_masses = all_at_once() if all_at_once else self.base.log_prob(values)
        if log_weights is not None:
            log_masses = log_masses + _column(log_weights, like)
        return values / self.unit, log_masses


class Atoms(dist.TorchDistribution):
    """Finitely many values of each pixel.

    Args:
        values: v, (V, ..., C, H, W) or what broadcasts to it.
        logits: Their log-probabilities up to a constant, (V, ..., C, H, W).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, values: Tensor, logits: Tensor) -> None:
        self.values = values
        self.probabilities = logits.softmax(0)
        super().__init__(logits.shape[1:], torch.Size(), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return (self.probabilities * self.values).sum(0)

    @property
    def variance(self) -> Tensor:
        return (self.probabilities * (self.values - self.mean).square()).sum(0)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        below = self.probabilities.cumsum(0)
        uniform = torch.rand_like(below[0]) * below[-1]
        place = (below[:-1] <= uniform).sum(0, keepdim=True)
        return self.values.expand_as(below).gather(0, place)[0]


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(V,) as (V, 1, ..., 1) before the dimensions of `like`."""
    return values.reshape(-1, *[1] * like.dim())
