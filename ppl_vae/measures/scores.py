"""Scores of a pair on a data set: bits per dimension, active units, means with their errors."""

from math import log, sqrt
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Data

__all__ = ["active_units", "bits_per_dim"]


_ACTIVE = 0.01  # variance of E_q[z] above which a latent is used


_RESAMPLES = 200


def bits_per_dim(log_likelihood: Tensor, data: Data) -> Tensor:
    """-log2 of the probability of an image of the original, per pixel and channel, (N,).

    Where L grey levels were dequantised, x = (v + u) / L with u uniform, the density of x bounds
    the mass of v by log P(v) >= E_u log p(x) - C H W log L (Theis, van den Oord and Bethge, 2016,
    equation 6), and the bits are those of v. Otherwise they are of the density or mass itself.

    Args:
        log_likelihood: log p(x), (N,) in nats.
        data: What the images are.
    """
    channels, height, width = data.image_shape
    nats = -log_likelihood / (channels * height * width)
    if data.dequantize == "uniform" and data.levels is not None:
        nats = nats + log(data.levels)
    return nats / log(2)


def active_units(means: Tensor) -> dict[str, Any]:
    """How many latent dimensions the posterior means use: Var_x(E_q[z_d]) > 0.01.

    Burda, Grosse and Salakhutdinov (2016, section 5.2). The standard error is that of the count
    over bootstrap resamples of the images.

    Args:
        means: E_q[z] of N images, (N, D).
    """
    if len(means) < 2:
        return {"active_units": None, "active_units_standard_error": None}
    generator = torch.Generator().manual_seed(_RESAMPLES)
    means = means.double().cpu()
    counts = []
    for _ in range(_RESAMPLES):
        picked = torch.randint(len(means), (len(means),), generator=generator)
        counts.append((means[picked].var(0) > _ACTIVE).sum().item())
    return {
        "active_units": int((means.var(0) > _ACTIVE).sum()),
        "active_units_standard_error": torch.tensor(counts).double().std().item(),
    }


def _mean_and_error(name: str, values: Tensor) -> dict[str, float | None]:
    """The mean over the images and its standard error; of a single image there is none."""
    values = values.double()
    error = (values.std() / sqrt(len(values))).item() if len(values) > 1 else None
    return {name: values.mean().item(), f"{name}_standard_error": error}
