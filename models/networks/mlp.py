"""Networks without convolutions: one affine map, or fully connected layers."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import get_args

import torch
from torch import Tensor, nn

from models.networks.network import Activation, Layered, Network, activation_of
from models.ranges import check_choice, check_sizes
from models.spec import Shape

__all__ = ["MLP", "Linear"]


class Linear(Network):
    """y = W x + b, the network of probabilistic PCA.

    Args:
        inputs: The shape of one input.
        outputs: The shape of one output.
    """

    def __init__(self, inputs: Shape, outputs: Shape) -> None:
        super().__init__(inputs, outputs)
        self.linear = nn.Linear(prod(inputs), prod(outputs))

    def compute(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))

    @torch.no_grad()
    def initialise_output(self, outputs: Tensor) -> None:
        self.linear.bias.copy_(outputs.flatten())


class MLP(Layered, Network):
    """Fully connected layers with an activation after each hidden one.

    The default is that of Kingma and Welling (2014), appendix C and section 5: one hidden layer
    of 500 tanh units.

    Args:
        inputs: The shape of one input.
        outputs: The shape of one output.
        hidden: Widths of the hidden layers, in the order of the encoder; a decoder has them in
            reverse, so that the two mirror each other.
        activation: The nonlinearity after each hidden layer.

    Raises:
        ValueError: If a width is below 1 or the activation is unknown.
    """

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        hidden: Sequence[int] = (500,),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__(inputs, outputs)
        check_sizes("hidden", hidden)
        order = list(hidden) if len(inputs) == 3 else list(reversed(hidden))
        check_choice("activation", activation, get_args(Activation))
        widths = [prod(inputs), *order, prod(outputs)]
        layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
        for width, next_width in pairwise(widths[1:]):
            layers += [activation_of(activation), nn.Linear(width, next_width)]
        self.layers = nn.Sequential(*layers)

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(x.flatten(1))
