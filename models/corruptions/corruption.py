"""The contract of every corruption."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.corruptions.pixels import Atoms, Pixels
from models.spec import Shape, Spec

__all__ = ["Corruption"]


@dataclass(frozen=True)
class Corruption(ABC):
    """p(y|x): what is seen, y, given the image x. Its fields are its options.

    All is in units of intensity, in which black is 0 and white 1: bytes are divided by 255, data
    of the other domains are intensities as they are. A field that is None and in `ranges` is
    unknown.

    A subclass that changes each pixel by itself gives `log_prob` and `corrupt`, and everything
    else follows: x_i is summed out exactly where it has 2 or 256 values, and integrated out by a
    quadrature of 64 values where it is continuous.

    Attributes:
        ranges: The parameters that may be unknown, with the least and the largest value.
        keeps_values: Whether the pixels of y that are seen are pixels of x, so that they have to
            be values of the run's domain. Otherwise y is any real number.
    """

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    keeps_values: ClassVar[bool] = False

    @property
    def unknown(self) -> tuple[str, ...]:
        """The parameters without a value."""
        return tuple(name for name in self.ranges if getattr(self, name) is None)

    @abstractmethod
    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """y ~ p(y|x).

        Args:
            x: Images (B, C, H, W).
            generator: On the CPU; where the draws come from.

        Raises:
            ValueError: If a parameter that it takes is unknown.
        """

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y_i|x_i) in nats of each pixel, for shapes that broadcast.

        Raises:
            NotImplementedError: If the corruption is not one of each pixel by itself.
        """
        raise NotImplementedError(f"{type(self).__name__} is not one of each pixel by itself")

    def shape(self, spec: Spec) -> Shape:
        """The shape of one y.

        Raises:
            ValueError: If it has none for images of this shape.
        """
        return spec.image_shape

    def observe(self, y: Tensor) -> Tensor:
        """y as the other functions take it: pixels that are not seen are NaN.

        Args:
            y: What was seen, (B, ...).

        Raises:
            ValueError: If it is not finite where it has to be.
        """
        if not y.isfinite().all():
            raise ValueError(
                f"expected finite pixels for {type(self).__name__}; got NaN or infinity; Masked "
                "takes NaN as missing"
            )
        return y

    def log_likelihood(self, pixels: Pixels, y: Tensor) -> Tensor:
        """log p(y|z) = sum_i log E[p(y_i|x_i)|z] in nats, (...,)."""
        values, log_weights = pixels.nodes()
        terms = (log_weights + self.log_prob(y, values)).logsumexp(0)
        return terms.sum((-3, -2, -1))

    def posterior(self, pixels: Pixels, y: Tensor) -> TorchDistribution:
        """p(x|z, y), with mean, variance and draws (..., C, H, W)."""
        values, log_weights = pixels.nodes()
        return Atoms(values, log_weights + self.log_prob(y, values))

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A crude estimate of x from y alone, (B, C, H, W), and its variance.

        Infinite where y says nothing. Inference starts from there, and any guess will do.
        """
        return y, torch.full_like(y, 0.1)

    def value(self, name: str) -> float:
        """The value of a parameter.

        Raises:
            ValueError: If it is unknown.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"expected {name} for {type(self).__name__}; it is unknown; give it, as in "
                f"--corruption.{name} 0.1"
            )
        return value
