"""Priors p(z)."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.spec import Spec

__all__ = ["Prior"]


class Prior(nn.Module, ABC):
    """A module whose `forward` returns a distribution over z with event shape (D,).

    Args:
        spec: The data's shape and domain, and D; D is `spec.latent_dim`.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def forward(self) -> TorchDistribution:
        """p(z), with batch shape () and event shape (D,)."""

    def connect(self, posterior: Callable[[Tensor], TorchDistribution]) -> None:
        """Takes q(z|x), once the pair is built; for priors that are made of it.

        Keep the function and not the guide, whose parameters would become the model's too.

        Args:
            posterior: From images (N, C, H, W) to q(z|x), batch shape (N,) and event shape (D,).
        """
        return

    def initialise(self, images: Callable[[int], Tensor]) -> None:
        """Starts from data, once, before training; for priors that are initialised by images.

        Args:
            images: Gives so many training images, (N, C, H, W), chosen from the run's seed.
        """
        return
