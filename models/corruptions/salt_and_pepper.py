"""Pixels that turn black or white."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, log1p
from typing import ClassVar

import torch
from torch import Tensor

from models.corruptions.replacing import Replacing
from models.ranges import check_number
from models.spec import Domain

__all__ = ["SaltAndPepper"]

_CELL = 1 / 256  # of intensities next to black, or to white, that count as such


@dataclass(frozen=True)
class SaltAndPepper(Replacing):
    """Each value becomes 0 or 1, each with probability rate / 2, and else stays as it is.

    Continuous data have a density, of which black is the intensities below 1/256 and white those
    above 255/256, as uniform noise between grey levels spreads the two. Each channel of a colour
    image is changed by itself.

    Args:
        rate: The probability. Unknown unless given.

    Raises:
        ValueError: If rate is not a number > 0 and <= 0.999.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"rate": (1e-4, 0.999)}

    rate: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None:
            check_number("rate", self.rate, above=0, most=0.999)

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        half = self.value("rate") / 2
        return torch.where(uniform < half, 0.0, torch.where(uniform >= 1 - half, 1.0, x))

    def log_shares(self, y: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
        rate = self.value("rate")
        log_mass = log(rate / 2) - (log(_CELL) if domain in ("unit", "real") else 0.0)
        return torch.full_like(y, log1p(-rate)), torch.where(_extreme(y), log_mass, -torch.inf)

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.value("rate")
        noise = (rate / 2) * (1 - rate / 2) / (1 - rate) ** 2
        extreme = _extreme(y)
        estimate = torch.where(extreme, (y - rate / 2) / (1 - rate), y)
        return estimate, torch.where(extreme, noise, 0.0)


def _extreme(y: Tensor) -> Tensor:
    return ((y >= 0) & (y < _CELL)) | ((y > 1 - _CELL) & (y <= 1))
