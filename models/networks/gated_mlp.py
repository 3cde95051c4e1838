"""Fully connected layers whose units have gates."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

from torch import Tensor, nn

from models.networks.network import Layered, Network
from models.ranges import check_sizes
from models.spec import Shape

__all__ = ["GatedMLP"]


class GatedMLP(Layered, Network):
    """Fully connected layers h' = (A h + a) * sigmoid(B h + b), and an affine one at the end.

    Gated linear units of Dauphin, Fan, Auli and Grangier (2017), equation (1), as Tomczak and
    Welling (2018, section 5) have them in VAEs. A layer has twice the parameters of one of `MLP`.

    Args:
        inputs: The shape of one input.
        outputs: The shape of one output.
        hidden: Widths of the hidden layers, in the order of the encoder; a decoder has them in
            reverse, so that the two mirror each other.

    Raises:
        ValueError: If a width is below 1.
    """

    def __init__(self, inputs: Shape, outputs: Shape, hidden: Sequence[int] = (300, 300)) -> None:
        super().__init__(inputs, outputs)
        check_sizes("hidden", hidden)
        order = list(hidden) if len(inputs) == 3 else list(reversed(hidden))
        widths = [prod(inputs), *order]
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            both = nn.Linear(width, 2 * next_width)
            # Glorot and Bengio (2010), for each half, as that paper has it. Larger weights overfit
            # sooner; smaller ones, as torch has them, learn slowly from few images.
            bound = sqrt(6 / (width + next_width))
            nn.init.uniform_(both.weight, -bound, bound)
            layers += [both, nn.GLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(outputs)))

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(x.flatten(1))
