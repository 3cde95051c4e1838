"""The evidence lower bound."""

from dataclasses import dataclass

import torch
from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_count, check_flag
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.estimators import TensorTraceELBO, distortion_and_rates
from ppl_vae.objectives.objective import Objective

__all__ = ["ELBO"]


@dataclass(frozen=True)
class ELBO(Objective):
    """The negative evidence lower bound, -E_q[log p(x, z) - log q(z|x)], averaged over a batch.

    Kingma and Welling (2014), equations (2) and (3), by the estimators L^A of equation (6) (Pyro's
    `Trace_ELBO`) and, with a closed-form KL term, L^B of (7) (`TraceMeanField_ELBO`). Classes that
    a model sums out are summed out here too (`TraceEnum_ELBO`).

    Args:
        particles: Draws of z for each datum.
        analytic_kl: Whether KL(q(z|x) || p(z)) is computed in closed form.

    Raises:
        ValueError: If particles < 1, or a value is of the wrong type.
    """

    particles: int = 1
    analytic_kl: bool = False

    def __post_init__(self) -> None:
        check_count("particles", self.particles)
        check_flag("analytic_kl", self.analytic_kl)

    @property
    def through_draws(self) -> bool:  # type: ignore[override]
        return self.analytic_kl

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        batch = (x,) if labels is None else (x, labels)
        if self.analytic_kl:
            distortion, rates = distortion_and_rates(model, guide, batch, self.particles, True)
            return distortion + torch.cat([*rates.values()]).sum()
        if model.enumerated:
            terms = log_terms(model, guide, x, self.particles, labels=labels)
            return -terms.sum(terms.log_weights).mean() / self.particles
        # One plate, `data` at dim -1: without max_plate_nesting Pyro runs the pair to count plates.
        elbo = TensorTraceELBO(
            num_particles=self.particles,
            vectorize_particles=self.particles > 1,
            max_plate_nesting=1,
        )
        return elbo.differentiable_loss(model, guide, *batch) / len(x)
