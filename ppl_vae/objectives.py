"""Objectives: what stochastic variational inference minimises."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.estimators import TensorTraceELBO, TensorTraceMeanFieldELBO
from ppl_vae.importance import log_terms

__all__ = ["ELBO", "IWAE", "Objective"]


@dataclass(frozen=True)
class Objective(ABC):
    """A loss for a model/guide pair; its fields are its options."""

    @abstractmethod
    def loss(self, model: Model, guide: Guide, *batch: Any, **scheduled: Any) -> Tensor:
        """The loss to minimise.

        Args:
            model: p(x, z).
            guide: q(z|x).
            *batch: What the programs take: images x (B, C, H, W), and labels y (B,) where the
                model is one of labelled images.
            **scheduled: What `schedule` names, as scalars.

        Returns:
            A scalar in nats per datum whose gradient is the estimator to follow.
        """

    def schedule(self, epoch: float) -> dict[str, float]:
        """The numbers in the loss that change during training, by name; none unless said.

        Args:
            epoch: Passes over the training images done so far, with a fraction.
        """
        return {}


@dataclass(frozen=True)
class ELBO(Objective):
    """The negative evidence lower bound, -E_q[log p(x, z) - log q(z|x)], averaged over a batch.

    Kingma and Welling (2014), equations (2) and (3): the estimators L^A (Pyro's `Trace_ELBO`)
    and, with a closed-form KL term, L^B (`TraceMeanField_ELBO`). Classes that a model sums out are
    summed out here too (`TraceEnum_ELBO`).

    Args:
        particles: Draws of z for each datum.
        analytic_kl: Whether KL(q(z|x) || p(z)) is computed in closed form.

    Raises:
        ValueError: If particles < 1.
    """

    particles: int = 1
    analytic_kl: bool = False

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"expected particles >= 1; got {self.particles}")

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if model.enumerated:
            if self.analytic_kl:
                reason = "a KL with classes that are summed out has no closed form"
                raise NotImplementedError(reason)
            terms = log_terms(model, guide, x, self.particles, labels=labels)
            return -terms.sum(terms.log_weights).mean() / self.particles
        estimator = TensorTraceMeanFieldELBO if self.analytic_kl else TensorTraceELBO
        # One plate, `data` at dim -1: told, Pyro need not run the pair once more to guess it.
        elbo = estimator(
            num_particles=self.particles,
            vectorize_particles=self.particles > 1,
            max_plate_nesting=1,
        )
        batch = (x,) if labels is None else (x, labels)
        return elbo.differentiable_loss(model, guide, *batch) / len(x)


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

    Args:
        particles: K, draws of z for each datum.
        gradient: The estimator for the guide.

    Raises:
        ValueError: If particles < 1 or the estimator is unknown.
    """

    particles: int = 50
    gradient: Literal["plain", "stl", "dreg"] = "plain"

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"expected particles >= 1; got {self.particles}")
        if self.gradient not in ("plain", "stl", "dreg"):
            raise ValueError(f"expected gradient of plain, stl, dreg; got {self.gradient!r}")

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        stop_guide = self.gradient != "plain"
        terms = log_terms(model, guide, x, self.particles, stop_guide, labels)
        if self.gradient == "dreg" and torch.is_grad_enabled():
            weights = terms.log_weights.detach().softmax(0).unsqueeze(-1)
            for z in terms.latents.values():
                # What comes back through z_k has one factor v_k from the bound; this is the other.
                z.register_hook(lambda gradient: weights * gradient)
        bound = terms.log_sum_exp(terms.log_weights) - log(self.particles)
        return -bound.mean()
