"""Layers in whole numbers, which give the same result on every machine.

Weights are multiples of 2^-14 and activations multiples of 2^-12, both kept as whole numbers in
float64. No sum of products below 2^53 is rounded, so that the order of summation does not matter,
nor do threads, batches, BLAS or the width of SIMD. Each layer proves its bound.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ppl_vae.coding.tables import Floats, Ints, Table
from ppl_vae.errors import InputError

__all__ = [
    "EXACT",
    "LARGEST",
    "LAYERS",
    "WEIGHT",
    "Affine",
    "Convolution",
    "Layer",
    "Lookup",
    "Rectifier",
    "Reshape",
    "SkipConnection",
    "Stride",
    "TransposedConvolution",
    "compute",
    "prove",
]

WEIGHT = 14  # bits after the point of weights
EXACT = 2**53
LARGEST = 2**24  # activations are cut off at 4,096, where a pair has no other bound
_FARTHEST = 2**8  # pixels, of strides and paddings: nothing that is read makes images huge
_MOST = 2**24  # values of a map

Stride = int | tuple[int, int]


class Layer(ABC):
    """A function of activations (B, ...), in units of 2^-12, that are cut off at a largest size."""

    @abstractmethod
    def __call__(self, x: Floats, largest: int) -> Floats:
        """The activations after the layer."""

    @abstractmethod
    def bound(self, inputs: int, largest: int) -> int:
        """The largest size of an output for inputs up to a size.

        Raises:
            InputError: If a sum could reach 2^53.
        """


@dataclass(frozen=True, eq=False)
class _Products(Layer):
    """Sums of products with inputs.

    Args:
        weight: (F, ...), those of one output after the other, in units of 2^-14.
        bias: (F,), in units of 2^-26.
    """

    weight: Ints
    bias: Ints

    def bound(self, inputs: int, largest: int) -> int:
        rows = np.abs(self.weight.reshape(len(self.weight), -1).astype(object)).sum(1)
        biases = np.abs(self.bias.astype(object))
        most = int((rows * inputs + biases).max())
        if most + 2**WEIGHT >= EXACT:
            raise InputError(
                f"a sum of a layer could reach 2^{most.bit_length()}, beyond the 2^53 up to which "
                "float64 is exact; train with --weight_decay, or a network that is not as wide"
            )
        return min((most >> WEIGHT) + 1, largest)


@dataclass(frozen=True, eq=False)
class Affine(_Products):
    """y = W x + b, W of (F, N)."""

    @cached_property
    def _matrix(self) -> Floats:
        return self.weight.T.astype(np.float64)

    def __call__(self, x: Floats, largest: int) -> Floats:
        return _rounded(x @ self._matrix + self.bias, largest)


@dataclass(frozen=True, eq=False)
class Convolution(_Products):
    """A convolution of images (B, C, H, W) with a weight (F, C, k, l), as a matrix product.

    Args:
        stride: s, or those of rows and of columns.
        padding: Zeros before the first and after the last row, and column.
    """

    stride: Stride
    padding: tuple[int, int]

    def __post_init__(self) -> None:
        _check_geometry(*_strides(self.stride), *self.padding)

    @cached_property
    def _matrix(self) -> Floats:
        return self.weight.reshape(len(self.weight), -1).T.astype(np.float64)

    def __call__(self, x: Floats, largest: int) -> Floats:
        down, right = _strides(self.stride)
        edges = [(edge, edge) for edge in self.padding]
        padded = np.pad(x, ((0, 0), (0, 0), *edges)) if any(self.padding) else x
        kernel = self.weight.shape[2:]
        windows = sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::right]
        batch, _, height, width = windows.shape[:4]
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
        sums = columns @ self._matrix + self.bias
        return _rounded(sums, largest).reshape(batch, height, width, -1).transpose(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class TransposedConvolution(_Products):
    """The transpose of a convolution: each pixel adds its product with the kernel to the output.

    Args:
        stride: s of the convolution that it transposes, or those of rows and of columns.
        padding: p of the convolution that it transposes.
        left_over: Further rows and columns of the output, at its end.
    """

    stride: Stride
    padding: int
    left_over: tuple[int, int]

    def __post_init__(self) -> None:
        _check_geometry(*_strides(self.stride), self.padding, *self.left_over)

    @cached_property
    def _matrix(self) -> Floats:
        """From the C of a pixel to the k l F sums that it takes part in."""
        kernel = self.weight[:, :, ::-1, ::-1].transpose(1, 2, 3, 0)
        return kernel.reshape(len(kernel), -1).astype(np.float64)

    def __call__(self, x: Floats, largest: int) -> Floats:
        batch, channels, height, width = x.shape
        kernel, (down, right) = self.weight.shape[2:], _strides(self.stride)
        high, wide = (height - 1) * down + 1, (width - 1) * right + 1
        rows = high + kernel[0] - 1 + self.left_over[0]
        columns = wide + kernel[1] - 1 + self.left_over[1]
        if rows * columns * len(self.weight) > _MOST:
            raise ValueError("expected a map of a moderate size")
        parts = x.transpose(0, 2, 3, 1).reshape(-1, channels) @ self._matrix
        parts = parts.reshape(batch, height, width, *kernel, len(self.weight))
        sums = np.zeros((batch, rows, columns, len(self.weight)))
        for i, j in np.ndindex(*kernel):
            sums[:, i : i + high : down, j : j + wide : right] += parts[:, :, :, i, j]
        edge = self.padding
        inner = sums[:, edge : rows - edge, edge : columns - edge]
        return _rounded(inner + self.bias, largest).transpose(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class Lookup(Layer):
    """A nonlinearity from a table."""

    table: Table

    def __call__(self, x: Floats, largest: int) -> Floats:
        return self.table(x)

    def bound(self, inputs: int, largest: int) -> int:
        return self.table.bound(inputs)


@dataclass(frozen=True, eq=False)
class Rectifier(Layer):
    """x above 0, and below it x times a slope in units of 2^-14."""

    slope: int

    def __call__(self, x: Floats, largest: int) -> Floats:
        return np.maximum(x, np.floor(x * self.slope * 2.0**-WEIGHT + 0.5))

    def bound(self, inputs: int, largest: int) -> int:
        return inputs


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """Each datum in another shape."""

    shape: tuple[int, ...]

    def __call__(self, x: Floats, largest: int) -> Floats:
        return x.reshape(len(x), *self.shape)

    def bound(self, inputs: int, largest: int) -> int:
        return inputs


@dataclass(frozen=True, eq=False)
class SkipConnection(Layer):
    """x + f(x), f some layers."""

    layers: tuple[Layer, ...]

    def __call__(self, x: Floats, largest: int) -> Floats:
        return np.clip(x + compute(self.layers, x, largest), -largest, largest)

    def bound(self, inputs: int, largest: int) -> int:
        return min(inputs + prove(self.layers, inputs, largest), largest)


LAYERS: tuple[type[Layer], ...] = (
    Affine, Convolution, TransposedConvolution, Lookup, Rectifier, Reshape, SkipConnection,
)  # fmt: skip


def compute(layers: Sequence[Layer], x: Floats, largest: int = LARGEST) -> Floats:
    """The layers in turn, every activation cut off at a largest size."""
    for layer in layers:
        x = layer(x, largest)
    return x


def prove(layers: Sequence[Layer], inputs: int, largest: int = LARGEST) -> int:
    """The largest size of an output of all layers in turn, for inputs up to a size.

    Raises:
        InputError: If a sum on the way could reach 2^53, where float64 begins to round.
    """
    for layer in layers:
        inputs = layer.bound(inputs, largest)
    return inputs


def _strides(stride: Stride) -> tuple[int, int]:
    return (stride, stride) if isinstance(stride, int) else stride


def _check_geometry(*sizes: int) -> None:
    if not all(0 <= size <= _FARTHEST for size in sizes):
        raise InputError(f"expected strides and paddings of 0 to {_FARTHEST}; got {sizes}")


def _rounded(sums: Floats, largest: int) -> Floats:
    """Sums in units of 2^-26 as activations: to the nearest, halves up."""
    return np.clip(np.floor(sums * 2.0**-WEIGHT + 0.5), -largest, largest)
