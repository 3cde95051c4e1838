"""What chains learn in warm-up: a step size and a diagonal metric each."""

from math import log

import torch
from torch import Tensor

__all__ = ["Metric", "StepSize"]

_SHRINKAGE, _KAPPA, _OFFSET = 0.05, 0.75, 10  # gamma, kappa and t_0 of the paper
_REGULARISED = 5  # draws that the metric before counts for


class StepSize:
    """Dual averaging towards an acceptance; Hoffman and Gelman (2014), algorithm 6.

    Args:
        start: The first step size of each chain, (N,).
        target: The mean acceptance aimed at.

    Attributes:
        log_step: What to use in warm-up, (N,).
        average: What to use afterwards, (N,), a logarithm too.
    """

    def __init__(self, start: Tensor, target: float) -> None:
        self.target = target
        self.log_step = start.log()
        self.average = self.log_step.clone()
        self.centre = self.log_step + log(10)
        self.error = torch.zeros_like(start)
        self.count = torch.zeros_like(start)

    def update(self, where: Tensor, acceptance: Tensor) -> None:
        """Learns from the acceptances of the chains that `where` names."""
        count = self.count + 1
        weight = 1 / (count + _OFFSET)
        error = (1 - weight) * self.error + weight * (self.target - acceptance)
        log_step = self.centre - count.sqrt() / _SHRINKAGE * error
        average = self.average.lerp(log_step, count**-_KAPPA)
        self.count = torch.where(where, count, self.count)
        self.error = torch.where(where, error, self.error)
        self.log_step = torch.where(where, log_step, self.log_step)
        self.average = torch.where(where, average, self.average)

    def restart(self, where: Tensor) -> None:
        """Begins again from the averages, where the metric has changed."""
        self.log_step = torch.where(where, self.average, self.log_step)
        self.centre = torch.where(where, self.average + log(10), self.centre)
        self.error = self.error.masked_fill(where, 0)
        self.count = self.count.masked_fill(where, 0)


class Metric:
    """Variances of u by Welford's sums, over windows that double, as in Stan.

    Args:
        variance: The first guess, (N, D).
        warmup: How many draws there are to learn from.

    Attributes:
        variance: The estimate, (N, D): the inverse of the mass matrix's diagonal.
    """

    def __init__(self, variance: Tensor, warmup: int) -> None:
        self.variance = variance
        self.first, ends = _windows(warmup)
        self.ends = torch.zeros(warmup + 1, dtype=torch.bool, device=variance.device)
        self.ends[ends] = True
        self.count = torch.zeros_like(variance[:, :1])
        self.mean = torch.zeros_like(variance)
        self.squares = torch.zeros_like(variance)

    def update(self, where: Tensor, made: Tensor, u: Tensor) -> Tensor:
        """Learns from u (N, D), the `made`-th draws of chains; gives which metrics changed."""
        seen = (where & (made > self.first))[:, None]
        self.count = self.count + seen
        offset = u - self.mean
        self.mean = self.mean + seen * offset / self.count.clamp(min=1)
        self.squares = self.squares + seen * offset * (u - self.mean)
        closing = where & self.ends[made.clamp(max=len(self.ends) - 1)]
        wide = closing[:, None]
        estimate = (self.squares + _REGULARISED * self.variance) / (
            self.count - 1 + _REGULARISED
        ).clamp(min=1)
        self.variance = torch.where(wide, estimate, self.variance)
        for value in (self.count, self.mean, self.squares):
            value.masked_fill_(wide, 0)
        return closing


def _windows(warmup: int) -> tuple[int, list[int]]:
    """Draws before the first window, and the draws at which windows end."""
    if warmup < 20:
        return warmup, []
    first, last, width = 75, 50, 25
    if warmup < first + last + width:
        first, last = int(0.15 * warmup), int(0.35 * warmup)  # a step size needs some twenty
        width = warmup - first - last
    ends, end = [], first
    while end < warmup - last:
        end, width = end + width, 2 * width
        if end + width > warmup - last:
            end = warmup - last
        ends.append(end)
    return first, ends
