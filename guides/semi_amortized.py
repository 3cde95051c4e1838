"""Variational parameters from a network, improved for each datum by gradient steps."""

from collections.abc import Callable
from inspect import signature

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.diagonal_normal import DiagonalNormal
from guides.guide import Guide
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.ranges import check_count, check_flag, check_number
from models.spec import Spec

__all__ = ["SemiAmortized"]


class SemiAmortized(Guide):
    """q(z|x) = q(z; lambda_K), lambda_(k+1) = lambda_k + a d ELBO(x; lambda_k) / d lambda_k.

    Kim, Wiseman, Miller, Sontag and Rush (2018), algorithm 1: lambda_0 is what another guide's
    network gives for x, and each datum climbs its own ELBO, estimated from fresh draws of z.

    Args:
        spec: The data's shape and domain, and D.
        model: The model whose ELBO it climbs.
        network: The architecture of the other guide's encoder.
        guide: The other guide, which has to have `encode` and `posterior_of`.
        steps: K; 0 is the other guide itself.
        step_size: a.
        max_norm: A datum's gradient that is longer is scaled down to this length.
        particles: Draws of z for each datum in each step.
        through_steps: Whether training follows how lambda_K depends on the parameters through the
            steps as well, by second derivatives, as in the paper; otherwise the steps count as
            given.

    Raises:
        ValueError: If a number is out of range, the model has several latent sites or labels, or
            the other guide's q(z|x) is not one distribution with parameters computed from x.
    """

    def __init__(
        self,
        spec: Spec,
        model: Model,
        network: NetworkFactory = MLP,
        guide: Callable[..., Guide] = DiagonalNormal,
        steps: int = 5,
        step_size: float = 0.1,
        max_norm: float = 5.0,
        particles: int = 1,
        through_steps: bool = True,
    ) -> None:
        super().__init__(spec)
        check_count("steps", steps, least=0)
        check_number("step_size", step_size, above=0)
        check_number("max_norm", max_norm, above=0)
        check_count("particles", particles)
        check_flag("through_steps", through_steps)
        if model.latents != ("z",) or model.labelled:
            raise ValueError(
                f"expected a model of images x with the one latent site z; "
                f"{type(model).__name__} has {', '.join(model.latents)}"
                f"{' and labels' if model.labelled else ''}"
            )
        if not callable(guide):
            raise ValueError(f"expected guide, the class of another guide; got {guide!r}")
        available = {"network": network, "model": model}
        wanted = {k: v for k, v in available.items() if k in signature(guide).parameters}
        self.guide = guide(spec, **wanted)
        if type(self.guide).encode is Guide.encode:
            raise ValueError(
                "expected a guide whose q(z|x) is one distribution with parameters computed from "
                f"x, such as DiagonalNormal; got {type(self.guide).__name__}"
            )
        self.has_density = self.guide.has_density
        self.joint = model.__call__
        self.steps = steps
        self.step_size = step_size
        self.max_norm = max_norm
        self.particles = particles
        self.through_steps = through_steps

    def encode(self, x: Tensor) -> Tensor:
        features = climbed = self.guide.encode(x)
        follow = self.through_steps and torch.is_grad_enabled()
        with torch.enable_grad(), poutine.block():
            for _ in range(self.steps):
                climbed = climbed if follow and climbed.requires_grad else climbed.detach()
                climbed.requires_grad_()
                (gradient,) = torch.autograd.grad(
                    self._elbo(climbed, x), climbed, create_graph=follow
                )
                norm = gradient.norm(dim=-1, keepdim=True)
                gradient = gradient * (self.max_norm / norm.clamp(min=self.max_norm))
                climbed = climbed + self.step_size * gradient
        if not torch.is_grad_enabled():
            return climbed.detach()
        return climbed if follow else features + (climbed - features).detach()

    def _elbo(self, features: Tensor, x: Tensor) -> Tensor:
        """The ELBO, averaged over draws and summed over the data, which share nothing."""
        posterior = self.guide.posterior_of(features)
        z = posterior.rsample(torch.Size((self.particles,)))
        joint = poutine.trace(poutine.condition(self.joint, data={"z": z})).get_trace(x)
        return (joint.log_prob_sum() - posterior.log_prob(z).sum()) / self.particles

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        return self.guide.posterior_of(features)

    def amortized_posterior(self, x: Tensor) -> TorchDistribution:
        return self.guide.amortized_posterior(x)

    def forward(self, x: Tensor) -> Tensor:
        posterior = self.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", posterior)
