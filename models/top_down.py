"""Many groups of latents on feature maps that grow towards the image."""

from dataclasses import replace
from math import prod
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.feature_maps import Groups, Size, map_shape, map_sizes, mapped, usual_groups
from models.likelihoods.default import default_likelihood
from models.likelihoods.likelihood import Likelihood
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import bounded_normal_of
from models.priors.prior import Prior
from models.priors.standard_normal import StandardNormal
from models.ranges import check_count
from models.sharing import shared
from models.spec import Spec

__all__ = ["TopDown", "of_groups"]


class TopDown(Model):
    """p(x, z) = p(z1) prod_l p(z_l | z_<l) p(x | z), z_l a group of latents on a feature map.

    The state s_l = (h_l, a_l) above group l holds features h_l, on which all of z_<l has left its
    mark, and the parameters a_l of the normal p(z_l | z_<l). With a network f_l,

        s_2 = f_1(z_1),   s_(l+1) = (up(h_l), 0) + f_l(h_l, z_l),   p(x | z) from f_L(h_L, z_L).

    up repeats each value where the map grows, so that h reaches the image by a path without
    networks: the skip connections of Child (2021), section 3. The hierarchy is that of Vahdat and
    Kautz (2020), section 3. One group at 1 x 1 is a `VAE` with the decoder f_1.

    Args:
        spec: The data's shape and domain; `latent_dim` is C, the channels of z in each group.
        prior: p(z1); a standard normal by default.
        likelihood: p(x|z); by default Bernoulli for binary and Gaussian for real data.
        network: Builds f_l from its input and output shapes: `Cells`, or `MLP` on small maps.
        groups: How many groups at which size, as pairs, from the top down. A size is the height of
            a map, and 1 is 1 x 1. By default one at 1 x 1, and two each at a quarter and a half of
            the image, where it divides.
        width: The channels of h.

    Raises:
        ValueError: If a size does not divide, a number is below 1, or the prior is of another
            dimension.
    """

    latents: tuple[str, ...] = ()

    def __init__(
        self,
        spec: Spec,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
        groups: Groups | None = None,
        width: int = 32,
    ) -> None:
        super().__init__(spec)
        check_count("width", width)
        top = self.prior_spec(spec, groups)
        self.sizes = _sizes(spec, groups)
        self.latents = tuple(f"z{number + 1}" for number in range(len(self.sizes)))
        self.dims = [spec.latent_dim * prod(size) for size in self.sizes]
        self.width = width
        self.prior = StandardNormal(top) if prior is None else prior
        if self.prior.spec.latent_dim != self.dims[0]:
            raise ValueError(
                f"expected a prior of {self.dims[0]} dimensions, those of the first group; got "
                f"{self.prior.spec.latent_dim}"
            )
        self.likelihood = default_likelihood(spec) if likelihood is None else likelihood
        entering = [spec.latent_dim] + [width + spec.latent_dim] * (len(self.sizes) - 1)
        inputs = [map_shape(*pair) for pair in zip(entering, self.sizes, strict=True)]
        states = [map_shape(width + 2 * spec.latent_dim, size) for size in self.sizes]
        down = [*map(network, inputs, states[1:])]
        # First p(z_l | z_<l) is hardly more than a standard normal: scales multiply from group to
        # group. The path of h is as strong as any, or the first groups would be too faint to learn.
        for below in down:
            below.start_near_zero(slice(width, None))
        self.down = nn.ModuleList(down)
        self.decoder = network(inputs[-1], self.likelihood.features)

    @classmethod
    def prior_spec(cls, spec: Spec, groups: Groups | None = None, **options: Any) -> Spec:
        return replace(spec, latent_dim=spec.latent_dim * prod(_sizes(spec, groups)[0]))

    @property
    def code_dim(self) -> int:
        return sum(self.dims)

    def code(self, latents: dict[str, Tensor]) -> Tensor:
        return torch.cat([latents[site] for site in self.latents], dim=-1)

    def latent_name(self, place: int) -> str:
        for site, dimension in zip(self.latents, self.dims, strict=True):
            if place < dimension:
                return f"{site}[{place}]"
            place -= dimension
        raise IndexError(f"expected a place below {self.code_dim:,}")

    def prior_of(self, state: Tensor | None) -> TorchDistribution:
        """p(z_l | z_<l), independent normals of shape (..., C h w), at a result of `descend`."""
        if state is None:
            return self.prior()
        normal = state[..., self.width :, :, :]
        return bounded_normal_of(normal.flatten(-3)).to_event(1)

    def descend(self, group: int, z: Tensor | None, state: Tensor | None) -> Tensor | None:
        """The state above a group, (..., W + 2 C, h, w), from the one before and its latents.

        Within `sharing` model and guide compute it once.

        Args:
            group: l - 1 of s_l; 0 has no state.
            z: The latents of the group before, (..., C h w).
            state: The state above them.
        """
        if z is None:
            return None
        return shared(self._descended, self.down[group - 1].parameters(), group, z, state)

    def _descended(self, group: int, z: Tensor, state: Tensor | None) -> Tensor:
        size = self.sizes[group]
        below = mapped(self.down[group - 1], self._with_latents(group - 1, z, state), size)
        if state is None:
            return below
        h, normal = below.split([self.width, below.shape[-3] - self.width], dim=-3)
        return torch.cat([_repeated(self._h(state), size) + h, normal], dim=-3)

    def features(self, z: Tensor, state: Tensor | None) -> Tensor:
        """Those of the likelihood, (..., F, H, W), from the last state and its latents."""
        above = self._with_latents(len(self.sizes) - 1, z, state)
        return self.decoder(above.reshape(*z.shape[:-1], *self.decoder.inputs))

    def _with_latents(self, group: int, z: Tensor, state: Tensor | None) -> Tensor:
        latents = z.unflatten(-1, (-1, *self.sizes[group]))
        return latents if state is None else torch.cat([self._h(state), latents], dim=-3)

    def _h(self, state: Tensor) -> Tensor:
        return state[..., : self.width, :, :]

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x|z) for the latents of all groups side by side, (..., D)."""
        state = above = None
        for group, latents in enumerate(z.split(self.dims, dim=-1)):
            state = self.descend(group, above, state)
            above = latents
        assert above is not None
        return self.likelihood(self.features(above, state))

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        state = z = None
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            for group, site in enumerate(self.latents):
                state = self.descend(group, z, state)
                z = pyro.sample(site, self.prior_of(state))
            assert z is not None
            features = self.features(z, state)
            return pyro.sample("x", self.observed(self.likelihood(features)), obs=x)


def of_groups(model: Model) -> TopDown:
    """The model, where its latents are groups on feature maps.

    Raises:
        ValueError: If it is another.
    """
    if not isinstance(model, TopDown):
        raise ValueError(f"expected a model of groups, such as TopDown; got {type(model).__name__}")
    return model


def _sizes(spec: Spec, groups: Groups | None) -> list[Size]:
    usual = usual_groups(spec.image_shape)
    return map_sizes(usual if groups is None else groups, spec.image_shape)


def _repeated(h: Tensor, size: Size) -> Tensor:
    """A map (..., C, h, w) on a larger one, each value repeated."""
    *batch, height, width = h.shape
    repeats = size[0] // height, size[1] // width
    spread = h[..., :, None, :, None].expand(*batch, height, repeats[0], width, repeats[1])
    return spread.reshape(*batch, *size)
