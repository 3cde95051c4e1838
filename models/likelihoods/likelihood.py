"""Likelihoods p(x|z), given what a decoder network computed from z."""

from abc import ABC, abstractmethod
from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.spec import Domain, Shape, Spec

__all__ = ["EDGE", "Likelihood"]

# How near to its bounds a mean pixel may start: a value that no image has yet may still come.
EDGE = 1e-3


class Likelihood(nn.Module, ABC):
    """Turns features of the decoder network into a distribution over images.

    Args:
        spec: The data's shape and domain, and D.

    Attributes:
        domain: The one domain of data on which it is a mass or density.

    Raises:
        ValueError: If the spec's domain is another.
    """

    domain: ClassVar[Domain]

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        if spec.domain != self.domain:
            raise ValueError(
                f"{type(self).__name__} needs {self.domain} data; got {spec.domain} data"
            )
        self.spec = spec

    @property
    @abstractmethod
    def features(self) -> Shape:
        """The shape (F, H, W) that the decoder network has to compute for one z."""

    @abstractmethod
    def forward(self, features: Tensor) -> TorchDistribution:
        """p(x|z), with batch shape (...) and event shape (C, H, W), from (..., F, H, W)."""

    def features_for_mean(self, mean: Tensor) -> Tensor | None:
        """The features (F, H, W) at which E[x|z] is a given image, before training.

        A decoder that begins there need not first unlearn that every pixel is as likely as not,
        which would cost it latent dimensions.

        Args:
            mean: The image (C, H, W), inside the range of the means that there are.

        Returns:
            None by default: the decoder then begins as it is.
        """
        return None
