"""Networks against matrix formulas, NumPy and the arithmetic of convolutions."""

from functools import partial
from itertools import pairwise
from math import prod, sqrt

import numpy as np
import pytest
import scipy.special
import torch
from cases import concrete
from torch import Tensor, nn

import models
from models import MLP, Convolutional, GatedMLP, Linear, MaxPooling, Network, Residual

IMAGE_SHAPES = [(1, 1, 1), (1, 28, 20), (3, 7, 5), (2, 8, 8)]
POOLED_SHAPES = [(1, 28, 28), (3, 16, 40)]  # only 12 n + 4 pixels fit into its way up
NETWORKS = concrete(models, Network)
ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
    "elu": lambda a: np.where(a > 0, a, np.expm1(a)),
    "gelu": lambda a: a * scipy.special.ndtr(a),
    "silu": lambda a: a * scipy.special.expit(a),
    "softplus": lambda a: np.logaddexp(0, a),
}


def linears(network: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of each linear layer, in order."""
    return [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in network.modules()
        if isinstance(layer, nn.Linear)
    ]


@pytest.mark.parametrize(
    ("network", "image_shape"),
    [
        (network, shape)
        for network in NETWORKS
        for shape in (POOLED_SHAPES if network is MaxPooling else IMAGE_SHAPES)
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3)], ids=str)
def test_any_leading_dimensions_and_any_image(
    network: type[Network], image_shape: tuple[int, int, int], batch: tuple[int, ...]
) -> None:
    for inputs, outputs in [(image_shape, (6,)), ((4,), image_shape)]:
        module = network(inputs, outputs).double()
        x = torch.randn(*batch, *inputs, dtype=torch.float64)
        y = module(x)
        assert y.shape == (*batch, *outputs)
        for index in np.ndindex(batch):
            # Each input alone, in the same place: only the order of a sum may differ.
            torch.testing.assert_close(y[index], module(x[index]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Linear, partial(MLP, hidden=())])
def test_without_hidden_layers_it_is_a_matrix_and_a_bias(kind) -> None:
    network = kind((3, 2, 2), (1, 5, 1)).double()
    ((weight, bias),) = linears(network)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    expected = x.numpy().reshape(4, 12) @ weight.T + bias
    np.testing.assert_allclose(network(x).detach(), expected.reshape(4, 1, 5, 1), atol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_its_matrix_formula(activation: str) -> None:
    network = MLP((1, 3, 2), (4,), hidden=(7, 5), activation=activation).double()
    (w1, b1), (w2, b2), (w3, b3) = linears(network)
    f = ACTIVATIONS[activation]
    x = torch.randn(9, 1, 3, 2, dtype=torch.float64)
    expected = f(f(x.numpy().reshape(9, 6) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    np.testing.assert_allclose(network(x).detach(), expected, atol=1e-13)


def test_every_activation_has_its_formula_here() -> None:
    assert set(ACTIVATIONS) == set(models.networks.network.ACTIVATIONS)


def test_a_gated_mlp_is_its_matrix_formula() -> None:
    network = GatedMLP((1, 3, 2), (4,), hidden=(7, 5)).double()
    x = torch.randn(9, 1, 3, 2, dtype=torch.float64)
    *hidden, (weight, bias) = linears(network)
    h = x.numpy().reshape(9, 6)
    for both, biases in hidden:
        (a, b), (c, d) = np.split(both, 2), np.split(biases, 2)
        h = (h @ a.T + c) * scipy.special.expit(h @ b.T + d)
    np.testing.assert_allclose(network(x).detach(), h @ weight.T + bias, atol=1e-13)
    decoder = GatedMLP((4,), (1, 3, 2), hidden=(7, 5))
    assert [weight.shape for weight, _ in linears(decoder)] == [(10, 4), (14, 5), (6, 7)]


def test_gated_layers_begin_with_weights_of_glorots_variance() -> None:
    """Of one half, gate or not: 2 / (width + next width), 300 to 300 and 400 to 300."""
    torch.manual_seed(0)
    network = GatedMLP((1, 20, 20), (4,), hidden=(300, 300))
    for (weight, _), width in zip(linears(network)[:-1], (400, 300), strict=True):
        expected = 2 / (width + 300)
        # The square of a uniform number has a variance of 4/5 of the square of its mean.
        error = expected * sqrt(0.8 / weight.size)
        assert abs((weight**2).mean() - expected) < 4 * error


def test_mlp_decoder_reverses_the_hidden_layers() -> None:
    encoder = MLP((1, 3, 2), (4,), hidden=(7, 5))
    decoder = MLP((4,), (1, 3, 2), hidden=(7, 5))
    down = [weight.shape for weight, _ in linears(encoder)]
    assert down == [(7, 6), (5, 7), (4, 5)]
    assert [weight.T.shape for weight, _ in reversed(linears(decoder))] == down


def test_aevb_network_is_the_default() -> None:
    # Kingma and Welling (2014), section 5: one hidden layer; appendix C: tanh.
    network = MLP((1, 28, 28), (40,))
    assert [type(layer) for layer in network.layers] == [nn.Linear, nn.Tanh, nn.Linear]
    assert [weight.shape for weight, _ in linears(network)] == [(500, 784), (40, 500)]


def convolution_size(i: int, k: int, s: int, p: int) -> int:
    """Dumoulin and Visin (2016), relationship 6."""
    return (i + 2 * p - k) // s + 1


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def image_sizes(network: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """(C, H, W) before the first convolution of a network, and after each."""
    shapes: list[tuple[int, ...]] = []

    def note(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if not shapes:
            shapes.append(tuple(inputs[0].shape[1:]))
        shapes.append(tuple(output.shape[1:]))

    for layer in convolutions(network):
        layer.register_forward_hook(note)
    network(x)
    return shapes


@pytest.mark.parametrize("image_shape", IMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("channels", [(4,), (4, 2, 3)], ids=str)
def test_transposed_convolutions_mirror_convolutions(
    image_shape: tuple[int, int, int], kernel_size: int, stride: int, channels: tuple[int, ...]
) -> None:
    options = {"channels": channels, "kernel_size": kernel_size, "stride": stride, "hidden": 5}
    p = (kernel_size - 1) // 2
    expected = [image_shape]
    for depth in channels:
        height, width = (convolution_size(i, kernel_size, stride, p) for i in expected[-1][1:])
        expected.append((depth, height, width))
    for larger, smaller in pairwise(expected):
        for i, o in zip(larger[1:], smaller[1:], strict=True):
            a = (i + 2 * p - kernel_size) % stride  # relationship 14
            assert stride * (o - 1) + a + kernel_size - 2 * p == i
    down = image_sizes(Convolutional(image_shape, (6,), **options), torch.randn(2, *image_shape))
    up = image_sizes(Convolutional((6,), image_shape, **options), torch.randn(2, 6))
    assert down == expected
    assert up == expected[::-1]


@pytest.mark.parametrize("image_shape", IMAGE_SHAPES, ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_each_decoder_layer_is_the_transposed_matrix_of_its_encoder_layer(
    image_shape: tuple[int, int, int], stride: int
) -> None:
    # A convolution is a matrix C, and its mirror has to be the matrix C^T (Dumoulin and Visin,
    # section 4.1). The columns of C are the images of the unit images.
    options = {"channels": (4, 3), "stride": stride, "hidden": 5}
    encoder = Convolutional(image_shape, (6,), **options).double()
    decoder = Convolutional((6,), image_shape, **options).double()
    sizes = image_sizes(encoder, torch.randn(1, *image_shape, dtype=torch.float64))
    pairs = zip(convolutions(encoder), reversed(convolutions(decoder)), strict=True)
    for (down, up), larger, smaller in zip(pairs, sizes[:-1], sizes[1:], strict=True):
        up.weight.data = down.weight.data
        down.bias.data.zero_()
        up.bias.data.zero_()
        # About a hundred of the unit images, evenly spread, where there are more.
        units = torch.eye(prod(larger), dtype=torch.float64)[:: 1 + prod(larger) // 100]
        matrix = down(units.reshape(-1, *larger)).flatten(1).mT
        y = torch.randn(prod(smaller), dtype=torch.float64)
        transposed = up(y.reshape(1, *smaller)).flatten()
        torch.testing.assert_close(units @ transposed, matrix.mT @ y, rtol=0, atol=1e-12)


def test_residual_levels_halve_and_mirror() -> None:
    options = {"channels": (4, 6, 5), "blocks": 2, "hidden": 7}
    encoder, decoder = Residual((3, 9, 7), (2,), **options), Residual((2,), (3, 9, 7), **options)
    down = image_sizes(encoder, torch.randn(2, 3, 9, 7))
    up = image_sizes(decoder, torch.randn(2, 2))
    levels = [(4, 9, 7), (6, 5, 4), (5, 3, 2)]
    # the image, then at each level the convolution that leads to it and two in each of two blocks
    assert down == [(3, 9, 7), *(level for level in levels for _ in range(5))]
    assert up == [*(level for level in levels[::-1] for _ in range(5)), (3, 9, 7)]


def test_a_residual_block_adds_to_what_it_gets() -> None:
    network = Residual((1, 4, 4), (3,), channels=(2,), blocks=1, hidden=5).double()
    first, block, *rest = network.layers
    for convolution in convolutions(block):
        convolution.weight.data.zero_()
        convolution.bias.data.zero_()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(network(x), nn.Sequential(first, *rest)(x))


def test_residual_blocks_keep_the_scale_of_what_passes_through_them() -> None:
    x = torch.randn(4, 3, 16, 16)
    scales = {}
    for blocks in (1, 16):
        network = Residual(x.shape[1:], (5,), channels=(32,), blocks=blocks)
        first, *through = network.layers[: 1 + blocks]
        scales[blocks] = (nn.Sequential(first, *through)(x).std() / first(x).std()).item()
    assert 0.8 < scales[1] < 2
    assert 0.8 < scales[16] < 2


class Tied(Network):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__((4,), (4,))
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def compute(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_a_tied_layer_is_cast_once() -> None:
    network, x = Tied(), torch.randn(3, 4)
    network.precision = torch.bfloat16
    weight = network.first.weight.bfloat16()
    expected = (x.bfloat16() @ weight.t() @ weight.t()).float()
    torch.testing.assert_close(network(x), expected, rtol=2**-7, atol=2**-7)
    assert network.second.weight is network.first.weight


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 60), (2, 4, 5, 3), (5, 4)])
def test_a_tensor_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """As many numbers would be enough to reshape it."""
    network = MLP((3, 5, 4), (2,), hidden=(6,))
    assert network(torch.rand(7, 2, 3, 5, 4)).shape == (7, 2, 2)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 3, 5, 4\); got"):
        network(torch.rand(shape))
