"""How many particles and images make a measurement of about a minute on the machine at hand."""

import time
from dataclasses import dataclass

import torch

from guides import Guide
from models import Model
from ppl_vae.data import Split
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate

__all__ = ["MOST_PARTICLES", "Effort", "affordable_effort"]

MOST_PARTICLES = 5000
"""As many as papers have taken since Burda, Grosse and Salakhutdinov (2016)."""

_FEWEST_PARTICLES = 100
_SECONDS = 60.0
_MEASURED_SECONDS = 0.2  # of work, from which a speed is taken


@dataclass(frozen=True)
class Effort:
    """How much a measurement does.

    Attributes:
        particles: K, draws of z for each image.
        data_points: How many images.
        seconds: How long that is expected to take.
    """

    particles: int
    data_points: int
    seconds: float


def affordable_effort(model: Model, guide: Guide, images: Split, all_of_them: bool) -> Effort:
    """The most particles, up to 5,000, and images that take about a minute.

    All images are preferred to more particles than 100; there are fewer images only where 100
    particles for each of them take longer than a minute. What an image takes, a + b K seconds, is
    measured with few images at two numbers of particles K. The random states stay as they are.

    Args:
        model: p(x, z).
        guide: q(z|x).
        images: The images to measure.
        all_of_them: Whether all are to be measured, however long that takes.
    """
    few, many, count = _FEWEST_PARTICLES, 10 * _FEWEST_PARTICLES, len(images)
    with seeded(images.raw.device, 0):
        _took(model, guide, images.first(1), few)  # the first time takes longer
        least = _seconds_per_image(model, guide, images, few)
        if count * least >= _SECONDS:
            if not all_of_them:
                count = min(count, max(few, _round(_SECONDS / least)))
            return Effort(few, count, count * least)
        more = _seconds_per_image(model, guide, images, many)
    each = max((more - least) / (many - few), 1e-12)
    particles = min(MOST_PARTICLES, _round(few + (_SECONDS / count - least) / each))
    return Effort(particles, count, count * (least + (particles - few) * each))


def _round(number: float) -> int:
    """Down to two significant digits."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return int(number) // unit * unit


def _seconds_per_image(model: Model, guide: Guide, images: Split, particles: int) -> float:
    """Measured on a piece that grows until it takes long enough to tell."""
    count = 1
    while True:
        took = _took(model, guide, images.first(count), particles)
        if took >= _MEASURED_SECONDS or count == len(images):
            return took / count
        count = min(4 * count, len(images))


def _took(model: Model, guide: Guide, images: Split, particles: int) -> float:
    began = time.perf_counter()
    result = estimate(model, guide, images, particles, engine="eager")
    if result.elbo.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
