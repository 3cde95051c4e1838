"""Means of q(z|x) and p(x|z), and the classes that an image is encoded and decoded with.

All are computed in pieces whose sizes follow from the pair and a bound on memory alone, so that one
seed gives one result.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.isolation import isolated
from ppl_vae.joint import Allocations, memory_bound

__all__ = ["decoded_mean", "likely_classes", "posterior_draws", "posterior_mean"]

_DRAWS = 256  # for a mean that has no closed form


def likely_classes(model: Model, guide: Guide, x: Tensor, *labels: Tensor) -> Tensor | None:
    """The class (B,) to encode and decode each image with; None where there is none to choose.

    It is the most probable one by the guide's classifier, which does not see the labels, or the
    label itself where the model takes the class as given.

    Args:
        model: The model.
        guide: Its guide.
        x: Images (B, C, H, W).
        *labels: Their labels (B,) where the model is one of labelled images.
    """
    if not model.labelled:
        return None
    if not model.enumerated:
        return labels[0]
    try:
        return _in_pieces(lambda part: guide.classify(part).logits.argmax(-1), x)
    except NotImplementedError:
        return None


def decoded_mean(model: Model, z: Tensor, y: Tensor | None = None) -> Tensor:
    """E[x|z], (..., C, H, W) for z (..., D): exact where it is known, else averaged over draws.

    For a model whose decoder takes a class y as well, of a shape that broadcasts to (...), it is
    E[x|z, y] where y is given.
    """
    parts = [z.flatten(0, -2)]
    if y is not None:
        parts.append(y.expand(z.shape[:-1]).flatten())
    means = _in_pieces(lambda *piece: _mean(model.decode(*piece)), *parts)
    return means.unflatten(0, z.shape[:-1])


def posterior_mean(model: Model, guide: Guide, x: Tensor, y: Tensor | None = None) -> Tensor:
    """E[z|x] under the guide, (B, D): exact where it is known, else averaged over draws.

    Args:
        model: The model whose last latent site is z.
        guide: q(z|x).
        x: Images (B, C, H, W).
        y: Their classes (B,), where q(z|x, y) is meant.
    """
    batch = (x,) if y is None else (x, y)
    return _in_pieces(partial(_posterior_mean, model, guide), *batch)


def posterior_draws(model: Model, guide: Guide, draws: int, *batch: Tensor) -> Tensor:
    """So many draws of the last latent from the guide, for each image, (K, B, D).

    Args:
        model: The model whose last latent site is z.
        guide: q(z|x).
        draws: K.
        *batch: Images (B, C, H, W), and their classes (B,) where q(z|x, y) is meant.
    """
    with pyro.plate("particles", draws, dim=-2):
        trace: Any = poutine.trace(guide).get_trace(*batch)
    return trace.nodes[model.latents[-1]]["value"]


def _in_pieces(function: Callable[..., Tensor], *batch: Tensor) -> Tensor:
    """A function of each row of a batch, of as many rows at a time as memory is meant for."""
    if len(batch[0]) < 2:
        return function(*batch)
    bytes_of = []
    for rows in (1, 2):  # what the second adds: products of weights, say, are there once
        with isolated(batch[0].device), Allocations() as allocations:
            function(*(part[:rows] for part in batch))
        bytes_of.append(allocations.total)
    rows = max(1, memory_bound(batch[0].device) // max(1, bytes_of[1] - bytes_of[0]))
    first = function(*(part[:rows] for part in batch))
    if len(first) == len(batch[0]):
        return first
    # Filled in place: pieces that wait to be joined are the result once more.
    result = first.new_empty(len(batch[0]), *first.shape[1:])
    result[:rows] = first
    for start in range(rows, len(result), rows):
        piece = slice(start, start + rows)
        result[piece] = function(*(part[piece] for part in batch))
    return result


def _posterior_mean(model: Model, guide: Guide, *batch: Tensor) -> Tensor:
    try:
        return _mean(guide.posterior(*batch))
    except NotImplementedError:
        return posterior_draws(model, guide, _DRAWS, *batch).mean(0)


def _mean(distribution: TorchDistribution) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample(torch.Size((_DRAWS,))).mean(0)
