"""A path of distributions from a start to p(x, z), and Hamiltonian moves along it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from ppl_vae.compiler.tracing import traced
from ppl_vae.densities.unconstrained import Unconstrained

__all__ = ["Annealing"]

_ACCEPTANCE = 0.65  # which is best for HMC in many dimensions; Neal (2011)
_STEEPNESS = 4.0  # of the sigmoid that temperatures follow; Wu et al. (2017), appendix
_PILOT = 4  # every so many temperatures are enough to find step sizes
_BURN_IN = 20
_GUESSES = 100  # draws that the variances at both ends come from
_GAIN = 0.2  # change of log step size for a unit of acceptance too much


@dataclass(frozen=True)
class Annealing:
    """The distributions between a start and the joint, and how to move in them."""

    target: Unconstrained
    start: str
    betas: Tensor
    leapfrog_steps: int
    variances: tuple[Tensor, Tensor]  # of u at both ends, (B, D): metrics between follow from them
    ends: Callable[[Tensor], tuple[Tensor, ...]]

    @classmethod
    def between(
        cls,
        target: Unconstrained,
        start: str,
        temperatures: int,
        leapfrog_steps: int,
        chains: int,
    ) -> "Annealing":
        draws = max(chains, _GUESSES)
        posterior = target.draw_guide(draws)
        prior = posterior if start == "guide" else target.draw_prior(draws)
        place = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64)
        betas = place.sigmoid()
        betas = (betas - betas[0]) / (betas[-1] - betas[0])

        def ends(u: Tensor) -> tuple[Tensor, ...]:
            """Log-densities at the start and at the joint, (2, C, B); gradients (2, C, B, D)."""
            u = u.detach().requires_grad_()
            with torch.enable_grad():
                log_prior, log_likelihood = target.log_terms(u)
                first = log_prior if start == "prior" else target.log_guide(u)
                last = log_prior + log_likelihood
                (slope,) = torch.autograd.grad(first.sum(), u, retain_graph=True)
                (slope_last,) = torch.autograd.grad(last.sum(), u)
            return torch.stack([first, last]).detach(), torch.stack([slope, slope_last])

        graph = traced(ends, posterior[:chains], prior[:chains].flip(0))
        return cls(target, start, betas, leapfrog_steps, (prior.var(0), posterior.var(0)), graph)

    def begin(self, chains: int) -> Tensor:
        if self.start == "prior":
            return self.target.draw_prior(chains)
        return self.target.draw_guide(chains)

    def move(
        self, u: Tensor, values: Tensor, slopes: Tensor, beta: float, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One transition of HMC under f_beta; Neal (2011). Returns the acceptance too."""
        mix = torch.tensor([1 - beta, beta]).to(u)
        variance = 1 / ((1 - beta) / self.variances[0] + beta / self.variances[1])
        step = size.to(u)[:, None]
        r = torch.randn_like(u) / variance.sqrt()
        new, new_values, new_slopes = u, values, slopes
        begin = torch.tensordot(mix, values, 1) - (variance * r * r).sum(-1) / 2
        for _ in range(self.leapfrog_steps):
            r = r + 0.5 * step * torch.tensordot(mix, new_slopes, 1)
            new = new + step * variance * r
            new_values, new_slopes = self.ends(new)
            r = r + 0.5 * step * torch.tensordot(mix, new_slopes, 1)
        end = torch.tensordot(mix, new_values, 1) - (variance * r * r).sum(-1) / 2
        probability = (end - begin).clamp(max=0).exp().nan_to_num(0)
        accept = torch.rand_like(probability) < probability
        return (
            torch.where(accept[..., None], new, u),
            torch.where(accept, new_values, values),
            torch.where(accept[..., None], new_slopes, slopes),
            probability,
        )

    def find_step_sizes(self, chains: int) -> Tensor:
        """A step size for each temperature and datum, (T + 1, B), by a shorter run."""
        u = self.begin(chains)
        values, slopes = self.ends(u)
        log_size = values.new_full((values.shape[-1],), log(u.shape[-1] ** -0.25))
        found = []
        numbers = [0] * _BURN_IN + list(range(0, len(self.betas), _PILOT))
        for number in numbers:
            beta = float(self.betas[number])
            u, values, slopes, probability = self.move(u, values, slopes, beta, log_size.exp())
            log_size = log_size + _GAIN * (probability.mean(0) - _ACCEPTANCE)
            found.append(log_size)
        sizes = torch.stack(found[_BURN_IN:]).exp()
        return sizes.repeat_interleave(_PILOT, 0)[: len(self.betas)]

    def anneal(
        self,
        u: Tensor,
        sizes: Tensor,
        advance: Callable[[int], None],
        backwards: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log w, (C, B) float64, the mean acceptance (B,) of a run along the path, and its end."""
        values, slopes = self.ends(u)
        log_weights = torch.zeros_like(values[0], dtype=torch.float64)
        acceptance = torch.zeros_like(log_weights[0])
        count = len(self.betas) - 1
        order = range(count, 0, -1) if backwards else range(count)
        for number in order:
            following = number - 1 if backwards else number + 1
            change = float(self.betas[following] - self.betas[number])
            log_weights += change * (values[1].double() - values[0].double())
            beta = float(self.betas[following])
            if following not in (0, count):
                u, values, slopes, probability = self.move(
                    u, values, slopes, beta, sizes[following]
                )
                acceptance += probability.mean(0) / max(1, count - 1)
            advance(1)
        return log_weights, acceptance, u
