"""Where the gap between the ELBO and log p(x) comes from: the family, or the amortization."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log, sqrt
from typing import Any

import torch
from torch import Tensor

from models.ranges import check_count, check_number
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.of_pair import of_pair
from ppl_vae.densities.sites import Latents
from ppl_vae.errors import InputError
from ppl_vae.inference.families import Family, Features, family_by, family_of
from ppl_vae.inference.pareto import RELIABLE, pareto_k

__all__ = ["Gaps", "fit_family", "gap_decomposition"]

_WINDOW = 40  # steps between two looks at the bound of a datum
_PATIENCE = 2  # looks without improvement before its learning rate falls
_FALLS = 3  # of the learning rate, by _FACTOR each, until it counts as converged
_COPIES = 10  # of the features: Adam's moments, gradients, means, temporaries
_FACTOR = 0.2
_LOSS, _ERRORS = 1.0, 5.0  # nats, and standard errors, that the bound may fall and the fit go on


@dataclass(frozen=True)
class Gaps:
    """log p(x) - ELBO of B data, split; each (B,) in nats, float64.

    Attributes:
        elbo: Of the guide as it is.
        best_elbo: Of the guide's family fitted to the datum.
        log_likelihood: log p(x), estimated.
        approximation_gap: log p(x) - best_elbo: the loss of the family.
        amortization_gap: best_elbo - elbo: the loss of the guide's network.
        elbo_standard_error: Of the estimate from draws, as are the next four.
        best_elbo_standard_error: See there.
        log_likelihood_standard_error: See there; infinite where k_hat is above 0.7.
        approximation_gap_standard_error: See there; infinite where k_hat is above 0.7.
        amortization_gap_standard_error: See there.
        k_hat: Of the fitted distribution's weights. Above 0.7 their variance is infinite and the
            draws do not show how wrong log p(x) is: mostly too low, seldom far too high.
        converged: Whether the fit stopped by itself, at a bound that had settled, (B,) bool.
    """

    elbo: Tensor
    best_elbo: Tensor
    log_likelihood: Tensor
    approximation_gap: Tensor
    amortization_gap: Tensor
    elbo_standard_error: Tensor
    best_elbo_standard_error: Tensor
    log_likelihood_standard_error: Tensor
    approximation_gap_standard_error: Tensor
    amortization_gap_standard_error: Tensor
    k_hat: Tensor
    converged: Tensor


@of_pair
def gap_decomposition(
    joint: Joint,
    *,
    particles: int = 5000,
    steps: int = 3000,
    fit_particles: int = 8,
    learning_rate: float = 0.03,
    family: Callable[[Tensor], Any] | None = None,
    features: Tensor | None = None,
    log_likelihood: Tensor | None = None,
    advance: Callable[[int], None] = lambda data: None,
) -> Gaps:
    """log p(x) - ELBO = (log p(x) - ELBO*) + (ELBO* - ELBO), for each datum.

    ELBO* is that of the best member of the guide's family for that datum alone. Cremer, Li and
    Duvenaud, Inference Suboptimality in Variational Autoencoders, 2018, equations (3) to (5). The
    family is `families.family_of(...)`: for guides with `encode` and `posterior_of` all features,
    and the networks of a flow where it has any. All data are fitted side by side by Adam, from
    where the guide puts them; each learning rate falls when the bound of its datum rises no more,
    and the datum is done when it has fallen to about a hundredth. Where the bound has collapsed,
    the fit goes back to where it was and on with smaller steps.

    log p(x) is importance-sampled with the fitted distribution as the proposal, which is better
    than the amortized one; its error is known up to a k-hat of 0.7. The two gaps always sum to the
    whole.

    Args:
        joint: The pair with its data, or `model, guide, x` in its place.
        particles: K, draws for each of the final estimates.
        steps: Of Adam, at most.
        fit_particles: Draws in each step.
        learning_rate: Of Adam at the beginning, in units of the unconstrained parameters.
        family: From features (R, F) to a distribution over the one latent site, where the guide
            does not say; needs `features`.
        features: Where the fit starts, (B, F).
        log_likelihood: log p(x) known better, (B,) in nats, such as from annealed importance
            sampling; taken as exact.
        advance: Called with the number of data that are done.

    Raises:
        ValueError: If a number is out of range, or the family cannot be fitted.
    """
    check_count("particles", particles, 25)
    check_count("steps", steps)
    check_count("fit_particles", fit_particles)
    check_number("learning_rate", learning_rate, above=0)
    if (family is None) != (features is None):
        raise InputError("expected family= and features= together; got one of them")
    if family is not None and len(joint.sites) != 1:
        raise InputError(f"expected one latent site for family=; got {list(joint.sites)}")
    copies = 2 * fit_particles
    if family is None:
        one = family_of(joint[:1]).features.values()
        size = _COPIES * sum(value.numel() * value.element_size() for value in one)
        copies = max(copies, -(-size // joint.bytes_per_row))
    parts = []
    for rows in joint.slices(copies):
        part = joint[rows]
        if family is None or features is None:
            free = family_of(part)
        else:
            ((name, event),) = part.sites.items()
            free = family_by(family, features[rows], name, event)
        fitted, converged = fit_family(part, free, steps, fit_particles, learning_rate)
        best = part.log_weights(particles, partial(_draw, free, fitted))
        parts.append((part.log_weights(particles), best, converged))
        advance(len(part))
    amortized, best, converged = (torch.cat(each, -1) for each in zip(*parts, strict=True))
    return _split(amortized, best, converged, log_likelihood)


def _split(
    amortized: Tensor, best: Tensor, converged: Tensor, log_likelihood: Tensor | None
) -> Gaps:
    particles, k_hat = len(best), pareto_k(best).k_hat
    elbo, best_elbo = amortized.mean(0), best.mean(0)
    elbo_error, best_error = (w.std(0) / sqrt(particles) for w in (amortized, best))
    if log_likelihood is None:
        log_p = best.logsumexp(0) - log(particles)
        relative = (best - log_p).exp()  # of mean 1
        # The same draws give best_elbo, and what they share cancels in the gap.
        errors = [each.std(0) / sqrt(particles) for each in (relative, relative - best)]
        log_p_error, approximation_error = (
            error.masked_fill(k_hat > RELIABLE, torch.inf) for error in errors
        )
    else:
        log_p = log_likelihood.to(best)
        log_p_error, approximation_error = torch.zeros_like(log_p), best_error
    return Gaps(
        elbo=elbo,
        best_elbo=best_elbo,
        log_likelihood=log_p,
        approximation_gap=log_p - best_elbo,
        amortization_gap=best_elbo - elbo,
        elbo_standard_error=elbo_error,
        best_elbo_standard_error=best_error,
        log_likelihood_standard_error=log_p_error,
        approximation_gap_standard_error=approximation_error,
        amortization_gap_standard_error=torch.hypot(elbo_error, best_error),
        k_hat=k_hat,
        converged=converged,
    )


def _draw(family: Family, fitted: Features, piece: slice, size: int) -> tuple[Latents, Tensor]:
    values = {key: value[piece] for key, value in fitted.items()}
    device = next(iter(values.values())).device
    return family.draw(values, torch.arange(piece.start, piece.stop, device=device), size)


def fit_family(
    joint: Joint, family: Family, steps: int, particles: int, learning_rate: float
) -> tuple[Features, Tensor]:
    """The features that maximise each datum's ELBO, and whether they have settled.

    Args:
        joint: The pair with its data.
        family: Where the fit starts, and how to draw.
        steps: Of Adam, at most.
        particles: Draws in each step.
        learning_rate: Of Adam at the beginning, in units of the features.
    """
    count, device = len(joint), joint.batch[0].device
    active = torch.arange(count, device=device)
    result = {name: value.clone() for name, value in family.features.items()}
    converged = torch.zeros(count, dtype=torch.bool, device=device)
    rate = torch.full((count,), learning_rate, dtype=torch.float64, device=device)
    best = torch.full_like(rate, -torch.inf)
    floor = best.clone()  # a bound below it is no noise
    idle, falls = torch.zeros_like(active), torch.zeros_like(active)
    bound, square = torch.zeros_like(rate), torch.zeros_like(rate)
    now = {name: value.clone() for name, value in result.items()}
    mean = {name: torch.zeros_like(value) for name, value in now.items()}
    moments = {name: (torch.zeros_like(v), torch.zeros_like(v)) for name, v in now.items()}
    for step in range(1, steps + 1):
        for value in now.values():
            value.requires_grad_()
        with torch.enable_grad():
            latents, log_q = family.draw(now, active, particles)
            log_weights = torch.stack(joint[active].log_terms(latents)).sum(0) - log_q
            elbo = log_weights.mean(0)
            gradients = torch.autograd.grad(elbo.sum(), list(now.values()))
        with torch.no_grad():
            if step == 1:
                error = log_weights.double().std(0, correction=0) / sqrt(particles)
                floor = elbo.double() - _LOSS - _ERRORS * error
            for (name, value), gradient in zip(list(now.items()), gradients, strict=True):
                first, second = moments[name]
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.01)
                direction = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
                shape = (-1, *[1] * (value.dim() - 1))
                size = (rate * family.steps.get(name, 1.0)).to(value).reshape(shape)
                now[name] = value.detach() + size * direction
                mean[name] += now[name] / _WINDOW
            bound += elbo.double() / _WINDOW
            square += elbo.double().square() / _WINDOW
            if step % _WINDOW:
                continue
            error = ((square - bound.square()).clamp(min=0) / _WINDOW).sqrt()
            rose = bound > best + torch.maximum(error, torch.tensor(1e-3).to(error))
            collapsed = ~(bound >= floor)  # also where it is NaN
            idle = torch.where(rose, 0, idle + 1)
            best = torch.maximum(best, bound.nan_to_num(-torch.inf))
            height = bound - _LOSS - _ERRORS * error
            floor = torch.maximum(floor, height.nan_to_num(-torch.inf))
            fall = (idle >= _PATIENCE) | collapsed
            rate = torch.where(fall, rate * _FACTOR, rate)
            falls = falls + fall
            idle = torch.where(fall, 0, idle)
            # The mean over the steps of the window is closer to the optimum than the last of them.
            for name, value in mean.items():
                wide = collapsed.reshape(-1, *[1] * (value.dim() - 1))
                result[name][active] = torch.where(wide, result[name][active], value)
                now[name] = torch.where(wide, result[name][active], now[name])
                for moment in moments[name]:
                    moment.masked_fill_(wide, 0)
            done = falls >= _FALLS
            converged[active[done & ~collapsed]] = True
            kept = ~done
            active, rate, best, floor, idle, falls = (
                each[kept] for each in (active, rate, best, floor, idle, falls)
            )
            now = {name: value[kept] for name, value in now.items()}
            moments = {name: (a[kept], b[kept]) for name, (a, b) in moments.items()}
            mean = {name: torch.zeros_like(value) for name, value in now.items()}
            bound, square = torch.zeros_like(rate), torch.zeros_like(rate)
            if not len(active):
                break
    return result, converged
