"""A deeper convolutional network, for images up to some 64 x 64 and in colour."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

from torch import Tensor, nn

from models.networks.convolution_arithmetic import convolved_size, left_over
from models.networks.network import Activation, Layered, Network, activation_of, image_and_vector
from models.ranges import check_count, check_sizes
from models.spec import Shape

__all__ = ["Residual"]

_HALVING = (3, 2, 1)  # kernel, stride and padding


class _Block(nn.Module):
    """h + g(f(h)): two 3 x 3 convolutions, each after the activation.

    He et al. (2016), figure 1(b), without batch normalisation, which would make each image depend
    on the others of its batch. The second convolution starts scaled by 1 / sqrt(number of
    blocks) instead, so that the sum over all blocks keeps its size (Child, 2021, section 3.2).
    """

    def __init__(self, channels: int, activation: str, blocks: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        second.weight.data /= sqrt(blocks)
        self.layers = nn.Sequential(
            activation_of(activation), first, activation_of(activation), second
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Residual(Layered, Network):
    """Residual blocks between convolutions that halve the image, and their mirror up.

    A 3 x 3 convolution brings the image to the first number of channels; each further number
    halves height and width, rounded up. A decoder has the same levels in reverse, its transposed
    convolutions with the output padding that gives each size back, as in `Convolutional`. He,
    Zhang, Ren and Sun (2016), Identity Mappings in Deep Residual Networks.

    Args:
        inputs: (C, H, W) for an encoder, (F,) for a decoder.
        outputs: (F,) for an encoder, (C, H, W) for a decoder.
        channels: Channels at each level, from the image's size down, in the order of the encoder.
        blocks: Residual blocks at each level.
        hidden: Width of the fully connected layer between convolutions and vector.
        activation: The nonlinearity.

    Raises:
        ValueError: If there is not exactly one image side, or a size is below 1.
    """

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        channels: Sequence[int] = (32, 64, 128, 128),
        blocks: int = 1,
        hidden: int = 256,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(inputs, outputs)
        image, vector = image_and_vector(inputs, outputs)
        check_sizes("channels", channels, fewest=1)
        check_count("blocks", blocks)
        check_count("hidden", hidden)
        sizes = [tuple(image[1:])]
        for _ in channels[1:]:
            sizes.append(tuple(convolved_size(size, *_HALVING) for size in sizes[-1]))
        top = (channels[-1], *sizes[-1])

        def level(depth: int) -> list[nn.Module]:
            return [_Block(depth, activation, blocks * len(channels)) for _ in range(blocks)]

        layers: list[nn.Module] = []
        if image is inputs:
            layers += [nn.Conv2d(image[0], channels[0], 3, padding=1), *level(channels[0])]
            for depth, next_depth in pairwise(channels):
                layers += [nn.Conv2d(depth, next_depth, *_HALVING), *level(next_depth)]
            layers += [activation_of(activation), nn.Flatten(), nn.Linear(prod(top), hidden)]
            layers += [activation_of(activation), nn.Linear(hidden, prod(vector))]
        else:
            layers += [nn.Linear(prod(vector), hidden), activation_of(activation)]
            layers += [nn.Linear(hidden, prod(top)), nn.Unflatten(1, top), *level(channels[-1])]
            for index in reversed(range(len(channels) - 1)):
                height, width = (left_over(size, *_HALVING) for size in sizes[index])
                layers += [
                    nn.ConvTranspose2d(
                        channels[index + 1], channels[index], *_HALVING, (height, width)
                    ),
                    *level(channels[index]),
                ]
            layers += [activation_of(activation), nn.Conv2d(channels[0], image[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)
