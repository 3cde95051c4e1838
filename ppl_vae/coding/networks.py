"""Trained networks as layers of whole numbers."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from models import MLP, Cells, Convolutional, Linear, Residual
from ppl_vae.coding.fixed_point import (
    EXACT,
    WEIGHT,
    Affine,
    Convolution,
    Layer,
    Lookup,
    Rectifier,
    Reshape,
    SkipConnection,
    Stride,
    TransposedConvolution,
)
from ppl_vae.coding.tables import ACTIVATIONS, FRACTION, Ints, activation_table
from ppl_vae.errors import InputError

__all__ = ["affine", "layers_of", "refused", "whole"]

_BIAS = WEIGHT + FRACTION


def layers_of(network: nn.Module, scale: float = 1.0) -> tuple[Layer, ...]:
    """A trained network in fixed point.

    Args:
        network: An `MLP`, `Linear`, `Convolutional`, `Residual` or `Cells`.
        scale: A factor for the inputs that the first layer takes up.

    Raises:
        InputError: If it is another network, or its weights are not finite.
    """
    if type(network) not in (MLP, Linear, Convolutional, Residual, Cells):
        raise InputError(
            "expected the networks MLP, Linear, Convolutional, Residual or Cells, which have a "
            f"form in whole numbers; got {type(network).__name__}; train with one of them"
        )
    inner: Any = network  # each of them has the one or the other
    modules = [inner.linear] if isinstance(network, Linear) else [*inner.layers]
    flat = isinstance(network, MLP | Linear)
    layers: list[Layer] = [Reshape((prod(inner.inputs),))] if flat else []
    for module in modules:
        if not isinstance(module, nn.Identity):
            layers.append(_layer_of(module, scale))
        if hasattr(module, "weight"):
            scale = 1.0
    return (*layers, Reshape(inner.outputs))


def affine(weight: torch.Tensor, bias: torch.Tensor, scale: float = 1.0) -> Affine:
    """y = W x + b in fixed point, for inputs in units of `scale`."""
    return Affine(whole(weight, WEIGHT, scale), whole(bias, _BIAS))


def _layer_of(module: Any, scale: float) -> Layer:
    name = type(module).__name__
    if isinstance(module, nn.Linear):
        return affine(module.weight, module.bias, scale)
    if isinstance(module, nn.Conv2d):
        weight, bias = whole(module.weight, WEIGHT, scale), whole(module.bias, _BIAS)
        rows, columns = map(int, module.padding)
        return Convolution(weight, bias, _stride(module), (rows, columns))
    if isinstance(module, nn.ConvTranspose2d):
        weight = whole(module.weight, WEIGHT, scale).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1].copy()
        height, width = module.output_padding
        bias, padding = whole(module.bias, _BIAS), int(module.padding[0])
        return TransposedConvolution(weight, bias, _stride(module), padding, (height, width))
    if isinstance(module, nn.ReLU | nn.LeakyReLU):
        slope = getattr(module, "negative_slope", 0.0)
        return Rectifier(round(slope * 2**WEIGHT))
    if isinstance(module, nn.Flatten):
        return Reshape((-1,))
    if isinstance(module, nn.Unflatten):
        return Reshape(tuple(module.unflattened_size))
    if name in ACTIVATIONS:
        return Lookup(activation_table(name))
    return SkipConnection(tuple(_layer_of(each, 1.0) for each in module.layers))  # a residual block


def _stride(module: Any) -> Stride:
    down, right = module.stride
    return down if down == right else (down, right)


def whole(tensor: Any, fraction: int, scale: float = 1.0) -> Ints:
    """A tensor times a factor, in units of 2^-fraction, to the nearest.

    Raises:
        InputError: If a value is not finite, or too large.
    """
    scaled = np.floor(tensor.detach().cpu().double().numpy() * scale * 2.0**fraction + 0.5)
    if not (np.abs(scaled) < EXACT).all():
        raise InputError("expected weights that are finite numbers of a moderate size; train again")
    return scaled.astype(np.int64)


def refused(role: str, piece: object, choices: str) -> InputError:
    """Says which pieces code, of which the first one is the remedy."""
    return InputError(
        f"expected the {role} {choices}, whose latents have one-dimensional distribution functions "
        f"in turn; got {type(piece).__name__}; train with --{role} "
        f"{choices.split()[0].rstrip(',')}"
    )
