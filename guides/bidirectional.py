"""The encoder that goes up to the top of a hierarchy, and meets the model on its way down."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from guides.guide import Guide
from models.feature_maps import Size, map_shape, mapped
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import bounded, bounded_normal_of, normal_of
from models.ranges import check_flag
from models.spec import Shape, Spec
from models.top_down import of_groups

__all__ = ["Bidirectional"]


class Bidirectional(Guide):
    """q(z|x) = q(z1|x) prod_l q(z_l | z_<l, x): in the order of the model, with its own states.

    Networks go up from x and leave features d of it at each size of the maps, without drawing. At
    the top they give the normal q(z1|x). From there on the path is that of the model, whose state
    s_l a further network joins with d to the normal q(z_l | z_<l, x). Kingma et al. (2016),
    section 3; Vahdat and Kautz (2020), section 3.

    Args:
        spec: The data's shape and domain; `latent_dim` is C, the channels of z in each group.
        model: A `TopDown`, which gives the sizes, the states and p(z_l | z_<l).
        network: Builds all networks from their input and output shapes: `Cells`, or `MLP` on small
            maps.
        relative: Whether the networks give q(z_l | z_<l, x) relative to p(z_l | z_<l), as
            N(mu_p + delta, (sigma_p exp(epsilon))^2) (Vahdat and Kautz, section 3.2): where they
            give 0, the group costs no rate.

    Raises:
        ValueError: If the model is no `TopDown`.
    """

    latents: tuple[str, ...] = ()
    sizes: list[Size]

    def __init__(
        self, spec: Spec, model: Model, network: NetworkFactory = MLP, relative: bool = True
    ) -> None:
        super().__init__(spec)
        check_flag("relative", relative)
        top_down = of_groups(model)
        self.latents, self.sizes = top_down.latents, top_down.sizes
        self.descend, self.prior_of = top_down.descend, top_down.prior_of
        self.relative = relative
        normal, features = 2 * spec.latent_dim, top_down.width
        self.seen_sizes = sorted({*self.sizes[1:]}, reverse=True)
        self.up = nn.ModuleList()
        shape: Shape = spec.encoder_shape
        for size in self.seen_sizes:
            self.up.append(network(shape, map_shape(features, size)))
            shape = map_shape(features, size)
        self.encoder = network(shape, map_shape(normal, self.sizes[0]))
        joining = [
            network(map_shape(2 * features + normal, size), map_shape(normal, size))
            for size in self.sizes[1:]
        ]
        for each in joining:
            each.start_near_zero()  # q begins as p
        self.joining = nn.ModuleList(joining)

    def ascend(self, x: Tensor) -> list[Tensor]:
        """What each group sees of x: the parameters of q(z1|x), and d at the others' sizes."""
        d = self.spec.network_input(x)
        seen: dict[Size, Tensor] = {}
        for size, network in zip(self.seen_sizes, self.up, strict=True):
            d = network(d)
            seen[size] = d.reshape(len(x), -1, *size)
        return [self.encoder(d).flatten(1), *(seen[size] for size in self.sizes[1:])]

    def posterior_given(self, group: int, state: Tensor | None, seen: Tensor) -> TorchDistribution:
        """q(z_l | z_<l, x), independent normals of shape (..., C h w).

        Args:
            group: l - 1.
            state: s_l, (..., W + 2 C, h, w); None at the top.
            seen: What `ascend` gives for this group.
        """
        if state is None:
            return normal_of(seen).to_event(1)
        both = torch.cat([state, seen.expand(*state.shape[:-3], *seen.shape[-3:])], dim=-3)
        normal = mapped(self.joining[group - 1], both, self.sizes[group]).flatten(-3)
        if not self.relative:
            return bounded_normal_of(normal).to_event(1)
        prior = self.prior_of(state).base_dist
        shift, log_factor = normal.chunk(2, dim=-1)
        scale = prior.scale * bounded(log_factor).exp()
        return dist.Normal(prior.loc + shift, scale).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ascend(x)
        state = z = None
        with pyro.plate("data", len(x), dim=-1):
            for group, site in enumerate(self.latents):
                state = self.descend(group, z, state)
                z = pyro.sample(site, self.posterior_given(group, state, seen[group]))
            assert z is not None
            return z
