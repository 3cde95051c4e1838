"""The importance-weighted bound."""

from dataclasses import dataclass
from math import log
from typing import ClassVar, Literal

import torch
from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_choice, check_count
from ppl_vae.densities.resampling import resampled_terms
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.objective import Objective

__all__ = ["IWAE"]


@dataclass(frozen=True)
class IWAE(Objective):
    """-log 1/K sum_k w_k, w_k = p(x, z_k) / q(z_k|x), averaged over a batch.

    Burda, Grosse and Salakhutdinov (2016), equation (8). With v_k = w_k / sum_j w_j held constant,
    the gradients for the guide's parameters phi are

    - plain: sum_k v_k d log w_k / d phi, equation (13) of that paper;
    - stl: the same without the score d log q(z_k|x) / d phi at fixed z_k (Roeder, Wu and Duvenaud,
      2017), whose variance vanishes at the exact posterior; biased for K > 1;
    - dreg: sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi) (Tucker, Lawson, Gu and Maddison, 2018,
      equation 8), unbiased.

    Those for the model's parameters are the same in all three.

    With `resampled` = N these sums are estimated, without bias, from N draws that are chosen in
    proportion to v_k (section 3 of that paper, where N = 1): a mean over them takes the place of
    one factor v_k and the sum. All K draws go forward through the decoder, and only N come back.
    So it saves most where the decoder takes the time, and less where the guide of z_k does, as in
    `Bidirectional`. Layers that draw for each row, as of dropout in the decoder, draw twice.

    Args:
        particles: K, draws of z for each datum.
        gradient: The estimator for the guide.
        resampled: N, how many draws the gradient comes from, to save time; all of them unless
            given, and K or more save none.

    Raises:
        NotImplementedError: In `loss`, if resampled and the guide has a discrete site.
        ValueError: If particles < 1, resampled < 1 or the estimator is unknown.
    """

    through_draws: ClassVar[bool] = True

    particles: int = 50
    gradient: Literal["plain", "stl", "dreg"] = "plain"
    resampled: int | None = None

    def __post_init__(self) -> None:
        check_count("particles", self.particles)
        check_choice("gradient", self.gradient, ("plain", "stl", "dreg"))
        if self.resampled is not None:
            check_count("resampled", self.resampled)

    @property
    def bound_particles(self) -> int:  # type: ignore[override]
        return self.particles

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        guide.check_density("an importance weight")
        options = (self.gradient != "plain", labels)
        if self.resampled is None or not torch.is_grad_enabled():
            terms = log_terms(model, guide, x, self.particles, *options)
            if self.resampled is not None and terms.log_share is not None:
                raise NotImplementedError(
                    "resampled chooses among draws, and the guide takes every class instead of "
                    "drawing one; leave resampled out"
                )
            log_sum = terms.log_sum_exp(terms.log_weights)
        else:
            log_weights, terms = resampled_terms(
                model, guide, x, self.particles, self.resampled, *options
            )
            mean = terms.log_weights.mean(0)
            log_sum = log_weights.logsumexp(0) + (mean - mean.detach())  # the gradient of the mean
        if self.gradient == "dreg" and torch.is_grad_enabled():
            weights = (terms.log_weights - log_sum).detach().exp().unsqueeze(-1)
            for z in terms.latents.values():
                # The gradient through z_k has one factor v_k from the bound; this is the other.
                z.register_hook(lambda gradient: weights * gradient)
        return log(self.particles) - log_sum.mean()
