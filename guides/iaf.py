"""The encoder with an inverse autoregressive flow."""

from collections.abc import Sequence
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from guides.guide import Guide
from models.networks.autoregressive import AffineAutoregressive, masked_networks
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import normal_of
from models.ranges import check_count
from models.spec import Spec

__all__ = ["IAF"]

_OPEN = 2.0  # what opens the gate at the beginning: sigmoid(2) = 0.88 of z passes


class IAF(Guide):
    """N(mu, sigma^2 I), carried through T autoregressive maps that see z and a context of x.

    With z_0 = mu + sigma e, e ~ N(0, I), and g_t = sigmoid(s_t + 2),

        z_t = g_t z_(t-1) + (1 - g_t) m_t,
        log q(z_T|x) = log N(z_0; mu, sigma^2 I) - sum_t sum_i log g_(t,i),

    where m_(t,i) and s_(t,i) are computed from the entries of z_(t-1) before i and from h. mu,
    log sigma^2 and h come from a network of x. Kingma, Salimans, Jozefowicz, Chen, Sutskever and
    Welling (2016), algorithm 1 and equations (10), (11), (13) and (14).

    A draw with its density takes one evaluation of each map's network; the density of another z
    takes D, one for each entry in turn, and so do the gradients `stl` and `dreg` of `IWAE`, and its
    `resampled`.

    Args:
        spec: The data's shape and domain, and D.
        network: Builds the encoder from its input and output shapes.
        flows: T, how many maps; every second one has the entries in reverse order.
        hidden: Widths of the hidden layers of each map's network.
        context: Length of h.

    Raises:
        ValueError: If flows < 1, context < 1, or a hidden layer has fewer units than D.
    """

    def __init__(
        self,
        spec: Spec,
        network: NetworkFactory = MLP,
        flows: int = 2,
        hidden: Sequence[int] = (128,),
        context: int = 32,
    ) -> None:
        super().__init__(spec)
        check_count("context", context)
        self.context = context
        self.encoder = network(spec.encoder_shape, (2 * spec.latent_dim + context,))
        self.networks, self.orders = masked_networks(flows, spec.latent_dim, hidden, context)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(self.spec.network_input(x))

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        normal, context = features.split([2 * self.spec.latent_dim, self.context], dim=-1)
        maps = [
            AffineAutoregressive(partial(_gated, network, context), order)
            for network, order in zip(self.networks, self.orders, strict=True)
        ]
        return dist.TransformedDistribution(normal_of(normal).to_event(1), maps)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


def _gated(network: nn.Module, context: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    # One z under many contexts, as a mixture of these distributions asks for, is as many z.
    batch = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
    shift, gate = network(z.expand(*batch, -1), context.expand(*batch, -1))
    return (-gate - _OPEN).sigmoid() * shift, logsigmoid(gate + _OPEN)
