"""The encoder of two layers that meets the model on its way down."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from guides.bottom_up import two_layers
from guides.guide import Guide
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import normal_of
from models.ranges import check_count
from models.spec import Spec

__all__ = ["Ladder", "precision_weighted"]


class Ladder(Guide):
    """q(z1, z2|x) = q(z2|x) q(z1|x, z2): top-down, as the model goes.

    q(z1|x, z2) is the model's own p(z1|z2), corrected by what the data say about z1: the product
    of the two normals, normalised. Sonderby, Raiko, Maaloe, Sonderby and Winther (2016), section
    2. The networks go up from x without drawing: the encoder gives the normal of z1, and features
    from which tanh layers compute the normal of z2.

    Where the data say nothing about z1, their normal is infinitely wide, q(z1|x, z2) = p(z1|z2),
    and no gradient reaches its mean: training that begins with the full weight on the rate may end
    there, with a rate of 0. The objective `Beta` with a warm-up leads past it (ibid., section 2.3).

    Args:
        spec: The data's shape and domain, and D.
        model: A model of two layers, which gives p(z1|z2).
        network: Builds the encoder of x from its input and output shapes.
        features: How many features of x the upper layers get.
        hidden: Widths of the tanh layers above them.

    Raises:
        ValueError: If the model is not of two layers, or a size is below 1.
    """

    latents: tuple[str, ...] = ("z2", "z1")

    def __init__(
        self,
        spec: Spec,
        model: Model,
        network: NetworkFactory = MLP,
        features: int = 100,
        hidden: Sequence[int] = (100, 100),
    ) -> None:
        super().__init__(spec)
        check_count("features", features)
        hierarchical = two_layers(model)
        self.lower_prior = hierarchical.lower_prior
        self.sizes = [2 * spec.latent_dim, features]
        self.encoder = network(spec.encoder_shape, (sum(self.sizes),))
        self.top = MLP((features,), (2 * hierarchical.top_dim,), hidden)

    def forward(self, x: Tensor) -> Tensor:
        below = self.encoder(self.spec.network_input(x))
        seen, features = below.split(self.sizes, dim=-1)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", normal_of(self.top(features)).to_event(1))
            both = precision_weighted(normal_of(seen), self.lower_prior(z2))
            return pyro.sample("z1", both.to_event(1))


def precision_weighted(first: dist.Normal, second: dist.Normal) -> dist.Normal:
    """The product of two normal densities, normalised.

    1 / sigma^2 = 1 / sigma_1^2 + 1 / sigma_2^2 and
    mu = sigma^2 (mu_1 / sigma_1^2 + mu_2 / sigma_2^2); Sonderby et al. (2016), section 2.
    Computed from the ratio of the two, since float32 has no room for the powers of a small scale
    that gradients contain.
    """
    odds = 2 * (second.scale.log() - first.scale.log())  # log sigma_2^2 / sigma_1^2
    loc = odds.sigmoid() * first.loc + (-odds).sigmoid() * second.loc
    return dist.Normal(loc, first.scale * (logsigmoid(odds) / 2).exp())
