"""Means of q(z|x) and p(x|z)."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides import Guide
from models import Model

__all__ = ["decoded_mean", "posterior_mean"]

_CHUNK = 512  # images decoded or encoded at a time
_DRAWS = 256  # for a mean that has no closed form


def decoded_mean(model: Model, z: Tensor) -> Tensor:
    """E[x|z], (..., C, H, W) for z (..., D): exact where it is known, else averaged over draws."""
    chunks = [_mean(model.decode(part)) for part in z.flatten(0, -2).split(_CHUNK)]
    return torch.cat(chunks).unflatten(0, z.shape[:-1])


def posterior_mean(model: Model, guide: Guide, x: Tensor) -> Tensor:
    """E[z|x] under the guide, (B, D): exact where it is known, else averaged over draws.

    Args:
        model: The model whose last latent site is z.
        guide: q(z|x).
        x: Images (B, C, H, W).
    """
    return torch.cat([_posterior_mean(model, guide, part) for part in x.split(_CHUNK)])


def _posterior_mean(model: Model, guide: Guide, x: Tensor) -> Tensor:
    try:
        return _mean(guide.posterior(x))
    except NotImplementedError:
        site = model.latents[-1]
        draws: list[Any] = [
            poutine.trace(guide).get_trace(x).nodes[site]["value"] for _ in range(_DRAWS)
        ]
        return torch.stack(draws).mean(0)


def _mean(distribution: TorchDistribution) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample(torch.Size((_DRAWS,))).mean(0)
