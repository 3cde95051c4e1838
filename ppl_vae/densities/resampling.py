"""A few of many draws, chosen by their weights: an estimate of the gradient of all."""

import torch
from pyro import poutine
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.densities.sites import (
    Batch,
    Nodes,
    Program,
    log_density,
    sample_sites,
    summed_out,
    trace_of,
)
from ppl_vae.densities.weights import LogTerms, guide_term, model_terms
from ppl_vae.machine.randomness import repeatable

__all__ = ["resampled_terms", "systematic"]


def resampled_terms(
    model: Model,
    guide: Guide,
    x: Tensor,
    particles: int,
    count: int,
    stop_guide: bool = False,
    labels: Tensor | None = None,
) -> tuple[Tensor, LogTerms]:
    """Draws z_1, ..., z_K from q(z|x), and evaluates the terms of N of them with gradients.

    These are chosen in proportion to v_k = w_k / sum_j w_j, so that the mean of any f(z) over them
    is an unbiased estimate of sum_k v_k f(z_k).

    Args:
        model: p(x, z).
        guide: q(z|x), without discrete sites.
        x: Images (B, C, H, W).
        particles: K, the number of draws for each datum.
        count: N.
        stop_guide: As for `log_terms`.
        labels: Their labels (B,) for a model of labelled images, -1 where there is none.

    Returns:
        log w_k of all draws, (K, B) in nats, without gradients; and the terms of the chosen ones,
        which are the rows there.

    Raises:
        ValueError: If particles < 1.
    """
    batch = (x,) if labels is None else (x, labels)
    again = repeatable(x.device)
    with poutine.enum(first_available_dim=-3):
        trace = trace_of(guide, batch, particles)
    shape = torch.Size((particles, len(x)))
    sites: Nodes = dict(trace.nodes)
    with torch.no_grad():
        prior, likelihood = _terms(model, poutine.replay(model, trace), batch, shape)
        log_weights = prior + likelihood - log_density(sites, model.latents, shape, scaled=True)
        chosen = systematic(log_weights.softmax(0), count)
    latents = {}
    for name in model.latents:
        value, event = sites[name]["value"], sites[name]["fn"].event_shape
        place = chosen.reshape(*chosen.shape, *(1 for _ in event)).expand(*chosen.shape, *event)
        latents[name] = value.expand(*shape, *event).gather(0, place)
    terms = _terms(model, poutine.condition(model, data=latents), batch, chosen.shape)
    with again():  # what the guide draws on the way to z
        log_guide = guide_term(model, guide, latents, chosen.shape, batch, held=stop_guide)
    return log_weights, LogTerms(*terms, log_guide, latents)


def systematic(weights: Tensor, count: int) -> Tensor:
    """N indices for each datum: each k N v_k times on average, and always by less than 1 from that.

    Systematic resampling: one u uniform on [0, 1) for a datum, and the k in which (u + i) / N
    falls, i = 0, ..., N - 1, where v_1, ..., v_K lie side by side on the unit interval.

    Args:
        weights: v_k, (K, B); each column sums to 1.
        count: N.

    Returns:
        The indices, (N, B).
    """
    ends = weights.cumsum(0)
    ends = ends[:-1] / ends[-1]  # which rounding may leave beside 1
    steps = torch.arange(count, device=weights.device)[:, None]
    places = (torch.rand_like(weights[0]) + steps) / count
    return (ends <= places[:, None]).sum(1)


def _terms(
    model: Model, program: Program, batch: Batch, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z) of the model with its latents given, (K, B) in nats."""
    with poutine.enum(first_available_dim=-3):
        terms = model_terms(model, sample_sites(program, batch, shape[0]), shape)
    return summed_out(*terms) if model.enumerated else terms
