"""Residual cells between feature maps, of which deep hierarchies are made."""

from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from models.networks.network import Activation, Layered, Network, activation_of
from models.ranges import check_count, check_flag
from models.spec import Shape

__all__ = ["Cells"]

_SMALL = 0.1  # of the usual size


class _Cell(nn.Module):
    """h + f(h): convolutions of 1 x 1, 3 x 3 and 1 x 1, each after the activation.

    The one in the middle has fewer channels and sees the neighbours, where there are any. He et al.
    (2016), figure 1(b), as a bottleneck; Child (2021), section 3.1.
    """

    def __init__(
        self, channels: int, inner: int, size: tuple[int, int], activation: Activation
    ) -> None:
        super().__init__()
        height, width = (1 if side == 1 else 3 for side in size)
        self.layers = nn.Sequential(
            activation_of(activation),
            nn.Conv2d(channels, inner, 1),
            activation_of(activation),
            nn.Conv2d(inner, inner, (height, width), padding=(height // 2, width // 2)),
            activation_of(activation),
            nn.Conv2d(inner, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Cells(Layered, Network):
    """Residual cells from one feature map to another, or to and from a vector, a map of 1 x 1.

    The cells are on the smaller of the two maps. A convolution whose stride is its kernel comes
    before them where the map shrinks, its transpose after them where it grows.

    Args:
        inputs: (C, H, W), or (F,).
        outputs: (C, H, W), or (F,).
        channels: Channels of the cells.
        inner: Channels of the convolution within a cell.
        cells: How many.
        activation: The nonlinearity.
        recompute: Whether the backward pass computes what is inside of the network again, rather
            than keeping it in memory, which takes a third to a half more time; Chen, Xu, Zhang and
            Guestrin (2016).

    Raises:
        ValueError: If a size is below 1, or the larger map is no multiple of the smaller one.
    """

    def __init__(
        self,
        inputs: Shape,
        outputs: Shape,
        channels: int = 32,
        inner: int = 16,
        cells: int = 1,
        activation: Activation = "silu",
        recompute: bool = False,
    ) -> None:
        super().__init__(inputs, outputs)
        check_flag("recompute", recompute)
        self.recompute = recompute
        for name, count in (("channels", channels), ("inner", inner), ("cells", cells)):
            check_count(name, count)
        entering, leaving = ((*shape, 1, 1)[:3] for shape in (inputs, outputs))
        sizes = [(shape[1], shape[2]) for shape in (entering, leaving)]
        small, large = sorted(sizes, key=prod)
        ratio = (large[0] // small[0], large[1] // small[1])
        if (small[0] * ratio[0], small[1] * ratio[1]) != large:
            raise ValueError(
                f"expected a map whose size is a multiple of {small[0]} x {small[1]}; got "
                f"{large[0]} x {large[1]}"
            )
        one = (1, 1)
        down, up = (ratio, one) if sizes[0] == large else (one, ratio)
        last = nn.ConvTranspose2d(channels, leaving[0], up, up)
        nn.init.normal_(last.weight, std=1 / sqrt(channels))
        self.layers = nn.Sequential(
            nn.Unflatten(1, entering) if len(inputs) == 1 else nn.Identity(),
            nn.Conv2d(entering[0], channels, down, down),
            *(_Cell(channels, inner, small, activation) for _ in range(cells)),
            activation_of(activation),
            last,
        )
        self.initialise_output(torch.zeros(leaving))

    @torch.no_grad()
    def start_near_zero(self, channels: slice = slice(None)) -> None:
        last: Any = self.layers[-1]
        last.weight[:, channels] *= _SMALL

    def compute(self, x: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return super().compute(x)
        # As arguments, since by the backward pass the layers may have other parameters again.
        parameters = dict(self.layers.named_parameters())

        def layers(x: Tensor, *values: Tensor) -> Tensor:
            return functional_call(self.layers, dict(zip(parameters, values, strict=True)), (x,))

        inside = checkpoint(
            layers, x, *parameters.values(), use_reentrant=False, preserve_rng_state=False
        )
        assert isinstance(inside, Tensor)
        return inside
