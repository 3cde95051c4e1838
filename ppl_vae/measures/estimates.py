"""Estimates for each image of a data set, at bounded memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log

import pyro
import torch
from torch import Tensor, nn

from guides import Guide
from models import Model
from ppl_vae.compiler.compiling import Engine, compiled_if_possible
from ppl_vae.data import Split
from ppl_vae.densities.weights import log_terms, pair_sites
from ppl_vae.machine.memory import memory_bound
from ppl_vae.machine.randomness import isolated

__all__ = ["Estimates", "estimate"]

# Of all draws together, on MNIST 3,000,000 of an MLP: below it compiling costs more than it saves.
_WORTH_COMPILING_BYTES = 75 * 10**9


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
    memory_bytes: int | None = None,
    advance: Callable[[int], None] = lambda images: None,
    engine: Engine = "auto",
) -> Estimates:
    """Estimates the ELBO, its two terms and log p(x) of each image at bounded memory.

    A model that sums its classes out is measured as one of images alone, with no label known to
    it, so that its numbers compare with those of every other model. One that takes the class as
    given is measured given the labels, as log p(x|y).

    Images and particles are taken in pieces whose sizes follow from the model and the memory
    bound alone, so that one seed gives one result.

    Args:
        model: p(x, z).
        guide: q(z|x).
        images: N images, with labels where the model takes them as given.
        particles: K, draws of z for each image.
        memory_bytes: Bound on the temporaries of one piece; by the device unless given.
        advance: Called after each piece with the number of images in it, and between draws with 0.
        engine: `eager` runs the Pyro programs for every piece; `compiled` a graph of tensor
            operations, compared with them; `auto` compiles where it pays, of MNIST about 3,000,000
            draws of an MLP or 100,000 of a deep hierarchy.
    """
    # Filled in place: small results that were allocated between the large temporaries would keep
    # the allocator from using their memory again, and a long evaluation would grow without bound.
    shape, device = len(images), images.raw.device
    result = Estimates(*(torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(4)))
    given = model.given_class
    with pyro.validation_enabled(False):
        bytes_per_row = _bytes_per_row(model, guide, images.batch(slice(1), given))
        batch, chunks = _pieces(bytes_per_row, particles, memory_bytes or memory_bound(device))
        example = images.batch(slice(batch), given)
        measure = {size: _Measurement(model, guide, size) for size in set(chunks)}
        whole: Mapping[int, Callable[..., Tensor]] = measure
        total_bytes = len(images) * particles * bytes_per_row
        worth_it = engine == "compiled" or total_bytes >= _WORTH_COMPILING_BYTES
        if engine != "eager" and worth_it:
            compiled = compiled_if_possible("measuring", measure.values(), example)
            whole = dict(zip(measure, compiled, strict=True))
        parts = [slice(start, start + batch) for start in range(0, len(images), batch)]
        for done, (x, *labels) in zip(parts, images.batches(parts, given), strict=True):
            result.log_likelihood[done] = -torch.inf
            for size in chunks:
                measures = whole if x.shape == example[0].shape else measure
                terms = measures[size](x, *labels).double()
                result.elbo[done] += terms[0] * size / particles
                result.rate[done] += terms[1] * size / particles
                result.distortion[done] += terms[2] * size / particles
                result.log_likelihood[done] = torch.logaddexp(
                    result.log_likelihood[done], terms[3] + log(size)
                )
                advance(0)  # a piece of large images takes long
            result.log_likelihood[done] -= log(particles)
            advance(len(x))
    return result


class _Measurement(nn.Module):
    """The four estimates of a batch from K particles, as one tensor (4, B)."""

    def __init__(self, model: Model, guide: Guide, particles: int) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.particles = particles

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        terms = log_terms(self.model, self.guide, x, self.particles, labels=labels, scaled=False)
        rate = terms.log_guide - terms.log_prior
        averages = [
            terms.sum(values) / self.particles
            for values in (terms.log_weights, rate, -terms.log_likelihood)
        ]
        log_likelihood = terms.log_sum_exp(terms.log_weights) - log(self.particles)
        return torch.stack([*averages, log_likelihood])


def _pieces(bytes_per_row: int, particles: int, memory_bytes: int) -> tuple[int, list[int]]:
    """How many images to take at once, and the particles of each pass over them."""
    rows = max(1, memory_bytes // bytes_per_row)
    passes = -(-particles // min(particles, rows))
    sizes = [particles // passes + (index < particles % passes) for index in range(passes)]
    return max(1, rows // sizes[0]), sizes


def _bytes_per_row(model: Model, guide: Guide, batch: tuple[Tensor, ...]) -> int:
    """Bytes that decoding one z and scoring one image takes, measured on the decoder itself.

    Where y takes all its values, one z is decoded with each of them.
    """
    sizes: list[int] = []

    def record(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    try:
        with torch.no_grad(), isolated(batch[0].device):
            _, nodes = pair_sites(model, guide, batch, 1)
    finally:
        for handle in handles:
            handle.remove()
    # A pixel's log-probability passes through about six temporaries.
    scores = nodes["x"]["fn"].batch_shape.numel() * model.spec.pixels
    return sum(sizes) + 6 * 4 * scores
