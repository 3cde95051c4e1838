"""Normals whose parameters a network computes."""

import pyro.distributions as dist
from torch import Tensor

__all__ = ["BOUND", "bounded", "bounded_normal_of", "normal_of"]

BOUND = 5
"""Of log sigma in `bounded_normal_of`."""


def normal_of(features: Tensor) -> dist.Normal:
    """N(mu, sigma^2), independent, (..., D), from features (..., 2 D): mu and log sigma^2."""
    loc, log_variance = features.chunk(2, dim=-1)
    return dist.Normal(loc, (log_variance / 2).exp())


def bounded_normal_of(features: Tensor) -> dist.Normal:
    """N(mu, sigma^2), independent, (..., D), with log sigma smoothly between -5 and 5.

    In a deep model one scale that leaves all bounds would end the training.
    """
    loc, log_scale = features.chunk(2, dim=-1)
    return dist.Normal(loc, bounded(log_scale).exp())


def bounded(values: Tensor) -> Tensor:
    """5 tanh(v / 5), which is nearly v where v is small."""
    return BOUND * (values / BOUND).tanh()
