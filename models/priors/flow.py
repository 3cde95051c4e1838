"""A normalising flow as the prior."""

from collections.abc import Sequence
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.networks.autoregressive import AffineAutoregressive, masked_networks
from models.priors.prior import Prior
from models.spec import Spec

__all__ = ["Flow"]

_LARGEST = 3.0  # |s|: one flow stretches by a factor of 1/20 to 20


class Flow(Prior):
    """A masked autoregressive flow: N(0, I) carried through affine autoregressive maps.

    log p(z) = log N(e; 0, I) + sum_t sum_i s_(t,i), where e is z after the maps
    z_i -> exp(s_i) z_i + t_i, s_i and t_i computed from the z_j before i (Papamakarios, Pavlakou
    and Murray, 2017, equations 3 to 5, with m = -t exp(-s) and a = -s). The density of any z
    takes one evaluation of each network, which is what training needs; a draw takes D.

    Args:
        spec: The data's shape and domain, and D.
        flows: How many maps; every second one has the entries in reverse order.
        hidden: Widths of the hidden layers of each map's network.

    Raises:
        ValueError: If flows < 1, or a hidden layer has fewer units than D.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, flows: int = 2, hidden: Sequence[int] = (128,)) -> None:
        super().__init__(spec)
        self.networks, self.orders = masked_networks(flows, spec.latent_dim, hidden)
        self.register_buffer("loc", torch.zeros(spec.latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(spec.latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        maps = [
            AffineAutoregressive(partial(_affine, network), order).inv
            for network, order in zip(self.networks, self.orders, strict=True)
        ]
        return dist.TransformedDistribution(dist.Normal(self.loc, self.scale).to_event(1), maps)


def _affine(network: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    shift, log_scale = network(z)
    return shift, _LARGEST * (log_scale / _LARGEST).tanh()
