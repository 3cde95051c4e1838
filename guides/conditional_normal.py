"""The encoder of images with labels."""

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.guide import Guide
from models.labelled import check_classes, with_class
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import normal_of
from models.ranges import check_count
from models.spec import Spec

__all__ = ["ConditionalNormal"]


class ConditionalNormal(Guide):
    """log q(z|x, y) = log N(z; mu, diag(sigma^2)), mu and log sigma^2 from networks of x and y.

    Kingma, Rezende, Mohamed and Welling (2014), equation (4). The image is encoded once,
    h = tanh(f(x)), whatever the number of classes that are tried with it, and a fully connected
    network with one hidden layer makes mu and log sigma^2 of h and y.

    Args:
        spec: The data's shape and domain, and D; the number of classes is `spec.classes`.
        network: Builds f from its input and output shapes.
        features: How many h has, and units the hidden layer.

    Raises:
        ValueError: If features < 1 or the data have no labels.
    """

    def __init__(self, spec: Spec, network: NetworkFactory = MLP, features: int = 200) -> None:
        super().__init__(spec)
        check_count("features", features)
        self.classes = check_classes(spec, "--guide DiagonalNormal, which needs none")
        self.encoder = network(spec.encoder_shape, (features,))
        inputs, outputs = (features + self.classes,), (2 * spec.latent_dim,)
        self.head = MLP(inputs, outputs, hidden=(features,))

    def posterior(self, x: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """q(z|x, y), batch shape (..., B) and event shape (D,), for y of shape (..., B) or (B,).

        Raises:
            NotImplementedError: If y is None.
            ValueError: If x is outside of the bounds of the domain.
        """
        if y is None:
            raise NotImplementedError(
                f"q(z|x) of {type(self).__name__} is not one distribution without the class y"
            )
        self.check_range(x)
        return self._normal(self._features(x), y)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x, y))

    def _features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.encoder(self.spec.network_input(x)))

    def _normal(self, features: Tensor, y: Tensor) -> TorchDistribution:
        return normal_of(self.head(with_class(features, y, self.classes))).to_event(1)
