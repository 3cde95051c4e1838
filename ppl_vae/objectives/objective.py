"""The contract of every objective."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, SupportsFloat

import torch
from torch import Tensor, nn

from guides import Guide
from models import Model
from models.sharing import sharing
from ppl_vae.errors import InputError

__all__ = ["Objective", "PairLoss"]


@dataclass(frozen=True)
class Objective(ABC):
    """A loss for a model/guide pair; its fields are its options.

    Attributes:
        smallest_batch: The least number of images of which it can be computed.
        through_draws: Whether its gradient comes through the guide's draws, which then have to be
            reparameterised.
        bound_particles: K of the bound E[log 1/K sum_k w_k] that it raises, 1 for the ELBO. Where
            it is more, the validation images are measured by that bound too.
    """

    smallest_batch: ClassVar[int] = 1
    through_draws: ClassVar[bool] = False
    bound_particles: ClassVar[int] = 1

    @abstractmethod
    def loss(self, model: Model, guide: Guide, *batch: Any, **scheduled: Any) -> Tensor:
        """The loss to minimise.

        Args:
            model: p(x, z).
            guide: q(z|x).
            *batch: Arguments of the programs: images x (B, C, H, W), and labels y (B,) where the
                model is one of labelled images.
            **scheduled: The numbers of `schedule`, as scalar tensors.

        Returns:
            A scalar in nats per datum whose gradient is the estimator to follow.
        """

    def schedule(self, epoch: float) -> dict[str, float]:
        """The numbers in the loss that change during training, by name; by default none.

        Args:
            epoch: Passes over the training images done so far, with a fraction.
        """
        return {}

    def scheduled(self, epoch: float) -> dict[str, float]:
        """The numbers of `schedule` as floats, whatever their types.

        Raises:
            InputError: If a value is not a finite number, or the names are not those of epoch 0.
        """
        values, names = self.schedule(epoch), self.schedule(0.0).keys()
        whose = f"{type(self).__name__}.schedule"
        if values.keys() != names:
            raise InputError(
                f"{whose}: expected the names of epoch 0, {', '.join(names) or 'none'}, at every "
                f"epoch; got {', '.join(values) or 'none'} at epoch {epoch:g}"
            )
        for name, value in values.items():
            if not isinstance(value, SupportsFloat) or not isfinite(value):
                raise InputError(
                    f"{whose}: expected {name} at epoch {epoch:g} as a finite number; got {value!r}"
                )
        return {name: float(value) for name, value in values.items()}

    def first_scheduled(self, device: torch.device) -> dict[str, Tensor]:
        """The numbers of `schedule` at epoch 0 as `loss` takes them, scalar tensors."""
        return {name: torch.tensor(x, device=device) for name, x in self.scheduled(0.0).items()}


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

    @sharing()
    def forward(self, *batch: Tensor, **scheduled: Tensor) -> Tensor:
        return self.objective.loss(self.model, self.guide, *batch, **scheduled)
