"""Strided convolutions down, and their transposes up."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from models.networks.convolution_arithmetic import convolved_size, left_over
from models.networks.network import Activation, Layered, Network, activation_of, image_and_vector
from models.ranges import check_count, check_sizes
from models.spec import Shape

__all__ = ["Convolutional"]


class Convolutional(Layered, Network):
    """Strided convolutions down, and as a decoder their transposed mirror up.

    With kernel k (odd), stride s and padding p = (k - 1) / 2 a convolution takes size i to
    o = floor((i - 1) / s) + 1; the transposed one takes o back to (o - 1) s + 1, and an output
    padding of (i - 1) mod s makes that i again, for any i (Dumoulin and Visin, 2016,
    relationships 6 and 14).

    Args:
        inputs: (C, H, W) for an encoder, (F,) for a decoder.
        outputs: (F,) for an encoder, (C, H, W) for a decoder.
        channels: Channels after each convolution, in the order of the encoder.
        kernel_size: Size of the square kernels; odd.
        stride: Stride of each convolution.
        hidden: Width of the fully connected layer between convolutions and vector.
        activation: The nonlinearity after each hidden layer.

    Raises:
        ValueError: If there is not exactly one image side, a size is below 1, or the kernel is
            even.
    """

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        stride: int = 2,
        hidden: int = 256,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(inputs, outputs)
        image, vector = image_and_vector(inputs, outputs)
        check_sizes("channels", channels, fewest=1)
        check_count("stride", stride)
        check_count("hidden", hidden)
        check_count("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size >= 1; got {kernel_size}")
        depths = [image[0], *channels]
        geometry = (kernel_size, stride, kernel_size // 2)  # and the padding
        sizes = [tuple(image[1:])]
        for _ in channels:
            sizes.append(tuple(convolved_size(size, *geometry) for size in sizes[-1]))
        top = (depths[-1], *sizes[-1])
        layers: list[nn.Module] = []
        if image is inputs:
            for depth, next_depth in pairwise(depths):
                layers += [nn.Conv2d(depth, next_depth, *geometry), activation_of(activation)]
            layers += [nn.Flatten(), nn.Linear(prod(top), hidden), activation_of(activation)]
            layers += [nn.Linear(hidden, prod(vector))]
        else:
            layers += [nn.Linear(prod(vector), hidden), activation_of(activation)]
            layers += [nn.Linear(hidden, prod(top)), nn.Unflatten(1, top)]
            for level in reversed(range(len(channels))):
                height, width = (left_over(size, *geometry) for size in sizes[level])
                layers += [
                    activation_of(activation),
                    nn.ConvTranspose2d(
                        depths[level + 1], depths[level], *geometry, (height, width)
                    ),
                ]
        self.layers = nn.Sequential(*layers)
