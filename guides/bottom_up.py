"""The encoder of two layers that goes from the data upwards."""

from collections.abc import Sequence

import pyro
from torch import Tensor

from guides.guide import Guide
from models.hierarchical import Hierarchical
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.normals import normal_of
from models.spec import Spec

__all__ = ["BottomUp", "two_layers"]


def two_layers(model: Model) -> Hierarchical:
    """The model, where it is one of two layers.

    Raises:
        ValueError: If it is another.
    """
    if not isinstance(model, Hierarchical):
        raise ValueError(
            f"expected a model of two layers, such as Hierarchical; got {type(model).__name__}"
        )
    return model


class BottomUp(Guide):
    """q(z1, z2|x) = q(z1|x) q(z2|z1), diagonal normals with parameters from networks.

    Burda, Grosse and Salakhutdinov (2016), equation (1) and section 5.

    Args:
        spec: The data's shape and domain, and D.
        model: A model of two layers, which says how large z2 is.
        network: Builds the encoder of x from its input and output shapes.
        hidden: Widths of the tanh layers between z1 and z2.

    Raises:
        ValueError: If the model is not of two layers, or a width is below 1.
    """

    latents: tuple[str, ...] = ("z2", "z1")

    def __init__(
        self,
        spec: Spec,
        model: Model,
        network: NetworkFactory = MLP,
        hidden: Sequence[int] = (100, 100),
    ) -> None:
        super().__init__(spec)
        top_dim = two_layers(model).top_dim
        self.encoder = network(spec.encoder_shape, (2 * spec.latent_dim,))
        self.upper = MLP((spec.latent_dim,), (2 * top_dim,), hidden)

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            features = self.encoder(self.spec.network_input(x))
            z1 = pyro.sample("z1", normal_of(features).to_event(1))
            pyro.sample("z2", normal_of(self.upper(z1)).to_event(1))
            return z1
