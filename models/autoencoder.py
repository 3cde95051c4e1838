"""The deterministic autoencoder, as the generative half of a Pyro pair."""

from math import sqrt
from typing import ClassVar

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.priors.standard_normal import StandardNormal
from models.spec import Domain, Spec

__all__ = ["Autoencoder"]


class Autoencoder(Model):
    """p(x|z) = N(x; (1 + tanh f(z)) / 2, s^2 I), s^2 = P / 8, and no density p(z).

    In units of [-1, 1], to which pixels in [0, 1] are mapped, the variance is P / 2 for an image
    of P = C H W values, so that

        -log p(x|z) = 1/P sum_i (x_i - tanh f_i(z))^2 + constant,

    the mean squared error that an autoencoder minimises. Its encoder is the guide `Delta`, a
    point z = g(x): then the objective `ELBO` is this error, averaged over the images, plus the
    constant.

    The error does not depend on where codes lie, so z has no density here: the program draws z
    from N(0, I), which contributes nothing to log p(x, z). Draws of x show what the decoder makes
    of codes that it has never seen. The guide has to be a point: a density would gain by becoming
    wider without end.

    Args:
        spec: The data's shape and domain, and D; its domain must be `real`, with pixels in [0, 1].
        network: Builds the decoder f from its input and output shapes.

    Raises:
        ValueError: If the data are not real.
    """

    domain: ClassVar[Domain] = "real"
    has_prior: ClassVar[bool] = False

    def __init__(self, spec: Spec, network: NetworkFactory = MLP) -> None:
        super().__init__(spec)
        if spec.domain != self.domain:
            raise ValueError(f"Autoencoder needs real data; got {spec.domain} data")
        self.code_noise = StandardNormal(spec)
        self.decoder = network((spec.latent_dim,), spec.image_shape)
        self.scale = sqrt(spec.pixels / 8)

    def decode(self, z: Tensor) -> TorchDistribution:
        return dist.Normal((1 + self.decoder(z).tanh()) / 2, self.scale).to_event(3)

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.code_noise().mask(False))
            return pyro.sample("x", self.observed(self.decode(z)), obs=x)
