"""Networks between images, latent vectors and features, by their two shapes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.ranges import check_choice
from models.spec import Shape

__all__ = [
    "Activation",
    "Layered",
    "Network",
    "NetworkFactory",
    "activation_of",
    "image_and_vector",
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
        precision: The type to compute in, where it is not that of the inputs; the outputs have the
            type of the inputs in either case.
    """

    precision: torch.dtype | None = None

    def __init__(self, inputs: Shape, outputs: Shape) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., *inputs) to (..., *outputs), whatever the leading dimensions.

        Raises:
            ValueError: If `x` has another shape, or `compute` returns another number of values.
        """
        if x.shape[-len(self.inputs) :] != self.inputs:
            raise ValueError(
                f"expected a tensor of shape (..., {', '.join(map(str, self.inputs))}); got "
                f"{tuple(x.shape)}"
            )
        if self.precision not in (None, x.dtype):
            cast = {name: p.to(self.precision) for name, p in self._cast_parameters()}
            return functional_call(self, cast, (x.to(self.precision),)).to(x.dtype)
        batch = x.shape[: x.dim() - len(self.inputs)]
        computed = self.compute(x.reshape(-1, *self.inputs))
        try:
            return computed.reshape(*batch, *self.outputs)
        except RuntimeError as error:
            raise ValueError(
                f"expected compute to return the values of {(*batch, *self.outputs)}; got "
                f"{tuple(computed.shape)}"
            ) from error

    def _cast_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters except those of layers with averages, such as batch normalisation."""
        seen: set[nn.Parameter] = set()  # a shared parameter is listed once, under its first name
        for name, module in self.named_modules():
            if not any(b.is_floating_point() for b in module.buffers(recurse=False)):
                for own, parameter in module.named_parameters(name, recurse=False):
                    if parameter not in seen:
                        seen.add(parameter)
                        yield own, parameter

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """Maps (B, *inputs) to the B prod(outputs) values of (B, *outputs), in any shape."""

    def initialise_output(self, outputs: Tensor) -> None:
        """Centres an untrained network's outputs; networks without a bias to set ignore it.

        Args:
            outputs: The centre of the first outputs, (*outputs).
        """
        return

    def start_near_zero(self, channels: slice = slice(None)) -> None:
        """Scales an untrained network's outputs down to a tenth; networks may ignore it.

        Args:
            channels: Of the outputs; all by default.
        """
        return


NetworkFactory = Callable[[Shape, Shape], Network]


class Layered:
    """Mixed into networks that are a stack of layers, the last one affine."""

    layers: nn.Sequential

    def compute(self, x: Tensor) -> Tensor:
        return self.layers(x)

    @torch.no_grad()
    def initialise_output(self, outputs: Tensor) -> None:
        """Sets the last bias to outputs (C, H, W), or to their mean where it is one a channel."""
        bias: Any = self.layers[-1].bias
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
            f"got {tuple(inputs)} -> {tuple(outputs)}; choose Cells or MLP"
        )
    return (inputs, outputs) if len(inputs) == 3 else (outputs, inputs)
