"""The contract of every objective."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from guides import Guide
from models import Model

__all__ = ["Objective", "PairLoss"]


@dataclass(frozen=True)
class Objective(ABC):
    """A loss for a model/guide pair; its fields are its options.

    Attributes:
        smallest_batch: The least number of images of which it can be computed.
    """

    smallest_batch: ClassVar[int] = 1

    @abstractmethod
    def loss(self, model: Model, guide: Guide, *batch: Any, **scheduled: Any) -> Tensor:
        """The loss to minimise.

        Args:
            model: p(x, z).
            guide: q(z|x).
            *batch: What the programs take: images x (B, C, H, W), and labels y (B,) where the
                model is one of labelled images.
            **scheduled: What `schedule` names, as scalars.

        Returns:
            A scalar in nats per datum whose gradient is the estimator to follow.
        """

    def schedule(self, epoch: float) -> dict[str, float]:
        """The numbers in the loss that change during training, by name; none unless said.

        Args:
            epoch: Passes over the training images done so far, with a fraction.
        """
        return {}


class PairLoss(nn.Module):
    """The objective of a pair as a module, of which a graph is made.

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
    """

    def __init__(self, model: Model, guide: Guide, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.objective = objective

    def forward(self, *batch: Tensor, **scheduled: Tensor) -> Tensor:
        return self.objective.loss(self.model, self.guide, *batch, **scheduled)
