"""log p(x) from draws of the guide and of the posterior together: bridge sampling."""

from math import log

import torch
from torch import Tensor

from ppl_vae.errors import InputError

__all__ = ["bridge_log_likelihood"]

_ITERATIONS = 100  # halvings of the interval; the result is exact to rounding


def bridge_log_likelihood(
    guide_log_weights: Tensor, posterior_log_weights: Tensor, ess: Tensor | None = None
) -> Tensor:
    """log p(x) of B data, (B,) in nats, float64, by the optimal bridge of Meng and Wong.

    With log w = log p(x, z) - log q(z|x) and s = log(K / S), the estimate c solves

        sum_{z ~ q} sigmoid(log w - c - s) = sum_{z ~ p(z|x)} sigmoid(c + s - log w)

    (Meng and Wong, Simulating Ratios of Normalizing Constants via a Simple Identity, Statistica
    Sinica 1996, equation 4.2; Bennett, 1976). Unlike importance sampling it is not hurt by a guide
    with lighter tails than the posterior.

    Args:
        guide_log_weights: log w of draws from the guide, (K, B) in nats.
        posterior_log_weights: log w of draws from p(z|x), (S, B) in nats.
        ess: How many independent draws those from the posterior are worth, (B,); S by default.

    Raises:
        InputError: If the shapes do not fit.
    """
    q, p = guide_log_weights.double(), posterior_log_weights.double()
    if q.dim() != 2 or p.dim() != 2 or q.shape[1] != p.shape[1] or not len(q) or not len(p):
        raise InputError(
            "expected log-weights (K, B) and (S, B) with K, S >= 1; got "
            f"{tuple(q.shape)} and {tuple(p.shape)}"
        )
    worth = torch.full_like(q[0], len(p)) if ess is None else ess.to(q).clamp(1, len(p))
    shift = log(len(q)) - worth.log()
    low, high = q.amin(0).minimum(p.amin(0)), q.amax(0).maximum(p.amax(0))
    # c - shift lies between the smallest and the largest of all log w, up to the shift itself.
    low, high = low - shift.abs() - 1, high + shift.abs() + 1
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        above = torch.sigmoid(q - middle - shift).sum(0)
        below = torch.sigmoid(middle + shift - p).mean(0) * worth
        low, high = (
            torch.where(above > below, middle, low),
            torch.where(above > below, high, middle),
        )
    return (low + high) / 2
