"""The no-U-turn sampler for many independent chains at once, one gradient call for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

__all__ = ["Potential", "Samples", "sample_nuts"]

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]

_DIVERGENCE = 1000.0  # nats of energy lost
_DEPTH = 10


@dataclass(frozen=True)
class Samples:
    """What N chains of S draws went through.

    Attributes:
        draws: (N, S, D).
        log_density: (N, S) in nats, up to a constant.
        diverging: (N, S) bool.
        acceptance: (N, S), the mean over the tree of min(1, exp(-energy error)).
        steps: (N, S) int64, leapfrog steps.
        step_size: (N,) after warm-up.
    """

    draws: Tensor
    log_density: Tensor
    diverging: Tensor
    acceptance: Tensor
    steps: Tensor
    step_size: Tensor


class _StepSize:
    """Dual averaging towards an acceptance; Hoffman and Gelman (2014), section 3.2."""

    def __init__(self, start: Tensor, target: float) -> None:
        self.target = target
        self.restart(torch.ones_like(start, dtype=torch.bool), start.log(), first=True)

    def restart(self, where: Tensor, log_step: Tensor, first: bool = False) -> None:
        zero = torch.zeros_like(log_step)
        values = {
            "log_step": log_step, "average": log_step, "centre": log_step + log(10),
            "error": zero, "count": zero,
        }  # fmt: skip
        for name, value in values.items():
            setattr(self, name, value if first else torch.where(where, value, getattr(self, name)))

    log_step: Tensor
    average: Tensor
    centre: Tensor
    error: Tensor
    count: Tensor

    def update(self, where: Tensor, acceptance: Tensor) -> None:
        count = self.count + 1
        weight = 1 / (count + 10)
        error = (1 - weight) * self.error + weight * (self.target - acceptance)
        log_step = self.centre - count.sqrt() / 0.05 * error
        share = count**-0.75
        average = share * log_step + (1 - share) * self.average
        self.count = torch.where(where, count, self.count)
        self.error = torch.where(where, error, self.error)
        self.log_step = torch.where(where, log_step, self.log_step)
        self.average = torch.where(where, average, self.average)


def _window_ends(warmup: int) -> set[int]:
    """Draws after which the metric is estimated anew: windows that double, as in Stan."""
    if warmup < 20:
        return set()
    start, last, width = (75, 50, 25) if warmup >= 150 else (
        int(0.15 * warmup), int(0.1 * warmup), max(1, int(0.75 * warmup)),
    )  # fmt: skip
    ends, end = set(), start
    while end < warmup - last:
        following = end + width
        if following + 2 * width > warmup - last:
            following = warmup - last
        ends.add(following)
        end, width = following, 2 * width
    return ends


def sample_nuts(
    potential: Potential,
    start: Tensor,
    variance: Tensor,
    draws: int,
    warmup: int,
    target: float = 0.8,
    advance: Callable[[int], None] = lambda steps: None,
) -> Samples:
    """Runs NUTS on N targets side by side.

    Multinomial sampling along the trajectory and the U-turn criterion of Betancourt, A Conceptual
    Introduction to Hamiltonian Monte Carlo, 2017, appendix A, on trees that are built leaf by
    leaf (Phan, Pradhan and Jankowiak, 2019). Every chain is at a leaf of a tree of its own, with
    a step size and a diagonal metric of its own, and goes on to its next draw without waiting for
    the others; each iteration is one call of the potential for all of them.

    Args:
        potential: From u (N, D) to the log-densities (N,) and their gradients (N, D).
        start: u, (N, D).
        variance: A guess of the variances of u, (N, D), which warm-up improves on.
        draws: S, kept for each chain.
        warmup: Draws before those, in which step sizes and metrics adapt.
        target: The acceptance that the step sizes aim at.
        advance: Told how many draws were made, warm-up included, now and then.
    """
    count, size = start.shape
    device, dtype = start.device, start.dtype
    every = torch.arange(count, device=device)
    bits = torch.arange(_DEPTH, device=device)
    ends = torch.zeros(warmup + draws + 2, dtype=torch.bool, device=device)
    ends[list(_window_ends(warmup))] = True
    first_window = int(0.15 * warmup) if warmup < 150 else 75

    kept = start.new_zeros(count, draws, size)
    log_density, acceptance = start.new_zeros(2, count, draws)
    diverged = torch.zeros(count, draws, dtype=torch.bool, device=device)
    lengths = torch.zeros(count, draws, dtype=torch.long, device=device)

    step = _StepSize(torch.full((count,), size**-0.25, dtype=dtype, device=device), target)
    welford_count = torch.zeros(count, 1, dtype=dtype, device=device)
    welford_mean, welford_square = torch.zeros_like(start), torch.zeros_like(start)

    def where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(condition[:, None] if yes.dim() == 2 else condition, yes, no)

    def turns(r_one: Tensor, r_two: Tensor, total: Tensor, variance: Tensor) -> Tensor:
        between = total - (r_one + r_two) / 2
        return ((variance * r_one * between).sum(-1) <= 0) | (
            (variance * r_two * between).sum(-1) <= 0
        )

    made = torch.zeros(count, dtype=torch.long, device=device)
    fresh = torch.ones(count, dtype=torch.bool, device=device)  # a draw begins
    extend = fresh.clone()  # a subtree begins
    u, (lp, g) = start, potential(start)
    empty = torch.full((count,), -torch.inf, dtype=dtype, device=device)
    zeros, nothing = torch.zeros_like(start), torch.zeros_like(empty)
    chosen_u, chosen_lp, chosen_g = u, lp, g  # of the tree
    sub_u, sub_lp, sub_g = u, lp, g  # of the subtree
    r = energy = weight = sub_weight = total = sub_total = nothing
    left = right = (u, zeros, g)
    u_edge, r_edge, g_edge = u, zeros, g
    depth = leaf = steps = torch.zeros_like(made)
    direction, accepted = nothing, nothing
    weight, sub_weight, energy = nothing, empty, nothing
    total, sub_total = zeros, zeros
    saved_r = saved_total = start.new_zeros(count, _DEPTH, size)
    told = 0
    while True:
        # Begin what has to begin.
        r = where(fresh, torch.randn_like(u) / variance.sqrt(), zeros)
        energy = where(fresh, (variance * r * r).sum(-1) / 2 - lp, energy)
        left = tuple(where(fresh, a, b) for a, b in zip((u, r, g), left, strict=True))
        right = tuple(where(fresh, a, b) for a, b in zip((u, r, g), right, strict=True))
        total = where(fresh, r, total)
        weight = where(fresh, nothing, weight)
        chosen_u, chosen_lp, chosen_g = (
            where(fresh, a, b)
            for a, b in ((u, chosen_u), (lp, chosen_lp), (g, chosen_g))
        )  # fmt: skip
        depth, steps = where(fresh, 0 * depth, depth), where(fresh, 0 * steps, steps)
        accepted = where(fresh, nothing, accepted)
        forwards = torch.rand_like(lp) < 0.5
        direction = where(extend, torch.where(forwards, 1.0, -1.0).to(dtype), direction)
        u_edge, r_edge, g_edge = (
            where(extend, where(forwards, b, a), edge)
            for a, b, edge in zip(left, right, (u_edge, r_edge, g_edge), strict=True)
        )
        leaf = where(extend, 0 * leaf, leaf)
        sub_weight = where(extend, empty, sub_weight)
        sub_total = where(extend, zeros, sub_total)

        # One leapfrog step of every chain.
        warming = made < warmup
        size_now = torch.where(warming, step.log_step, step.average).exp() * direction
        r_edge = r_edge + 0.5 * size_now[:, None] * g_edge
        u_edge = u_edge + size_now[:, None] * variance * r_edge
        lp_edge, g_edge = potential(u_edge)
        r_edge = r_edge + 0.5 * size_now[:, None] * g_edge
        gain = energy - (variance * r_edge * r_edge).sum(-1) / 2 + lp_edge
        gain = torch.where(gain.isnan(), -torch.inf, gain)
        diverging = gain < -_DIVERGENCE
        accepted = accepted + gain.clamp(max=0).exp()
        steps = steps + 1

        # The subtree takes the leaf in.
        grown = torch.logaddexp(sub_weight, gain)
        take = torch.rand_like(gain).log() < gain - grown
        sub_u, sub_lp, sub_g = (
            where(take, a, b)
            for a, b in ((u_edge, sub_u), (lp_edge, sub_lp), (g_edge, sub_g))
        )  # fmt: skip
        sub_weight, sub_total = grown, sub_total + r_edge
        # Leaf n closes the balanced subtrees that its trailing ones count; their first leaves
        # were saved at as many places as n has ones before.
        ones = (leaf[:, None] >> bits) & 1
        place = ones[:, 1:].sum(-1, keepdim=True)
        trailing = ones.cumprod(-1).sum(-1, keepdim=True)
        save = ((bits == place) & (trailing == 0))[..., None]
        saved_r = torch.where(save, r_edge[:, None], saved_r)
        saved_total = torch.where(save, sub_total[:, None], saved_total)
        closes = (bits <= place) & (bits > place - trailing)
        turned = turns(
            saved_r, r_edge[:, None], sub_total[:, None] - saved_total + saved_r, variance[:, None]
        )
        bad = diverging | (closes & turned).any(-1)

        # A whole subtree joins the tree.
        joins = (leaf + 1 == 1 << depth) & ~bad
        take = joins & (torch.rand_like(gain).log() < sub_weight - weight)
        chosen_u, chosen_lp, chosen_g = (
            where(take, a, b)
            for a, b in ((sub_u, chosen_u), (sub_lp, chosen_lp), (sub_g, chosen_g))
        )  # fmt: skip
        edge = (u_edge, r_edge, g_edge)
        left = tuple(
            where(joins & (direction < 0), a, b) for a, b in zip(edge, left, strict=True)
        )  # fmt: skip
        right = tuple(
            where(joins & (direction > 0), a, b) for a, b in zip(edge, right, strict=True)
        )
        total = where(joins, total + sub_total, total)
        weight = where(joins, torch.logaddexp(weight, sub_weight), weight)
        depth = depth + joins
        over = joins & (turns(left[1], right[1], total, variance) | (depth == _DEPTH))
        fresh = bad | over
        extend = fresh | joins
        leaf = leaf + 1
        if not fresh.any():
            continue

        # Draws that are done: kept, and learned from.
        u, lp, g = where(fresh, chosen_u, u), where(fresh, chosen_lp, lp), where(fresh, chosen_g, g)
        mean_acceptance = accepted / steps
        keep = fresh & ~warming & (made < warmup + draws)
        rows, columns = every[keep], made[keep] - warmup
        kept[rows, columns] = u[keep]
        log_density[rows, columns] = lp[keep]
        acceptance[rows, columns] = mean_acceptance[keep]
        diverged[rows, columns] = diverging[keep]
        lengths[rows, columns] = steps[keep]
        learn = fresh & warming
        made = made + fresh
        if learn.any():
            step.update(learn, mean_acceptance)
            seen = (learn & (made > first_window))[:, None]
            welford_count = welford_count + seen
            offset = u - welford_mean
            welford_mean = welford_mean + seen * offset / welford_count.clamp(min=1)
            welford_square = welford_square + seen * offset * (u - welford_mean)
            closing = learn & ends[made.clamp(max=len(ends) - 1)]
            if closing.any():
                estimate = (welford_square + 5 * variance) / (welford_count + 4)
                variance = where(closing, estimate, variance)
                step.restart(closing, step.average)
                welford_count = where(closing, 0 * welford_count, welford_count)
                welford_mean, welford_square = (
                    where(closing, zeros, value) for value in (welford_mean, welford_square)
                )
        done = int(made.clamp(max=warmup + draws).sum())
        if done - told >= 100 or done == count * (warmup + draws):
            advance(done - told)
            told = done
        if done == count * (warmup + draws):
            return Samples(
                kept, log_density, diverged, acceptance, lengths, step.average.exp()
            )  # fmt: skip
