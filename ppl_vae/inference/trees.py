"""The no-U-turn sampler for many independent chains at once, one gradient call for all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.inference.adaptation import Metric, StepSize

__all__ = ["Potential", "Samples", "sample_nuts"]

Potential = Callable[[Tensor], tuple[Tensor, ...]]

_DIVERGENCE = 1000.0  # nats of energy lost
_DEPTH = 10
_PROGRESS_EVERY = 100  # draws


@dataclass(frozen=True)
class Samples:
    """What N chains of S draws went through.

    Attributes:
        draws: (N, S, D).
        log_density: (N, S) in nats, up to a constant.
        diverging: (N, S) bool.
        acceptance: (N, S), the mean over the trajectory of min(1, exp(-energy error)).
        steps: (N, S) int64, leapfrog steps.
        step_size: (N,) after warm-up.
    """

    draws: Tensor
    log_density: Tensor
    diverging: Tensor
    acceptance: Tensor
    steps: Tensor
    step_size: Tensor


def sample_nuts(
    potential: Potential,
    start: Tensor,
    variance: Tensor,
    draws: int,
    warmup: int,
    target: float = 0.8,
    advance: Callable[[int], None] = lambda draws: None,
) -> Samples:
    """Runs NUTS on N targets side by side.

    Hoffman and Gelman, The No-U-Turn Sampler, JMLR 2014, with multinomial sampling along the
    trajectory (Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo, 2017, appendix
    A.3) and trees that are built leaf by leaf (Phan, Pradhan and Jankowiak, 2019). Each iteration
    is one leapfrog step of all chains, in one call of the potential. Every chain is at a leaf of
    a tree of its own, with a step size and a diagonal metric of its own, and goes on to its next
    draw without waiting for the others.

    Args:
        potential: From u (N, D) to the log-densities (N,) and their gradients (N, D).
        start: u, (N, D).
        variance: A guess of the variances of u, (N, D), which warm-up improves on.
        draws: S, kept for each chain.
        warmup: Draws before those, in which step sizes and metrics adapt.
        target: The acceptance that the step sizes aim at.
        advance: Told now and then how many draws were made, warm-up included.
    """
    count, size = start.shape
    device = start.device
    every = torch.arange(count, device=device)
    step = StepSize(start.new_full((count,), size**-0.25), target)
    metric = Metric(variance, warmup)
    log_density, gradient = potential(start)
    trees = _Trees(start, log_density, gradient)
    samples = Samples(
        draws=start.new_zeros(count, draws, size),
        log_density=start.new_zeros(count, draws),
        diverging=torch.zeros(count, draws, dtype=torch.bool, device=device),
        acceptance=start.new_zeros(count, draws),
        steps=torch.zeros(count, draws, dtype=torch.long, device=device),
        step_size=step.average,
    )
    made = torch.zeros(count, dtype=torch.long, device=device)
    done = torch.ones(count, dtype=torch.bool, device=device)
    extend = done
    told = 0
    while True:
        trees.begin(done, extend, metric.variance)
        warming = made < warmup
        size_now = torch.where(warming, step.log_step, step.average).exp()
        diverging = trees.leapfrog(potential, size_now, metric.variance)
        done, extend = trees.grow(diverging, metric.variance)
        if not done.any():
            continue
        u, log_density, acceptance, steps = trees.finish(done)
        keep = done & ~warming & (made < warmup + draws)
        rows, columns = every[keep], made[keep] - warmup
        samples.draws[rows, columns] = u[keep]
        samples.log_density[rows, columns] = log_density[keep]
        samples.acceptance[rows, columns] = acceptance[keep]
        samples.diverging[rows, columns] = diverging[keep]
        samples.steps[rows, columns] = steps[keep]
        made += done
        learn = done & warming
        if learn.any():
            step.update(learn, acceptance)
            step.restart(metric.update(learn, made, u))
        total = int(made.clamp(max=warmup + draws).sum())
        if total - told >= _PROGRESS_EVERY or total == count * (warmup + draws):
            advance(total - told)
            told = total
        if total == count * (warmup + draws):
            samples.step_size.copy_(step.average.exp())
            return samples


class _Trees:
    """One trajectory for each of N chains, each somewhere in its growth.

    A point is one row (u, r, gradient, log-density) of 3 D + 1 numbers, so that points move in
    one operation.
    """

    def __init__(self, u: Tensor, log_density: Tensor, gradient: Tensor) -> None:
        count, self.size = u.shape
        self.here = torch.cat([u, torch.zeros_like(u), gradient, log_density[:, None]], -1)
        self.left = self.right = self.edge = self.chosen = self.offered = self.here
        zeros = torch.zeros_like(log_density)
        self.energy, self.direction = zeros, zeros
        # Of the tree, and of the subtree that is to double it: log of the summed weights, and the
        # summed momenta.
        self.weight, self.offered_weight = zeros.clone(), zeros.clone()
        self.momenta, self.offered_momenta = torch.zeros_like(u), torch.zeros_like(u)
        self.accepted = zeros.clone()
        self.depth, self.leaf, self.steps = (
            torch.zeros(count, dtype=torch.long, device=u.device) for _ in range(3)
        )
        self.bits = torch.arange(_DEPTH, device=u.device)
        self.saved = u.new_zeros(2, count, _DEPTH, self.size)

    def begin(self, done: Tensor, extend: Tensor, variance: Tensor) -> None:
        """New trajectories with new momenta where `done`, new subtrees where `extend`."""
        size, wide = self.size, done[:, None]
        u, _, gradient, log_density = self.here.split([size, size, size, 1], -1)
        momentum = torch.randn_like(u) / variance.sqrt()
        start = torch.cat([u, momentum, gradient, log_density], -1)
        kinetic = 0.5 * (variance * momentum * momentum).sum(-1)
        self.energy = torch.where(done, kinetic - log_density[:, 0], self.energy)
        self.left = torch.where(wide, start, self.left)
        self.right = torch.where(wide, start, self.right)
        self.chosen = torch.where(wide, start, self.chosen)
        self.momenta = torch.where(wide, momentum, self.momenta)
        for value in (self.weight, self.accepted, self.depth, self.steps):
            value.masked_fill_(done, 0)
        forwards = torch.rand_like(self.energy) < 0.5
        self.direction = torch.where(extend, 2.0 * forwards - 1, self.direction).to(u)
        side = torch.where(forwards[:, None], self.right, self.left)
        self.edge = torch.where(extend[:, None], side, self.edge)
        self.leaf.masked_fill_(extend, 0)
        self.offered_weight.masked_fill_(extend, -torch.inf)
        self.offered_momenta.masked_fill_(extend[:, None], 0)

    def leapfrog(self, potential: Potential, size: Tensor, variance: Tensor) -> Tensor:
        """Moves all edges by one step into new leaves; gives which of them diverged."""
        step = (size * self.direction)[:, None]
        u, r, gradient, _ = self.edge.split([self.size, self.size, self.size, 1], -1)
        r = r + 0.5 * step * gradient
        u = u + step * variance * r
        log_density, gradient = potential(u)
        r = r + 0.5 * step * gradient
        self.edge = torch.cat([u, r, gradient, log_density[:, None]], -1)
        gain = self.energy + log_density - 0.5 * (variance * r * r).sum(-1)
        gain = torch.where(gain.isnan(), -torch.inf, gain)
        self.accepted += gain.clamp(max=0).exp()
        self.steps += 1
        self.offered_weight = torch.logaddexp(self.offered_weight, gain)
        take = torch.rand_like(gain).log() < gain - self.offered_weight
        self.offered = torch.where(take[:, None], self.edge, self.offered)
        self.offered_momenta += r
        return gain < -_DIVERGENCE

    def grow(self, diverging: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Joins whole subtrees to their trees; gives which trajectories are done, and which
        need a new subtree."""
        bad = diverging | self._subtree_turns(variance)
        joins = (self.leaf + 1 == 1 << self.depth) & ~bad
        odds = self.offered_weight - self.weight
        take = joins & (torch.rand_like(odds).log() < odds)
        self.chosen = torch.where(take[:, None], self.offered, self.chosen)
        self.left = torch.where((joins & (self.direction < 0))[:, None], self.edge, self.left)
        self.right = torch.where((joins & (self.direction > 0))[:, None], self.edge, self.right)
        self.momenta = self.momenta + joins[:, None] * self.offered_momenta
        together = torch.logaddexp(self.weight, self.offered_weight)
        self.weight = torch.where(joins, together, self.weight)
        self.depth += joins
        self.leaf += 1
        first, last = (side[:, self.size : 2 * self.size] for side in (self.left, self.right))
        turned = _turns(first, last, self.momenta, variance) | (self.depth == _DEPTH)
        done = bad | (joins & turned)
        return done, done | joins

    def finish(self, done: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next draws where `done`: u, log-density, mean acceptance, leapfrog steps."""
        self.here = torch.where(done[:, None], self.chosen, self.here)
        u, log_density = self.here[:, : self.size], self.here[:, -1]
        return u, log_density, self.accepted / self.steps, self.steps

    def _subtree_turns(self, variance: Tensor) -> Tensor:
        # Leaf n closes as many balanced subtrees as it has ones at its end; the first leaves of
        # those were saved, at places that count the ones before.
        momentum = self.edge[:, self.size : 2 * self.size]
        ones = (self.leaf[:, None] >> self.bits) & 1
        place = ones[:, 1:].sum(-1, keepdim=True)
        closed = ones.cumprod(-1).sum(-1, keepdim=True)
        now = torch.stack([momentum, self.offered_momenta])[:, :, None]
        save = (self.bits == place) & (closed == 0)
        self.saved = torch.where(save[..., None], now, self.saved)
        first, before = self.saved
        total = self.offered_momenta[:, None] - before + first
        turned = _turns(first, momentum[:, None], total, variance[:, None])
        return (turned & (self.bits <= place) & (self.bits > place - closed)).any(-1)


def _turns(one: Tensor, other: Tensor, momenta: Tensor, variance: Tensor) -> Tensor:
    """Whether the trajectory between two momenta, whose sum is given, has begun to return."""
    between = variance * (momenta - (one + other) / 2)
    return ((one * between).sum(-1) <= 0) | ((other * between).sum(-1) <= 0)
