"""Draws from the true posterior p(z|x): NUTS through the decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.ranges import check_count
from ppl_vae.compiler.tracing import traced
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.of_pair import of_pair
from ppl_vae.densities.sites import Latents
from ppl_vae.densities.unconstrained import Unconstrained
from ppl_vae.errors import InputError
from ppl_vae.inference.netcdf import array_stats
from ppl_vae.inference.trees import Samples, sample_nuts

__all__ = ["NutsPosterior", "nuts_posterior"]

_GUESSES = 100  # draws of the guide that the first metric comes from


@dataclass(frozen=True)
class NutsPosterior:
    """Draws from p(z|x) of B data, C chains of S draws each, with their diagnostics.

    Attributes:
        latents: By site, (C, S, B, ...).
        log_joint: log p(x, z), (C, S, B) in nats, of the latents without constraints (with their
            Jacobian).
        energy: (C, S, B) in nats, the Hamiltonian at each draw.
        diverging: (C, S, B) bool: draws whose trajectory lost more than 1,000 nats of energy.
        acceptance: (C, S, B): mean acceptance along each trajectory.
        steps: (C, S, B) int64: leapfrog steps of each trajectory.
        step_size: (C, B).
        r_hat: By site, (B, ...): rank-normalised, by ArviZ; 1 is the ideal, above 1.01 the chains
            have not mixed.
        ess: By site, (B, ...): the bulk effective sample size, by ArviZ.
    """

    latents: Latents
    log_joint: Tensor
    energy: Tensor
    diverging: Tensor
    acceptance: Tensor
    steps: Tensor
    step_size: Tensor
    r_hat: Latents
    ess: Latents

    @property
    def divergences(self) -> Tensor:
        """How many draws of each datum diverged, (B,)."""
        return self.diverging.sum((0, 1))


@of_pair
@torch.no_grad()
def nuts_posterior(
    joint: Joint,
    *,
    draws: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    target_acceptance: float = 0.8,
    advance: Callable[[int], None] = lambda draws: None,
) -> NutsPosterior:
    """Samples p(z|x) proportional to p(z) p(x|z) for each datum.

    Hoffman and Gelman, The No-U-Turn Sampler, JMLR 2014. Chains start at draws from the guide and
    with its variances as their metric. All chains of all data move in one potential, yet each has
    a tree, a step size and a metric of its own: `pyro.infer.NUTS` on the joint potential would be
    one trajectory through all of them, as long as the slowest needs and with a step that is the
    smallest needed. Nothing is rejected silently: divergences are marked.

    Args:
        joint: The pair with its data, or `model, guide, x` in its place.
        draws: S, kept of each chain.
        warmup: Draws before those, in which the chains adapt.
        chains: C.
        target_acceptance: The mean acceptance that step sizes aim at; more means smaller steps.
        advance: Called with the number of draws that are done, warm-up included; C B (warmup + S)
            in all.

    Raises:
        ValueError: If a number is out of range, or the pair has no common continuous latents.
    """
    check_count("draws", draws, 4)
    check_count("warmup", warmup)
    check_count("chains", chains)
    if not 0 < target_acceptance < 1:
        raise InputError(f"expected 0 < target_acceptance < 1; got {target_acceptance}")
    whole = Unconstrained.of(joint)
    parts = []
    for rows in joint.slices(2 * chains):
        samples = _sample(whole[rows], draws, warmup, chains, target_acceptance, advance)
        parts.append([_by_chain(value, chains) for value in vars(samples).values()])
    u, *statistics, step_size = (torch.cat(each, -1) for each in zip(*parts, strict=True))
    flat = u.movedim(-2, -1).flatten(0, 1)  # (C S, B, D)
    latents = {
        name: value.unflatten(0, (chains, draws)) for name, value in whole.unpack(flat).items()
    }
    log_joint, energy, diverging, acceptance, steps = statistics
    return NutsPosterior(
        latents, log_joint, energy, diverging, acceptance, steps, step_size, *_diagnose(latents)
    )


def _by_chain(value: Tensor, chains: int) -> Tensor:
    """(C B, S, D), (C B, S) or (C B,) with the data last."""
    return value.unflatten(0, (chains, -1)).movedim(1, -1)


def _sample(
    target: Unconstrained, draws: int, warmup: int, chains: int, acceptance: float, advance: Any
) -> Samples:
    guesses = target.draw_guide(max(chains, _GUESSES))
    start = guesses[:chains]
    variance = guesses.var(0).clamp(min=1e-12).expand_as(start)

    def potential(u: Tensor) -> tuple[Tensor, ...]:
        u = u.detach().unflatten(0, start.shape[:2]).requires_grad_()
        with torch.enable_grad():
            value = torch.stack(target.log_terms(u)).sum(0)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach().flatten(), gradient.flatten(0, 1)

    here = start.flatten(0, 1)
    graph = traced(potential, here, here.flip(0) + 1)
    return sample_nuts(graph, here, variance.flatten(0, 1), draws, warmup, acceptance, advance)


def _diagnose(latents: Latents) -> tuple[Latents, Latents]:
    arrays = {name: value.double().cpu().numpy() for name, value in latents.items()}
    r_hat, ess = (
        {name: torch.as_tensor(of(z, chain_axis=0, draw_axis=1)) for name, z in arrays.items()}
        for of in (array_stats().rhat, array_stats().ess)
    )
    return r_hat, ess
