"""The facts that data and user fix before anything is constructed."""

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from torch import Tensor

from models.ranges import check_count

__all__ = ["DOMAINS", "Domain", "Shape", "Spec"]

Domain = Literal["binary", "unit", "bytes", "real"]
Shape = tuple[int, ...]

DOMAINS: tuple[Domain, ...] = get_args(Domain)


@dataclass(frozen=True)
class Spec:
    """The facts that every swappable piece is built from.

    Args:
        image_shape: (C, H, W) of one image.
        domain: Of the pixels: `binary` {0, 1}, `unit` [0, 1], `bytes` {0, ..., 255} or
            `real`. A likelihood is a mass or density on exactly one domain.
        latent_dim: D, the dimension of z.
        classes: How many labels 0, 1, ... the data have; 0 where they have none.

    Raises:
        ValueError: If a size is below 1 or the domain is unknown.
    """

    image_shape: tuple[int, int, int]
    domain: Domain
    latent_dim: int
    classes: int = 0

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(
                f"expected image_shape (C, H, W) of sizes >= 1; got {self.image_shape}"
            )
        if self.domain not in DOMAINS:
            raise ValueError(f"expected a domain of {', '.join(DOMAINS)}; got {self.domain!r}")
        check_count("latent_dim", self.latent_dim)
        check_count("classes", self.classes, least=0)

    @property
    def pixels(self) -> int:
        """C H W, the number of observed values in one image."""
        return prod(self.image_shape)

    def network_input(self, x: Tensor) -> Tensor:
        """Images scaled for a network: bytes to [0, 1], the other domains as they are."""
        return x / 255 if self.domain == "bytes" else x
