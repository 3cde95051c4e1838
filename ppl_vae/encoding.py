"""Means of q(z|x) and p(x|z), and draws that leave the process's own generators alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides import Guide
from models import Model

__all__ = ["decoded_mean", "posterior_mean", "seeded"]

_CHUNK = 512  # images decoded or encoded at a time
_DRAWS = 256  # for a mean that has no closed form


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from a seed on a device; afterwards the generators are as they were."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


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
