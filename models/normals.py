"""Normals whose parameters a network computes."""

import pyro.distributions as dist
from torch import Tensor

__all__ = ["normal_of"]


def normal_of(features: Tensor) -> dist.Normal:
    """N(mu, sigma^2), independent, (..., D), from features (..., 2 D): mu and log sigma^2."""
    loc, log_variance = features.chunk(2, dim=-1)
    return dist.Normal(loc, (log_variance / 2).exp())
