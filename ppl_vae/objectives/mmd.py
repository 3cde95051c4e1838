"""The evidence lower bound with the aggregate posterior pulled to the prior."""

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Literal

import torch
from pyro import poutine
from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_choice, check_number
from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives.objective import Objective

__all__ = ["MMD", "squared_discrepancy"]


@dataclass(frozen=True)
class MMD(Objective):
    """distortion + (1 - alpha) rate + weight MMD^2(q(z), p(z)) over the minibatch.

    Zhao, Song and Ermon (2019), equation (6), InfoVAE; with alpha = 1 the rate is gone, which is
    the WAE-MMD of Tolstikhin et al. (2018), algorithm 2, and a guide may be a point. MMD^2 is the
    maximum mean discrepancy between the batch's z, one for each datum, and as many draws from the
    prior, which compares the *aggregate* posterior q(z) with p(z). The sites of a model that has
    several are compared jointly. The discrepancy is no number of nats; its weight makes it one.

    The kernel of a distance r is exp(-r^2 / bandwidth^2) (`normal`), or
    bandwidth^2 / (bandwidth^2 + r^2) (`inverse_multiquadratic`), whose heavy tails also move a z
    that is far from the prior.

    Args:
        weight: The weight of MMD^2, alpha + lambda - 1 in Zhao et al.
        alpha: How much of the rate is left out, at most 1.
        kernel: The kernel.
        bandwidth: Its width, in units of z; by default sqrt(2 D), the typical distance between two
            draws from N(0, I).

    Raises:
        ValueError: If weight < 0, alpha > 1, the kernel is unknown or bandwidth <= 0.
    """

    through_draws: ClassVar[bool] = True
    smallest_batch: ClassVar[int] = 2

    weight: float = 100.0
    alpha: float = 1.0
    kernel: Literal["normal", "inverse_multiquadratic"] = "inverse_multiquadratic"
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        check_number("weight", self.weight, least=0)
        check_number("alpha", self.alpha, most=1)
        check_choice("kernel", self.kernel, ("normal", "inverse_multiquadratic"))
        if self.bandwidth is not None:
            check_number("bandwidth", self.bandwidth, above=0)

    def loss(self, model: Model, guide: Guide, x: Tensor) -> Tensor:
        terms = log_terms(model, guide, x, 1)
        terms.check_draws("the discrepancy")
        drawn: dict[str, Any] = dict(poutine.trace(model).get_trace(x).nodes)
        for name in (*model.latents, *model.enumerated):
            if self.alpha == 1 and not drawn[name]["fn"].has_rsample:
                raise NotImplementedError(
                    f"draws of {name!r} from the prior carry no gradient, so that with alpha = 1 "
                    "nothing would train it; take alpha below 1"
                )
        posterior = torch.cat([terms.latents[name][0] for name in model.latents], -1)
        prior = torch.cat([drawn[name]["value"] for name in model.latents], -1)
        bandwidth = self.bandwidth or sqrt(2 * posterior.shape[-1])
        discrepancy = squared_discrepancy(posterior, prior, self.kernel, bandwidth)
        loss = self.weight * discrepancy - terms.log_likelihood.mean()
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * (terms.log_guide - terms.log_prior).mean()
        return loss


def squared_discrepancy(first: Tensor, second: Tensor, kernel: str, bandwidth: float) -> Tensor:
    """The unbiased estimate of MMD^2 from two samples; Gretton et al. (2012), equation (3).

    1/(n (n - 1)) sum_{i != j} [k(a_i, a_j) + k(b_i, b_j)] - 2/n^2 sum_{i, j} k(a_i, b_j). It may
    be below 0. Of one draw each there are no pairs, and the first sum is 0.

    Args:
        first: a, (n, D).
        second: b, (n, D).
        kernel: `normal` or `inverse_multiquadratic`.
        bandwidth: Its width.
    """
    count = len(first)
    points = torch.cat([first, second])
    norms = points.square().sum(-1)
    squares = (norms[:, None] + norms - 2 * points @ points.mT).clamp(min=0) / bandwidth**2
    values = (-squares).exp() if kernel == "normal" else 1 / (1 + squares)
    within = values[:count, :count].sum() + values[count:, count:].sum() - values.trace()
    between = values[:count, count:].sum()
    return within / max(1, count * (count - 1)) - 2 * between / count**2
