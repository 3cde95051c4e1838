"""The gradient of the bound without the reparameterisation."""

from dataclasses import dataclass
from typing import Any, Literal

from pyro.poutine.messenger import Messenger
from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_choice, check_count
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.objective import Objective

__all__ = ["ScoreFunction"]


@dataclass(frozen=True)
class ScoreFunction(Objective):
    """The negative ELBO, with the score-function (REINFORCE) gradient for the guide.

    With z_1, ..., z_K ~ q(z|x) held constant and w_k = p(x, z_k) / q(z_k|x), the guide's gradient
    is that of

        1/K sum_k (log w_k - b_k) log q(z_k|x),   log w_k - b_k held constant

    (Williams, 1992; Paisley, Blei and Jordan, 2012, equation 4; the "naive" estimator of Kingma and
    Welling, 2014, section 2.2). It has the mean of the reparameterised gradient and far more
    variance, and needs no reparameterisation. The baseline b_k changes the variance alone:

    - none: b_k = 0;
    - leave_one_out: b_k is the mean of log w_j over j != k, another draw's guess at the same datum
      (Mnih and Rezende, 2016, section 2.5; Kool, van Hoof and Welling, 2019, equation 7).

    Args:
        particles: K, draws of z for each datum.
        baseline: The number that is subtracted from log w_k.

    Raises:
        ValueError: If particles < 1, or < 2 with the baseline leave_one_out, or the baseline is
            unknown.
    """

    particles: int = 5
    baseline: Literal["none", "leave_one_out"] = "leave_one_out"

    def __post_init__(self) -> None:
        check_choice("baseline", self.baseline, ("none", "leave_one_out"))
        check_count("particles", self.particles)
        fewest = 1 if self.baseline == "none" else 2
        if self.particles < fewest:
            raise ValueError(
                f"expected particles >= {fewest} with baseline {self.baseline}; "
                f"got {self.particles}"
            )

    def loss(self, model: Model, guide: Guide, x: Tensor) -> Tensor:
        guide.check_density("the score of q(z|x)")
        with _Held():
            terms = log_terms(model, guide, x, self.particles)
        terms.check_draws("the score-function estimator")
        log_weights = terms.log_weights.detach()
        signal = log_weights
        if self.baseline == "leave_one_out":
            others = (log_weights.sum(0) - log_weights) / (self.particles - 1)
            signal = log_weights - others
        surrogate = terms.log_prior + terms.log_likelihood + signal * terms.log_guide
        # The value is the bound, the gradient the surrogate's.
        return -(log_weights + surrogate - surrogate.detach()).mean()


class _Held(Messenger):
    """Keeps gradients from coming through a draw, in the density of the draw itself too."""

    def _pyro_post_sample(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()
