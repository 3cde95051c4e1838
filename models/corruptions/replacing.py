"""Corruptions that keep a pixel as it is or put something else in its place."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.corruptions.corruption import Corruption
from models.corruptions.pixels import Pixels
from models.spec import Domain

__all__ = ["Replacing"]


@dataclass(frozen=True)
class Replacing(Corruption):
    """y_i = x_i with probability 1 - r_i, else y_i ~ c, whatever x is.

    So p(y_i|z) = (1 - r_i) p_x(y_i|z) + r_i c(y_i), exactly, for every likelihood. Given y, x_i is
    y_i with the share of the first term as its probability, and else a draw from p(x_i|z).
    """

    keeps_values: ClassVar[bool] = True

    @abstractmethod
    def log_shares(self, y: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
        """log (1 - r_i) and log r_i c(y_i), (B, C, H, W); a density where the domain has one."""

    def log_likelihood(self, pixels: Pixels, y: Tensor) -> Tensor:
        return torch.logaddexp(*self._log_terms(pixels, y)).sum((-3, -2, -1))

    def posterior(self, pixels: Pixels, y: Tensor) -> TorchDistribution:
        kept, replaced = self._log_terms(pixels, y)
        return _KeptOrNot(pixels, y.nan_to_num(), torch.sigmoid(kept - replaced))

    def _log_terms(self, pixels: Pixels, y: Tensor) -> tuple[Tensor, Tensor]:
        log_kept, log_replaced = self.log_shares(y, pixels.domain)
        return log_kept + pixels.log_prob(y.nan_to_num()), log_replaced


class _KeptOrNot(TorchDistribution):
    """x_i = y_i with a probability, else x_i ~ p(x_i|z)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, pixels: Pixels, y: Tensor, kept: Tensor) -> None:
        self.pixels, self.y, self.kept = pixels, y, kept
        super().__init__(kept.shape, torch.Size(), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.kept * self.y + (1 - self.kept) * self.pixels.mean

    @property
    def variance(self) -> Tensor:
        distance = (self.y - self.pixels.mean).square()
        return (1 - self.kept) * (self.pixels.variance + self.kept * distance)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return torch.where(torch.rand_like(self.kept) < self.kept, self.y, self.pixels.sample())
