"""Importance weights, datum by datum: the one quantity under every bound on log p(x)."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, prod
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from guides import Guide
from models import Model
from ppl_vae.data import Split
from ppl_vae.isolation import isolated

__all__ = ["Estimates", "LogTerms", "estimate", "log_terms", "log_weights"]

MEMORY_BYTES = 64 * 2**20  # for the temporaries of one pass; more is not faster


@dataclass(frozen=True)
class LogTerms:
    """The terms of log w = log p(z) + log p(x|z) - log q(z|x), each (K, B) in nats.

    Attributes:
        latents: The draws themselves by site, (K, B, D).
    """

    log_prior: Tensor
    log_likelihood: Tensor
    log_guide: Tensor
    latents: dict[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z_k) - log q(z_k|x), (K, B) in nats."""
        return self.log_prior + self.log_likelihood - self.log_guide


def log_terms(
    model: Model, guide: Guide, x: Tensor, particles: int, stop_guide: bool = False
) -> LogTerms:
    """Draws z_1, ..., z_K from q(z|x) for each datum and evaluates the terms of its weights.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: Images (B, C, H, W).
        particles: K, the number of draws for each datum.
        stop_guide: Whether log q(z_k|x) is taken with the guide's parameters held constant, so
            that their gradient comes through z_k alone.
    """
    plate = pyro.plate("particles", particles, dim=-2)
    with plate:
        guide_trace = poutine.trace(guide).get_trace(x)
    with plate:
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
    if stop_guide:
        constants = {name: value.detach() for name, value in guide.named_parameters()}
        with plate:
            guide_trace = poutine.trace(
                poutine.replay(lambda x: functional_call(guide, constants, (x,)), guide_trace)
            ).get_trace(x)
    shape = (particles, len(x))
    return LogTerms(
        log_prior=_log_probability(model_trace, model.latents, shape),
        log_likelihood=_log_probability(model_trace, ("x",), shape),
        log_guide=_log_probability(guide_trace, model.latents, shape),
        latents={site: _value(guide_trace, site) for site in model.latents},
    )


def _log_probability(
    trace: poutine.Trace, sites: tuple[str, ...], shape: tuple[int, int]
) -> Tensor:
    nodes: list[Any] = [trace.nodes[site] for site in sites]
    terms = [node["fn"].log_prob(node["value"]).expand(shape) for node in nodes]
    return torch.stack(terms).sum(0)


def _value(trace: poutine.Trace, site: str) -> Tensor:
    node: Any = trace.nodes[site]
    return node["value"]


def log_weights(model: Model, guide: Guide, x: Tensor, particles: int) -> Tensor:
    """log w_k = log p(x, z_k) - log q(z_k|x), z_k ~ q(z|x), (K, B) in nats, per datum.

    Their mean over k estimates the ELBO; log mean exp of them is the bound of Burda, Grosse and
    Salakhutdinov (2016, equation 8), which tends to log p(x).

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: Images (B, C, H, W).
        particles: K, the number of draws for each datum.

    Raises:
        NotImplementedError: If q(z|x) is a point, without a density.
    """
    guide.check_density("an importance weight")
    return log_terms(model, guide, x, particles).log_weights


@dataclass(frozen=True)
class Estimates:
    """Estimates for each of N images, (N,) in nats, float64.

    Attributes:
        elbo: mean_k log w_k.
        rate: mean_k [log q(z_k|x) - log p(z_k)], an estimate of KL(q(z|x) || p(z)).
        distortion: -mean_k log p(x|z_k), so that elbo = -(rate + distortion).
        log_likelihood: log mean_k w_k; its expectation rises with K to log p(x).
    """

    elbo: Tensor
    rate: Tensor
    distortion: Tensor
    log_likelihood: Tensor


@torch.no_grad()
def estimate(
    model: Model,
    guide: Guide,
    images: Split,
    particles: int,
    memory_bytes: int = MEMORY_BYTES,
    advance: Callable[[int], None] = lambda images: None,
) -> Estimates:
    """Estimates the ELBO, its two terms and log p(x) of each image at bounded memory.

    Images and particles are taken in pieces whose sizes follow from the model and the memory
    bound alone, so that one seed gives one result.

    Args:
        model: p(x, z).
        guide: q(z|x).
        images: N images.
        particles: K, draws of z for each image.
        memory_bytes: Bound on the temporaries of one piece.
        advance: Told how many images are done, after each piece.
    """
    # Filled in place: small results that were allocated between the large temporaries would keep
    # the allocator from using their memory again, and a long evaluation would grow without bound.
    shape, device = len(images), images.raw.device
    result = Estimates(*(torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(4)))
    with pyro.validation_enabled(False):
        batch, chunks = _pieces(_bytes_per_row(model, images), particles, memory_bytes)
        pieces = [slice(start, start + batch) for start in range(0, len(images), batch)]
        for done, (x,) in zip(pieces, images.batches(pieces, labelled=False), strict=True):
            result.log_likelihood[done] = -torch.inf
            for chunk in chunks:
                terms = log_terms(model, guide, x, chunk)
                result.elbo[done] += terms.log_weights.sum(0) / particles
                result.rate[done] += (terms.log_guide - terms.log_prior).sum(0) / particles
                result.distortion[done] -= terms.log_likelihood.sum(0) / particles
                result.log_likelihood[done] = torch.logaddexp(
                    result.log_likelihood[done], terms.log_weights.logsumexp(0).double()
                )
            result.log_likelihood[done] -= log(particles)
            advance(len(x))
    return result


def _pieces(bytes_per_row: int, particles: int, memory_bytes: int) -> tuple[int, list[int]]:
    """How many images to take at once, and the particles of each pass over them."""
    rows = max(1, memory_bytes // bytes_per_row)
    passes = -(-particles // min(particles, rows))
    sizes = [particles // passes + (index < particles % passes) for index in range(passes)]
    return max(1, rows // sizes[0]), sizes


def _bytes_per_row(model: Model, images: Split) -> int:
    """Bytes that decoding one z and scoring one image takes, measured on the decoder itself."""
    sizes: list[int] = []

    def record(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    try:
        x = images[:1]
        with torch.no_grad(), isolated(x.device):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    # A pixel's log-probability passes through about six temporaries.
    return sum(sizes) + 6 * 4 * prod(model.spec.image_shape)
