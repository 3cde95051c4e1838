"""The evidence lower bound with a weight on the rate, and bits for free."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_count, check_flag, check_number
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.estimators import distortion_and_rates
from ppl_vae.objectives.objective import Objective

__all__ = ["Beta"]

_LEAST = 0.01  # nats, so that sites without any rate have weights too


@dataclass(frozen=True)
class Beta(Objective):
    """distortion + beta sum_j max(free_bits, rate_j), averaged over a batch.

    The distortion is -E_q[log p(x|z)] and the rates add up to KL(q(z|x) || p(z)); beta = 1 without
    free bits is the negative ELBO.

    - A constant beta: Higgins et al. (2017), equation (4).
    - Warm-up: beta grows in proportion to the epochs (Bowman et al., 2016, section 3.1; Sonderby et
      al., 2016, section 2.3), and again from 0 in every cycle (Fu et al., 2019, equation 6).
    - Free bits: rate_j is averaged over the batch, then taken to be at least so large (Kingma et
      al., 2016, equation 15). A group j is one dimension of a site where both q and p have
      independent dimensions, as normals with diagonal covariance do, and else the whole site.
    - Balance: during the warm-up the rate of site l counts g_l times, g_l in proportion to the rate
      by dimension of the site and 1 on average: sites that hold much are held back, and those that
      are idle are used (Vahdat and Kautz, 2020, appendix A).

    Args:
        beta: The weight of the rate, once it is warm.
        warmup_epochs: Epochs in which the weight grows from 0 to beta.
        cycle_epochs: Epochs after which the weight is 0 again; 0 for one warm-up only.
        free_bits: What each group may cost for free, in nats per datum.
        analytic_kl: Whether the rates are computed in closed form rather than from draws of z.
        particles: Draws of z for each datum.
        balance: Whether sites are balanced while the weight is below beta.

    Raises:
        ValueError: If a number is negative, particles < 1, a cycle is shorter than its warm-up, or
            there is no warm-up to balance in.
    """

    through_draws: ClassVar[bool] = True

    beta: float = 1.0
    warmup_epochs: float = 0.0
    cycle_epochs: float = 0.0
    free_bits: float = 0.0
    analytic_kl: bool = False
    particles: int = 1
    balance: bool = False

    def __post_init__(self) -> None:
        for name in ("beta", "warmup_epochs", "cycle_epochs", "free_bits"):
            check_number(name, getattr(self, name), least=0)
        if self.cycle_epochs and not 0 < self.warmup_epochs <= self.cycle_epochs:
            raise ValueError(
                "expected warmup_epochs above 0 and at most cycle_epochs "
                f"{self.cycle_epochs}; got {self.warmup_epochs}"
            )
        check_count("particles", self.particles)
        check_flag("balance", self.balance)
        if self.balance and not self.warmup_epochs:
            raise ValueError("expected warmup_epochs above 0 with balance, which ends with them")
        check_flag("analytic_kl", self.analytic_kl)

    def schedule(self, epoch: float) -> dict[str, float]:
        """The weight of the rate, `beta`: min(1, epoch in the cycle / warmup_epochs) beta."""
        since = epoch % self.cycle_epochs if self.cycle_epochs else epoch
        warm = min(1.0, since / self.warmup_epochs) if self.warmup_epochs else 1.0
        return {"beta": warm * self.beta}

    def loss(
        self,
        model: Model,
        guide: Guide,
        x: Tensor,
        labels: Tensor | None = None,
        beta: Tensor | float | None = None,
    ) -> Tensor:
        """The loss; without the scheduled `beta`, that at the end of the warm-up."""
        beta = self.beta if beta is None else beta
        if not (self.free_bits or self.analytic_kl or self.balance):
            terms = log_terms(model, guide, x, self.particles, labels=labels)
            weighted = beta * (terms.log_guide - terms.log_prior) - terms.log_likelihood
            return terms.sum(weighted).mean() / self.particles
        batch = (x,) if labels is None else (x, labels)
        distortion, rates = distortion_and_rates(
            model, guide, batch, self.particles, self.analytic_kl
        )
        if not self.balance:
            every = torch.cat([*rates.values()])
            return distortion + beta * every.clamp(min=self.free_bits).sum()
        # A rate from draws may be negative, and without free bits it stays so.
        least = self.free_bits or -inf
        sites = torch.stack([rate.clamp(min=least).sum() for rate in rates.values()])
        warm = torch.as_tensor(beta) >= self.beta
        weights = torch.where(warm, 1.0, _balancing(list(rates.values())))
        return distortion + beta * (weights * sites).sum()


def _balancing(rates: list[Tensor]) -> Tensor:
    """g_l for the rates of L sites, each (G,), without a gradient; (L,), with a sum of L."""
    shares = torch.stack([(rate.sum().abs() + _LEAST) / rate.numel() for rate in rates]).detach()
    return len(rates) * shares / shares.sum()
