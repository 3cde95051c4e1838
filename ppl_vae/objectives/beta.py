"""The evidence lower bound with a weight on the rate, and bits for free."""

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent

from guides import Guide
from models import Model
from models.ranges import check_count, check_flag, check_number
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.estimators import closed_form_kl
from ppl_vae.objectives.objective import Objective

__all__ = ["Beta"]


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

    Args:
        beta: The weight of the rate, once it is warm.
        warmup_epochs: Epochs in which the weight grows from 0 to beta.
        cycle_epochs: Epochs after which the weight is 0 again; 0 for one warm-up only.
        free_bits: What each group may cost for free, in nats per datum.
        analytic_kl: Whether the rates are computed in closed form rather than from draws of z.
        particles: Draws of z for each datum.

    Raises:
        ValueError: If a number is negative, particles < 1, or a cycle is shorter than its warm-up.
    """

    beta: float = 1.0
    warmup_epochs: float = 0.0
    cycle_epochs: float = 0.0
    free_bits: float = 0.0
    analytic_kl: bool = False
    particles: int = 1

    def __post_init__(self) -> None:
        for name in ("beta", "warmup_epochs", "cycle_epochs", "free_bits"):
            check_number(name, getattr(self, name), least=0)
        if self.cycle_epochs and not 0 < self.warmup_epochs <= self.cycle_epochs:
            raise ValueError(
                "expected warmup_epochs above 0 and at most cycle_epochs "
                f"{self.cycle_epochs}; got {self.warmup_epochs}"
            )
        check_count("particles", self.particles)
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
        if not (self.free_bits or self.analytic_kl):
            terms = log_terms(model, guide, x, self.particles, labels=labels)
            weighted = beta * (terms.log_guide - terms.log_prior) - terms.log_likelihood
            return terms.sum(weighted).mean() / self.particles
        if model.labelled or model.enumerated:
            raise NotImplementedError(
                "free bits and a closed-form KL are of z alone, and the model has classes; leave "
                "free_bits and analytic_kl out"
            )
        distortion, rates = _distortion_and_rates(model, guide, x, self.particles, self.analytic_kl)
        return distortion + beta * torch.cat(rates).clamp(min=self.free_bits).sum()


def _distortion_and_rates(
    model: Model, guide: Guide, x: Tensor, particles: int, analytic_kl: bool
) -> tuple[Tensor, list[Tensor]]:
    """Averages over the batch: the distortion (), and of each site the rates of its groups (G,)."""
    plate = pyro.plate("particles", particles, dim=-2)
    with plate:
        guide_trace = poutine.trace(guide).get_trace(x)
    with plate:
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
    sampled = [name for name in guide_trace.nodes if name in model.latents]
    if analytic_kl and sampled != [name for name in model_trace.nodes if name in model.latents]:
        raise NotImplementedError(
            "a closed-form KL needs a guide that samples its sites in the model's order; leave "
            "analytic_kl out"
        )
    observed: Any = model_trace.nodes["x"]
    distortion = -observed["fn"].log_prob(observed["value"]).mean()
    rates = []
    for name in sampled:
        site: Any = guide_trace.nodes[name]
        prior: Any = model_trace.nodes[name]
        q, p = _groups(site["fn"], prior["fn"])
        if analytic_kl:
            rate = closed_form_kl(name, q, p)
        else:
            rate = q.log_prob(site["value"]) - p.log_prob(site["value"])
        rates.append(rate.expand(particles, len(x), *rate.shape[2:]).mean((0, 1)).flatten())
    return distortion, rates


def _groups(q: Distribution, p: Distribution) -> tuple[Distribution, Distribution]:
    """The two dimension by dimension where both have independent ones, else as they are."""
    single = []
    for distribution in (q, p):
        while isinstance(distribution, Independent):
            distribution = distribution.base_dist
        single.append(distribution)
    whole = any(distribution.event_shape for distribution in single)
    return (q, p) if whole else (single[0], single[1])
