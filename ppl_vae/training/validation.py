"""The bounds on the validation images, at the end of every epoch."""

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import Estimates, estimate
from ppl_vae.training.step import SVIStep

__all__ = ["validate"]

_LEAST_DRAWS = 5000  # of z for the ELBO, over images and particles
_MOST_DRAWS = 100_000  # for the bound of several particles
_SEED = 1


class _Stopped(Exception):
    """Validation was asked to stop."""


@torch.no_grad()
def validate(
    step: SVIStep, images: Split, asked: Callable[[], bool] = lambda: False
) -> tuple[dict[str, float], Tensor] | None:
    """Measures the pair as it is, under the same noise in every epoch and run.

    The modules are in evaluation mode then, and stay in it. Of several processes the first one
    measures and sends the means to the others.

    Args:
        step: The pair, and the processes that train it.
        images: The validation images.
        asked: Whether to stop; looked at between pieces, since large images take long.

    Returns:
        The means over the images in nats per datum, by their names in `metrics.csv`: ELBO, rate
        and distortion. For an objective of K particles also `iwae`, its bound; where that takes
        more than 100,000 draws, of every second image, or every third and so on. And which images
        have a bound that is not finite, (N,) bool, or just the first image where another process
        measured. None where it was asked to stop meanwhile, as only a single process can be.
    """

    def measured(split: Split, particles: int) -> Estimates:
        with seeded(device, _SEED):
            return estimate(
                step.model, step.guide, split, particles, advance=proceed, engine="eager"
            )

    def proceed(_: int) -> None:
        if step.ranks.size == 1 and asked():
            raise _Stopped

    step.model.eval()
    step.guide.eval()
    device = images.raw.device
    bad = torch.arange(len(images), device=device) == 0
    particles = step.objective.bound_particles
    weighted = particles > 1 and step.guide.has_density
    names = ["elbo", "rate", "distortion", *(["iwae"] if weighted else [])]
    means = torch.empty(len(names), dtype=torch.float64, device=device)
    if step.ranks.first:
        try:
            whole = measured(images, max(1, _LEAST_DRAWS // len(images)))
            bad = ~whole.elbo.isfinite()
            terms = [whole.elbo, whole.rate, whole.distortion]
            if weighted:
                some = slice(None, None, ceil(len(images) * particles / _MOST_DRAWS))
                iwae = measured(images.select(some), particles).log_likelihood
                bad[some] |= ~iwae.isfinite()
                terms.append(iwae)
        except _Stopped:
            return None
        means = torch.stack([term.mean() for term in terms])
    step.ranks.copy_from_first(means)
    values = zip(names, means.tolist(), strict=True)
    return {f"validation_{name}_nats_per_datum": mean for name, mean in values}, bad
