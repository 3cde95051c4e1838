"""Latents as vectors of real numbers without constraints, where Hamiltonian dynamics can move."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions.transforms import Transform

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import Latents
from ppl_vae.densities.structure import bijection

__all__ = ["Unconstrained"]


@dataclass(frozen=True)
class Unconstrained:
    """The pair's densities over u (K, B, D), all latents of a datum in one vector.

    z = T(u) with T the standard bijection onto the support of each site's prior; densities of u
    have the Jacobian, so that differences of two of them are those of z.
    """

    joint: Joint
    transforms: dict[str, Transform]

    @classmethod
    def of(cls, joint: Joint) -> "Unconstrained":
        """Reads the supports off the model's priors.

        Raises:
            InputError: If a support is not known to have a bijection from the reals.
        """
        return cls(joint, {name: bijection(name, joint.priors[name]) for name in joint.sites})

    def __getitem__(self, rows: slice | Tensor) -> "Unconstrained":
        return replace(self, joint=self.joint[rows])

    def pack(self, latents: Latents) -> Tensor:
        """u (K, B, D) of latents (K, B, ...)."""
        parts = [self.transforms[name].inv(latents[name]) for name in self.joint.sites]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], -1)

    def unpack(self, u: Tensor) -> Latents:
        """Latents (K, B, ...) of u (K, B, D)."""
        return self._transform(u)[0]

    def draw_guide(self, particles: int) -> Tensor:
        """u (K, B, D) from q(z|x)."""
        return self.pack(self.joint.draw(particles)[0])

    def draw_prior(self, particles: int) -> Tensor:
        """u (K, B, D) from p(z)."""
        return self.pack(self.joint.generate(particles))

    def log_terms(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log-density of u under the prior, and log p(x|z), each (K, B) in nats."""
        latents, log_jacobian = self._transform(u)
        log_prior, log_likelihood = self.joint.log_terms(latents)
        return log_prior + log_jacobian, log_likelihood

    def log_guide(self, u: Tensor) -> Tensor:
        """log-density of u under the guide, (K, B) in nats."""
        latents, log_jacobian = self._transform(u)
        return self.joint.log_guide(latents) + log_jacobian

    def _transform(self, u: Tensor) -> tuple[Latents, Tensor]:
        latents, log_jacobian, start = {}, u.new_zeros(u.shape[:2]), 0
        for name, event in self.joint.sites.items():
            transform = self.transforms[name]
            shape = torch.Size(transform.inverse_shape(event))
            part = u[..., start : start + shape.numel()].reshape(*u.shape[:2], *shape)
            start += shape.numel()
            latents[name] = transform(part)
            terms = transform.log_abs_det_jacobian(part, latents[name])
            log_jacobian = log_jacobian + terms.reshape(*u.shape[:2], -1).sum(-1)
        return latents, log_jacobian
