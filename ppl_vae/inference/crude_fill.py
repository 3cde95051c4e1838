"""A crude restoration to start from: what a normal distribution would say in the model's place."""

import torch
from torch import Tensor

from models import Model
from models.corruptions import Corruption, white

__all__ = ["crude_fill"]

_DRAWS = 2000  # images of the model that the normal distribution is fitted to
_RANK = 60
_LEAST = 1e-4  # variance of a pixel beside the factors
_BATCH = 250


@torch.no_grad()
def crude_fill(model: Model, corruption: Corruption, y: Tensor) -> Tensor:
    """E[x|y] if x were normal with the mean and covariance of the model's images.

    With W W^T + diag(psi) the covariance, by the leading principal components, and e +- v the
    estimates of `Corruption.estimate`, it is m + W (I + W^T L W)^-1 W^T L (e - m),
    L = 1 / (psi + v), and the remainder of e - m by the share psi / (psi + v) of it.

    Args:
        model: p(x, z), whose images are drawn.
        corruption: p(y|x), without unknown parameters.
        y: What is seen, (B, ...), missing pixels NaN.

    Returns:
        Images (B, C, H, W) in the model's domain.
    """
    domain = model.spec.domain
    unit = white(domain)
    parts = [model(size=_BATCH) for _ in range(0, _DRAWS, _BATCH)]
    images = (torch.cat(parts) / unit).flatten(1)
    mean = images.mean(0)
    rank = min(_RANK, *images.shape)
    _, values, vectors = torch.svd_lowrank(images - mean, q=rank)
    factors = vectors * values / len(images) ** 0.5  # (P, R)
    psi = (images.var(0) - factors.square().sum(1)).clamp(min=_LEAST)
    estimate, variance = (part.flatten(1) for part in corruption.estimate(y))
    centred = estimate - mean
    precision = 1 / (psi + variance)
    projected = (precision * centred) @ factors
    identity = torch.eye(rank).to(factors)
    inner = identity + torch.einsum("pr,bp,ps->brs", factors, precision, factors)
    explained = torch.linalg.solve(inner, projected) @ factors.T
    share = psi * precision
    filled = mean + explained + share * (centred - explained)
    filled = filled.reshape(len(y), *model.spec.image_shape)
    if domain != "real":
        filled = filled.clamp(0, 1)
    return (filled * unit).round() if domain in ("binary", "bytes") else filled
