"""Gradients of a bounded size."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["clipped"]


def clipped(gradients: Mapping[str, Tensor | None], most: float) -> dict[str, Tensor | None]:
    """Scales all gradients by min(1, most / (|g| + 1e-6)), |g| their Euclidean norm together.

    Pascanu, Mikolov and Bengio (2013), algorithm 1, as `torch.nn.utils.clip_grad_norm_` has it.
    Nothing is read from the device.

    Args:
        gradients: By parameter; None for one on which the loss does not depend.
        most: The largest norm that stays as it is, above 0.
    """
    found = [gradient for gradient in gradients.values() if gradient is not None]
    scale = (most / (torch.nn.utils.get_total_norm(found) + 1e-6)).clamp(max=1.0)
    return {name: None if g is None else g * scale.to(g.dtype) for name, g in gradients.items()}
