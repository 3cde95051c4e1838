"""The bound on the validation images, at the end of every epoch."""

from collections.abc import Callable

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate
from ppl_vae.training.step import SVIStep

__all__ = ["TERMS", "validate"]

TERMS = ("elbo", "rate", "distortion")

_DRAWS = 5000  # of z, at least, over images and particles
_SEED = 1


class _Stopped(Exception):
    """Validation was asked to stop."""


@torch.no_grad()
def validate(
    step: SVIStep, images: Split, asked: Callable[[], bool] = lambda: False
) -> tuple[Tensor, Tensor] | None:
    """Measures the pair as it is, under the same noise in every epoch and run.

    The modules are in evaluation mode then, and stay in it. Of several processes the first one
    measures and sends the means to the others.

    Args:
        step: The pair, and the processes that train it.
        images: The validation images.
        asked: Whether to stop; looked at between pieces, since large images take long.

    Returns:
        The mean of each of `TERMS` over the images, in nats per datum, float64; and which images
        have a bound that is not finite, (N,) bool, or just the first image where another process
        measured. None where it was asked to stop meanwhile, as only a single process can be.
    """

    def proceed(_: int) -> None:
        if step.ranks.size == 1 and asked():
            raise _Stopped

    step.model.eval()
    step.guide.eval()
    device = images.raw.device
    bad = torch.arange(len(images), device=device) == 0
    means = torch.empty(len(TERMS), dtype=torch.float64, device=device)
    if step.ranks.first:
        particles = max(1, _DRAWS // len(images))
        try:
            with seeded(device, _SEED):
                estimates = estimate(
                    step.model, step.guide, images, particles, advance=proceed, engine="eager"
                )
        except _Stopped:
            return None
        bad = ~estimates.elbo.isfinite()
        means = torch.stack([getattr(estimates, term).double().mean() for term in TERMS])
    step.ranks.copy_from_first(means)
    return means, bad
