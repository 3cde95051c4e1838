"""The variational Renyi bound."""

from dataclasses import dataclass
from math import log
from typing import ClassVar

from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_count, check_number
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.objective import Objective

__all__ = ["Renyi"]


@dataclass(frozen=True)
class Renyi(Objective):
    """-1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha), w_k = p(x, z_k) / q(z_k|x), per datum.

    Li and Turner (2016), equations (10) and (14), the average over a batch of a bound for each
    datum. With many particles it tends to log p(x) - D_alpha(q(z|x) || p(z|x)), D_alpha being
    Renyi's divergence, and falls with alpha: 0 is `IWAE`, 1 the `ELBO` (the limit, taken exactly),
    and alpha < 0 tends to an upper bound on log p(x), though K particles may lie below it.

    Args:
        alpha: The order of the divergence.
        particles: K, draws of z for each datum.

    Raises:
        ValueError: If alpha is not finite or particles < 1.
    """

    through_draws: ClassVar[bool] = True

    alpha: float = 0.5
    particles: int = 50

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha)
        check_count("particles", self.particles)

    @property
    def bound_particles(self) -> int:  # type: ignore[override]
        return self.particles if self.alpha == 0 else 1

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        guide.check_density("an importance weight")
        terms = log_terms(model, guide, x, self.particles, labels=labels)
        if self.alpha == 1:
            return -terms.sum(terms.log_weights).mean() / self.particles
        power = 1 - self.alpha
        tilted = terms.log_sum_exp(power * terms.log_weights) - log(self.particles)
        return -(tilted / power).mean()
