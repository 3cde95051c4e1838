"""How sure log p(x) is: annealed importance sampling from below, and backwards from above."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor

from models.ranges import check_choice, check_count
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.of_pair import of_pair
from ppl_vae.densities.sites import Batch, Latents, Program
from ppl_vae.densities.unconstrained import Unconstrained
from ppl_vae.errors import InputError
from ppl_vae.inference.annealing import Annealing
from ppl_vae.inference.pareto import log_mean
from ppl_vae.inference.simulation import simulate

__all__ = ["AIS", "Bidirectional", "ais", "bidirectional", "interval"]

_NEGLIGIBLE = 8.0  # nats below the mean, at which a weight adds nothing to it
_SKEWNESS = 4  # times fewer degrees of freedom than of normal weights
_ROUNDINGS = 16  # of the type, that a log-weight may be wrong by


@dataclass(frozen=True)
class AIS:
    """Estimates of log p(x) of B data by C chains each, in nats, float64.

    Attributes:
        log_weights: (C, B); the mean of their exponentials has expectation p(x).
        log_likelihood: log mean_c w_c, (B,); on average below log p(x), less so with more
            temperatures.
        standard_error: Of it, from the spread of the chains, (B,).
        lower: End of the interval for log p(x), (B,); see `interval`.
        upper: The other end.
        level: The coverage that the interval aims at.
        acceptance: Mean acceptance of the transitions, (B,).
        latents: Where the chains ended, by site, (C, B, ...): with the weights a sample of p(z|x).
        backwards: Log-weights of chains from exact draws back to the start, (C, B), where there
            were such draws; the mean of their exponentials has expectation 1 / p(x).
    """

    log_weights: Tensor
    log_likelihood: Tensor
    standard_error: Tensor
    lower: Tensor
    upper: Tensor
    level: float
    acceptance: Tensor
    latents: Latents
    backwards: Tensor | None = None


@dataclass(frozen=True)
class Bidirectional:
    """log p(x) of N data drawn from the model, enclosed; in nats, float64.

    Attributes:
        batch: The data, as the programs take them; the first is x, (N, ...).
        latents: The z that x came with, an exact draw from p(z|x); by site, (N, ...).
        below: AIS from the start to the posterior, a stochastic lower bound.
        above: -log mean_c w'_c, (N,), w'_c of chains from that z back to the start: a stochastic
            upper bound. How far chains spread is in `below.backwards`.
        gap: above - below, (N,), whose mean bounds the sum of both errors.
    """

    batch: Batch
    latents: Latents
    below: AIS
    above: Tensor
    gap: Tensor


def interval(
    log_weights: Tensor, level: float, rounding: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Standard error of log mean_c w_c, and an interval for the log of the expectation of w.

    Two intervals are joined. The delta method's is log mean w +- t sd(w) / (sqrt(C) mean w), with
    the quantile of Student's t of (C - 1) / 4 degrees of freedom, at least 1. C - 1 would be right
    for normal weights, and these are skewed: with 16 chains from a guide of half the posterior's
    covariance through 10 temperatures, intervals at 99 % would then cover log p(x) in 92 % of the
    cases; with a quarter of the degrees they do in 98 to 99 %. Cox's is that for weights that are
    log-normal, m + s^2 / 2 +- t sqrt(s^2 / C + s^4 / (2 (C - 1))), m and s^2 the mean and variance
    of log w, with C - 1 degrees of freedom (Zhou and Gao, 1997): the first is too short where the
    largest weights have not been met. For it, weights below exp(-8) of the mean, which together
    change it by less than a two-thousandth, count as that: chains that are stuck in another mode
    say nothing about the largest weights. The lower end is no further down than Markov's
    inequality allows, P(mean w > p / a) <= a. No interval knows of weights that no chain has met:
    where all chains miss a mode it is too low.

    Args:
        log_weights: (C, B) in nats, C >= 2.
        level: The coverage aimed at.
        rounding: Relative error of log w, which widens the interval where all weights agree.
    """
    from scipy.stats import t as student

    chains = len(log_weights)
    quantile = float(student.ppf((1 + level) / 2, chains - 1))
    wide = float(student.ppf((1 + level) / 2, max(1.0, (chains - 1) / _SKEWNESS)))
    mean, error = log_mean(log_weights)
    counted = torch.maximum(log_weights, mean - _NEGLIGIBLE)
    variance = counted.var(0)
    centre = counted.mean(0) + variance / 2
    spread = (variance / chains + variance.square() / (2 * (chains - 1))).sqrt()
    lower = torch.minimum(mean - wide * error, centre - quantile * spread)
    lower = torch.maximum(lower, mean - log(2 / (1 - level)))
    upper = torch.maximum(mean + wide * error, centre + quantile * spread)
    margin = rounding * log_weights.abs().amax(0)
    return error, lower - margin, upper + margin


@of_pair
@torch.no_grad()
def ais(
    joint: Joint,
    *,
    chains: int = 16,
    temperatures: int = 500,
    leapfrog_steps: int = 10,
    start: Literal["prior", "guide"] = "prior",
    level: float = 0.99,
    exact: Latents | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> AIS:
    """log p(x) by annealing from p(z) (or q(z|x)) to p(z) p(x|z) with HMC, for each datum.

    Neal, Annealed Importance Sampling, 2001; for decoders Wu, Burda, Salakhutdinov and Grosse, On
    the Quantitative Analysis of Decoder-Based Generative Models, 2017. With f_t = start^(1 -
    beta_t) joint^(beta_t) and beta_t sigmoidal from 0 to 1, log w = sum_t log f_t(z_t-1) -
    log f_t-1(z_t-1), z_t one transition of HMC under f_t from z_t-1. E[w] = p(x) exactly: step
    sizes are adapted, for each datum and temperature, in a pilot run of their own and then stay.

    Args:
        joint: The pair with its data, or `model, guide, x` in its place. With `start="prior"` only
            the guide's variances are used, as a metric.
        chains: C, independent of each other.
        temperatures: T, steps between the two distributions.
        leapfrog_steps: In each transition.
        start: Where to anneal from. The guide is closer, but where it misses a part of the
            posterior few chains may ever get there.
        level: The coverage that the interval aims at.
        exact: A draw from p(z|x) of each datum, by site, (B, ...), for chains the other way.
        advance: Called with the number of temperatures that are done, T for each pass over data.

    Raises:
        ValueError: If a number is out of range, or the pair has no common continuous latents.
    """
    check_count("chains", chains, 2)
    check_count("temperatures", temperatures)
    check_count("leapfrog_steps", leapfrog_steps)
    check_choice("start", start, ("prior", "guide"))
    if not 0 < level < 1:
        raise InputError(f"expected 0 < level < 1; got {level}")
    whole = Unconstrained.of(joint)
    columns: list[tuple[Tensor, ...]] = []
    ends: list[Tensor] = []
    for rows in joint.slices(3 * chains):
        path = Annealing.between(whole[rows], start, temperatures, leapfrog_steps, chains)
        sizes = path.find_step_sizes(chains)
        *column, end = path.anneal(path.begin(chains), sizes, advance)
        if exact is not None:
            u = whole[rows].pack({name: exact[name][None, rows] for name in joint.sites})
            column.append(path.anneal(u.expand(chains, -1, -1), sizes, advance, backwards=True)[0])
        columns.append(tuple(column))
        ends.append(end)
    log_weights, acceptance, *others = (torch.cat(each, -1) for each in zip(*columns, strict=True))
    # The terms of log w are sums over pixels in the type of the data.
    rounding = _ROUNDINGS * torch.finfo(joint.batch[0].dtype).eps
    error, lower, upper = interval(log_weights, level, rounding)
    latents = whole.unpack(torch.cat(ends, 1))
    estimate = log_mean(log_weights)[0]
    return AIS(log_weights, estimate, error, lower, upper, level, acceptance, latents, *others)


@torch.no_grad()
def bidirectional(
    model: Program,
    guide: Program,
    size: int = 100,
    *,
    like: Tensor | Batch | None = None,
    memory_bytes: int | None = None,
    **options: Any,
) -> Bidirectional:
    """Encloses log p(x) of data that the model made, by AIS in both directions.

    Grosse, Ghahramani and Adams, Sandwiching the Marginal Likelihood Using Bidirectional Monte
    Carlo, 2015. Where (z, x) is drawn from p(x, z), z is an exact draw from p(z|x), and chains
    from it back to the start have weights of expectation 1 / p(x). How far the two bounds are
    apart shows how good `ais` with the same settings is; for real data only as far as the model's
    own are like them.

    Args:
        model: p(x, z).
        guide: q(z|x).
        size: N, how many data to draw.
        like: Data that give the shapes, for a model that does not take `size`; see `simulate`.
        memory_bytes: Bound on the temporaries of one pass; by the device unless given.
        **options: Those of `ais`, for each direction; `advance` counts 2 T for each pass.

    Raises:
        ValueError: If a number is out of range, or the pair has no common continuous latents.
    """
    check_count("size", size)
    batch, latents = simulate(model, size, like)
    joint = Joint.of(model, guide, batch, memory_bytes)
    latents = {name: latents[name] for name in joint.sites}
    below = ais(joint, exact=latents, **options)
    assert below.backwards is not None
    above = -log_mean(below.backwards)[0]
    return Bidirectional(batch, latents, below, above, above - below.log_likelihood)
