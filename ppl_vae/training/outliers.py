"""Steps that are left out because their gradient is far too large."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Outliers"]


class Outliers:
    """Finds gradients whose Euclidean norm, over all parameters, is above a limit, and counts them.

    Child (2021), section 3.3: one such step can undo many. A gradient that is not finite is one of
    them. Nothing is read from the device.

    Args:
        most: The largest norm that stays, above 0.
        device: Where the gradients are.
    """

    def __init__(self, most: float, device: torch.device) -> None:
        self._most = most
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def __call__(self, gradients: Mapping[str, Tensor | None]) -> Tensor:
        """1.0 where the gradient is an outlier, which counts, and 0.0 where it is none."""
        found = [gradient for gradient in gradients.values() if gradient is not None]
        outlier = ~(torch.nn.utils.get_total_norm(found) <= self._most)
        self.count += outlier
        return outlier.float()

    def state(self) -> dict[str, Tensor]:
        """The count."""
        return {"skipped": self.count}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensor."""
        self.count.copy_(state["skipped"])
