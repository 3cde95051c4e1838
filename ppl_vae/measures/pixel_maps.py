"""Where in an image the distortion comes from."""

from collections.abc import Callable

import torch
from pyro.distributions import Independent
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.data import Split
from ppl_vae.densities.sites import log_density
from ppl_vae.densities.weights import pair_sites
from ppl_vae.errors import InputError
from ppl_vae.machine.memory import memory_bound

__all__ = ["pixel_maps", "usual_map"]

_COPIES = 12  # of an image for each draw: what decoder and log-probability hold of it at a time


@torch.no_grad()
def pixel_maps(model: Model, guide: Guide, images: Split, particles: int) -> Tensor:
    """E_q(z|x)[-log p(x_i|z)] of each pixel i, in nats; the sum over pixels is the distortion.

    Args:
        model: p(x, z), whose pixels are independent of each other given z.
        guide: q(z|x).
        images: N images, with labels where the model takes them as given.
        particles: K, draws of z for each image.

    Returns:
        (N, C, H, W).

    Raises:
        InputError: If p(x|z) is no product over pixels.
    """
    given = model.given_class
    batches = images.in_turn(_at_a_time(images, particles), given)
    maps = [_maps(model, guide, batch, particles) for batch in batches]
    return torch.cat(maps)


@torch.no_grad()
def usual_map(
    model: Model,
    guide: Guide,
    images: Split,
    particles: int,
    advance: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """The mean of `pixel_maps` over normal images, (C, H, W) in nats; see there.

    Args:
        model: See there.
        guide: See there.
        images: N normal images.
        particles: See there.
        advance: Called after each piece with the number of images in it.
    """
    total = torch.zeros(images.raw.shape[1:], dtype=torch.float64, device=images.raw.device)
    given = model.given_class
    for batch in images.in_turn(_at_a_time(images, particles), given):
        total += _maps(model, guide, batch, particles).double().sum(0)
        advance(len(batch[0]))
    return (total / len(images)).float()


def _at_a_time(images: Split, particles: int) -> int:
    """How many images fit into memory."""
    bytes_per_image = 4 * _COPIES * particles * images.raw.shape[1:].numel()
    return max(1, memory_bound(images.raw.device) // bytes_per_image)


def _maps(model: Model, guide: Guide, batch: tuple[Tensor, ...], particles: int) -> Tensor:
    """(B, C, H, W)."""
    drawn, nodes = pair_sites(model, guide, batch, particles)
    x, fn = batch[0], nodes["x"]["fn"]
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if fn.event_shape or fn.batch_shape[-x.dim() :] != x.shape:
        raise InputError(
            f"a map needs pixels that are independent given z; p(x|z) of {type(model).__name__} is "
            f"{type(nodes['x']['fn']).__name__}; choose another --likelihood"
        )
    nats = -fn.log_prob(x)
    in_guide = [site for site in model.enumerated if site in drawn]
    if in_guide:  # each class has a row, which counts as much as q(y|x) says
        share = log_density(drawn, in_guide, (particles, len(x))).exp()
        nats = nats * share[(..., *[None] * (x.dim() - 1))]
    return nats.sum(tuple(range(nats.dim() - x.dim()))) / particles
