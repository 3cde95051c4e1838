"""An unknown parameter of a corruption, by maximum marginal likelihood."""

from collections.abc import Callable
from dataclasses import replace
from math import exp, log, sqrt

import torch
from torch import Tensor

from guides import Guide
from models import Model
from models.corruptions import Corruption
from ppl_vae.densities.joint import Joint
from ppl_vae.errors import InputError
from ppl_vae.inference.corrupted import CorruptedModel
from ppl_vae.inference.pareto import log_mean
from ppl_vae.inference.restoration import corrupted_joint, refined

__all__ = ["infer_unknown"]

_PARTICLES = 64
_ROUNDS, _STEPS = 12, 200
_FACTOR = 4.0  # by which a round may change the value: its draws are of p(z|y) at the one before
_SETTLED = 0.1  # standard errors
_DIFFERENCE = 0.02  # of the logarithm, for the curvature


def infer_unknown(
    model: Model,
    guide: Guide,
    corruption: Corruption,
    y: Tensor,
    labels: Tensor | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> tuple[Corruption, float]:
    """The corruption with its unknown parameter a maximising sum_n log p(y_n|a), and its error.

    In turn the normals are fitted at a, and a is moved to the maximum of the sum of
    log mean_k p(z_k) p(y_n|z_k, a) / q(z_k), for fixed draws z_k from the normal of each image. The
    standard error is that of maximum likelihood, 1 / sqrt of minus the second derivative.

    Args:
        model: p(x, z).
        guide: q(z|x).
        corruption: p(y|x), with one unknown parameter.
        y: All images that have been corrupted alike, (B, ...).
        labels: Of the images, (B,), where the model takes them.
        say: Called with the value of each round.

    Raises:
        InputError: If more than one parameter is unknown.
    """
    from scipy.optimize import minimize_scalar

    if len(corruption.unknown) != 1:
        raise InputError(
            f"expected one unknown parameter of {type(corruption).__name__}; got "
            f"{', '.join(corruption.unknown) or 'none'}"
        )
    (name,) = corruption.unknown
    least, most = map(log, corruption.ranges[name])
    place, error = (least + most) / 2, 0.0

    def at(place: float) -> Corruption:
        return replace(corruption, **{name: exp(place)})

    joint = corrupted_joint(model, guide, at(place), y, labels)
    for _ in range(_ROUNDS):
        joint = refined(replace(joint, model=CorruptedModel(model, at(place))), _STEPS)
        bound = _bound(joint, model, at)
        ends = max(least, place - log(_FACTOR)), min(most, place + log(_FACTOR))
        found = minimize_scalar(
            lambda place, bound=bound: -bound(place), bounds=ends, options={"xatol": 1e-3}
        )
        before, place = place, float(found.x)
        error = _error(bound, place)
        say(f"{name} {exp(place):.3g}")
        if abs(place - before) < max(_SETTLED * error, 2e-3):
            break
    return at(place), exp(place) * error


def _bound(
    joint: Joint, model: Model, at: Callable[[float], Corruption]
) -> Callable[[float], float]:
    """sum_n log p(y_n) as a function of the parameter's logarithm, by importance sampling."""
    with torch.no_grad():
        pieces = []
        for rows, _, count in joint.pieces(_PARTICLES):
            latents, log_guide = joint[rows].draw(count)
            pieces.append((rows, latents, joint[rows].log_terms(latents)[0] - log_guide))

    @torch.no_grad()
    def bound(place: float) -> float:
        there = replace(joint, model=CorruptedModel(model, at(place)))
        columns: dict[int, list[Tensor]] = {}
        for rows, latents, rest in pieces:
            terms = there[rows].log_terms(latents)[1] + rest
            columns.setdefault(rows.start, []).append(terms.double())
        return sum(float(log_mean(torch.cat(each))[0].sum()) for each in columns.values())

    return bound


def _error(bound: Callable[[float], float], place: float) -> float:
    """The standard error of the logarithm, from the curvature of the bound at its maximum."""
    low, middle, high = (bound(place + shift) for shift in (-_DIFFERENCE, 0.0, _DIFFERENCE))
    curvature = (2 * middle - low - high) / _DIFFERENCE**2
    return 1 / sqrt(curvature) if curvature > 0 else torch.inf
