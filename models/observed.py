"""The likelihood of an image with missing pixels: that of the pixels that were observed."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["ObservedPixels", "observed_pixels"]


class ObservedPixels(dist.Independent):
    """log p(x_o|z) = sum_(i in o) log p(x_i|z), o the pixels of x that are not NaN.

    Given z the pixels are independent, so that those that are missing integrate to one: leaving
    them out is exact. Mattei and Frellsen (2019), MIWAE, section 2. Draws are whole images.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        # 0 is in every domain; a NaN would reach the gradients although its term is left out.
        log_prob = self.base_dist.log_prob(value.masked_fill(missing, 0))
        return log_prob.masked_fill(missing, 0).flatten(-self.reinterpreted_batch_ndims).sum(-1)


def observed_pixels(images: TorchDistribution) -> ObservedPixels:
    """p(x|z) as a distribution that takes images with missing pixels.

    Args:
        images: p(x|z), batch shape (...) and event shape (C, H, W).

    Raises:
        ValueError: If its pixels are not independent given z.
    """
    base = images
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            "expected a likelihood whose pixels are independent given z, since the data have "
            f"missing pixels; got {type(base).__name__}; choose another --likelihood"
        )
    return ObservedPixels(base, len(images.event_shape))
