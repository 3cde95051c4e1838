"""How far importance weights can be trusted: the Pareto k-hat, the effective sample size, the
importance-weighted bound as a function of the number of draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.inference.netcdf import array_stats

__all__ = ["RELIABLE", "ImportanceWeightedBounds", "ParetoK", "iwae_curve", "log_mean", "pareto_k"]

RELIABLE = 0.7
"""The k-hat above which estimates from importance weights are not to be trusted."""

_FEWEST = 25  # draws, so that the fifth of them that is the tail has five
_BATCH = 1000


@dataclass(frozen=True)
class ParetoK:
    """Diagnostics of the weights of each of B data, (B,) float64.

    Attributes:
        k_hat: Shape of the generalised Pareto distribution of the largest weights. The weights
            have 1 / k moments; estimates are reliable below 0.7 (with 1,000 draws or more) and may
            be far off, either way, above. 0 where the largest weights are all equal.
        ess: (sum_k w_k)^2 / sum_k w_k^2, between 1 and K.
        log_likelihood: log p(x) in nats from the smoothed weights; less variable than
            log mean_k w_k, and no longer a bound.
    """

    k_hat: Tensor
    ess: Tensor
    log_likelihood: Tensor


def log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """log mean_k w_k of log w (K, B), and its standard error by the delta method, (B,) in nats."""
    mean = log_weights.logsumexp(0) - log(len(log_weights))
    return mean, (log_weights - mean).exp().std(0) / sqrt(len(log_weights))


def pareto_k(log_weights: Tensor) -> ParetoK:
    """Pareto-smoothed importance sampling of each column; by ArviZ.

    Vehtari, Simpson, Gelman, Yao and Gabry, Pareto Smoothed Importance Sampling, JMLR 2024: a
    generalised Pareto distribution is fitted to the min(K / 5, 3 sqrt(K)) largest weights of each
    datum by the method of Zhang and Stephens (2009).

    Args:
        log_weights: log w_k, (K, B) in nats, K >= 25.

    Raises:
        InputError: If the shape is another, or a log-weight is NaN or +inf.
    """
    log_weights = _checked(log_weights)
    particles = len(log_weights)
    if particles < _FEWEST:
        raise InputError(f"expected at least {_FEWEST} draws for a k-hat; got {particles}")
    parts = [_pareto_k(part) for part in log_weights.split(_BATCH, dim=1)]
    k_hat, smoothed = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    return ParetoK(k_hat, _ess(log_weights), smoothed)


def _pareto_k(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    particles = len(log_weights)
    ordered = log_weights.sort(0).values
    k_hat = torch.zeros_like(ordered[0])
    smoothed = ordered.logsumexp(0) - log(particles)
    # Of weights that are equal up to rounding no tail can be fitted; they are as good as can be.
    tail = int(3 * sqrt(particles)) if particles > 225 else particles // 5
    edge = ordered[-tail - 1]
    spread = (ordered[-max(1, tail // 2)] - edge) > 1e-6
    if spread.any():
        # ArviZ's array interface takes the logarithms of ratios' inverses, as in leave-one-out.
        weights, fitted = array_stats().psislw(-ordered[:, spread].cpu().numpy(), axis=0)
        k_hat[spread] = torch.as_tensor(fitted).to(k_hat)
        # The largest weight that stays as it is ties the smoothed ones, which sum to 1, to w.
        kept = torch.as_tensor(weights)[:, -tail - 1].to(edge)
        smoothed[spread] = edge[spread] - kept - log(particles)
    return k_hat, smoothed


@dataclass(frozen=True)
class ImportanceWeightedBounds:
    """The bound of Burda, Grosse and Salakhutdinov (2016) for several numbers of draws.

    Attributes:
        particles: K, (M,) int64.
        bound: E log(1/K sum_k w_k), estimated, (M, B) in nats; the first is the ELBO where K = 1.
        standard_error: Of those estimates, (M, B) in nats.
    """

    particles: Tensor
    bound: Tensor
    standard_error: Tensor


def iwae_curve(log_weights: Tensor, ks: Sequence[int] | None = None) -> ImportanceWeightedBounds:
    """L_K = E log(1/K sum_k w_k) for several K, from one set of weights; ibid., equation (8).

    The N draws are cut into N // K blocks, each of which gives one independent estimate of L_K.
    Where there is only one block, its error is that of a mean of weights, in logarithms.

    Args:
        log_weights: log w, (N, B) in nats.
        ks: The numbers of draws; 1, 2, 5, 10, ..., N by default.

    Raises:
        InputError: If a K is not in 1, ..., N, or a log-weight is NaN or +inf.
    """
    log_weights = _checked(log_weights)
    total = len(log_weights)
    if ks is None:
        steps = (m * 10**e for e in range(len(str(total))) for m in (1, 2, 5))
        ks = sorted({*(k for k in steps if k <= total), total})
    if not ks or not all(1 <= k <= total for k in ks):
        raise InputError(f"expected numbers of draws from 1 to {total:,}; got {list(ks)}")
    bounds, errors = [], []
    for k in ks:
        blocks = total // k
        values = log_weights[: blocks * k].unflatten(0, (blocks, k)).logsumexp(1) - log(k)
        bounds.append(values.mean(0))
        if blocks > 1:
            errors.append(values.std(0) / sqrt(blocks))
        else:  # by the delta method: var(w) / (K mean(w)^2) = 1 / ESS - 1 / K
            variance = (1 / _ess(log_weights[:k]) - 1 / k).clamp(min=0) * k / max(1, k - 1)
            errors.append(variance.sqrt() if k > 1 else torch.full_like(variance, torch.nan))
    return ImportanceWeightedBounds(torch.tensor(ks), torch.stack(bounds), torch.stack(errors))


def _ess(log_weights: Tensor) -> Tensor:
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def _checked(log_weights: Tensor) -> Tensor:
    if log_weights.dim() != 2 or not len(log_weights):
        raise InputError(f"expected log-weights (K, B); got shape {tuple(log_weights.shape)}")
    log_weights = log_weights.detach().double()
    wrong = log_weights.isnan() | (log_weights == torch.inf)
    if wrong.any():
        column = int(wrong.any(0).nonzero()[0])
        raise InputError(f"expected log-weights below infinity; datum {column} has NaN or +inf")
    return log_weights
