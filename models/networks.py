"""Networks between images, latent vectors and features, by their two shapes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.convolution import convolved_size, left_over
from models.ranges import check_choice, check_count, check_sizes
from models.spec import Shape

__all__ = [
    "MLP",
    "Activation",
    "Convolutional",
    "Linear",
    "Network",
    "NetworkFactory",
    "activation_of",
    "image_and_vector",
    "set_bias",
]

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class Network(nn.Module, ABC):
    """A function from tensors (..., *inputs) to tensors (..., *outputs).

    The same class serves as encoder, (C, H, W) -> (F,), and as decoder, (D,) -> (F, H, W).

    Args:
        inputs: The shape of one input.
        outputs: The shape of one output.

    Attributes:
        precision: What to compute in, where it is not the type of the inputs; the outputs have
            that type in either case.
    """

    precision: torch.dtype | None = None

    def __init__(self, inputs: Shape, outputs: Shape) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., *inputs) to (..., *outputs), whatever the leading dimensions."""
        if self.precision not in (None, x.dtype):
            cast = {name: p.to(self.precision) for name, p in self._cast_parameters()}
            return functional_call(self, cast, (x.to(self.precision),)).to(x.dtype)
        batch = x.shape[: x.dim() - len(self.inputs)]
        return self.compute(x.reshape(-1, *self.inputs)).reshape(*batch, *self.outputs)

    def _cast_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters but those of layers that keep averages in their type, to normalise by."""
        seen: set[nn.Parameter] = set()  # of one under two names the first one stands for both
        for name, module in self.named_modules():
            if not any(b.is_floating_point() for b in module.buffers(recurse=False)):
                for own, parameter in module.named_parameters(name, recurse=False):
                    if parameter not in seen:
                        seen.add(parameter)
                        yield own, parameter

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """Maps (B, *inputs) to the B prod(outputs) values of (B, *outputs), in any shape."""

    def start(self, outputs: Tensor) -> None:
        """Makes an untrained network begin around given outputs; for networks that can.

        Args:
            outputs: What to begin around, (*outputs).
        """
        return


NetworkFactory = Callable[[Shape, Shape], Network]


@torch.no_grad()
def set_bias(layer: nn.Module, outputs: Tensor) -> None:
    """Makes outputs (C, H, W) the bias of a layer, or their mean in each channel where it has C."""
    bias: Any = layer.bias
    bias.copy_(outputs.flatten() if len(bias) == outputs.numel() else outputs.mean((1, 2)))


def activation_of(name: str) -> nn.Module:
    """The module of an activation; raises ValueError where there is none of that name."""
    check_choice("activation", name, get_args(Activation))
    return ACTIVATIONS[name]()


def image_and_vector(inputs: Shape, outputs: Shape) -> tuple[Shape, Shape]:
    """Which of two shapes is the image (C, H, W) and which the vector (F,).

    Raises:
        ValueError: If there is not exactly one of each.
    """
    if sorted((len(inputs), len(outputs))) != [1, 3]:
        raise ValueError(
            "expected an image (C, H, W) on one side and a vector (F,) on the other; "
            f"got {tuple(inputs)} -> {tuple(outputs)}"
        )
    return (inputs, outputs) if len(inputs) == 3 else (outputs, inputs)


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

    def start(self, outputs: Tensor) -> None:
        set_bias(self.linear, outputs)


class MLP(Network):
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
        return self.layers(x.flatten(1))

    def start(self, outputs: Tensor) -> None:
        set_bias(self.layers[-1], outputs)


class Convolutional(Network):
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

    def compute(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def start(self, outputs: Tensor) -> None:
        set_bias(self.layers[-1], outputs)
