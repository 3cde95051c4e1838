"""The sample sites of a Pyro program, and their log-probabilities per datum."""

from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from models.ranges import check_count

__all__ = [
    "Batch",
    "Latents",
    "Nodes",
    "Program",
    "as_batch",
    "log_density",
    "sample_sites",
    "summed_out",
    "trace_of",
]

Program = Callable[..., Any]
Batch = tuple[Tensor, ...]
Latents = dict[str, Tensor]
Nodes = dict[str, Any]


def as_batch(x: Tensor | Batch) -> Batch:
    """The arguments of the programs: images alone, or a tuple with what belongs to them."""
    return x if isinstance(x, tuple) else (x,)


def trace_of(program: Program, batch: Batch, particles: int) -> poutine.Trace:
    """The trace of a program with K particles at dim -2.

    Raises:
        ValueError: If particles < 1.
    """
    check_count("particles", particles)
    return poutine.trace(pyro.plate("particles", particles, dim=-2)(program)).get_trace(*batch)


def sample_sites(program: Program, batch: Batch, particles: int) -> Nodes:
    """The nodes of a program's trace that are sample sites, by name; K particles at dim -2."""
    trace = prune_subsample_sites(trace_of(program, batch, particles))
    nodes: Nodes = dict(trace.nodes)
    return {name: node for name, node in nodes.items() if node["type"] == "sample"}


def log_density(
    nodes: Nodes, names: Iterable[str], shape: Sequence[int], scaled: bool = False
) -> Tensor:
    """The sum of log-probabilities over sites, (K, B) in nats, or (Y, K, B) with discrete sites.

    Args:
        nodes: The sample sites of a program.
        names: Those to sum over.
        shape: (K, B).
        scaled: Whether the scales of `poutine.scale` and of subsampled plates count. Masks always
            do.
    """
    terms = [_log_prob(nodes[name], scaled) for name in names]
    whole = torch.broadcast_shapes(shape, *(term.shape for term in terms))
    return torch.stack([term.expand(whole) for term in terms]).sum(0)


def _log_prob(node: dict[str, Any], scaled: bool) -> Tensor:
    fn, mask = node["fn"], node["mask"]
    log_prob = fn.log_prob(node["value"])
    term = scale_and_mask(log_prob, node["scale"] if scaled else 1.0, mask)
    if "_enumerate_dim" in node["infer"]:
        for part in (mask, getattr(fn, "_mask", None)):
            if part is not None:
                # A masked class is averaged over: a sum would add the logarithm of its values.
                uniform = -log(len(fn.enumerate_support(expand=False)))
                term = torch.where(torch.as_tensor(part, device=term.device), term, uniform)
    return term


def summed_out(log_prior: Tensor, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x|z), (K, B), from log p(y, z) and log p(x|y, z), over all y."""
    marginal = log_prior.flatten(0, -3).logsumexp(0)
    if log_likelihood.dim() == 2:  # given z, the image does not depend on y
        return marginal, log_likelihood
    joint = (log_prior + log_likelihood).flatten(0, -3).logsumexp(0)
    return marginal, joint - marginal
