"""Trained networks as layers of whole numbers."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from models import MLP, Convolutional, Linear, Network, Residual
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
    TransposedConvolution,
)
from ppl_vae.coding.tables import ACTIVATIONS, FRACTION, Ints, activation_table
from ppl_vae.errors import InputError

__all__ = ["affine", "layers_of", "whole"]

_BIAS = WEIGHT + FRACTION


def layers_of(network: Network, scale: float = 1.0) -> tuple[Layer, ...]:
    """A trained network in fixed point.

    Args:
        network: An `MLP`, `Linear`, `Convolutional` or `Residual`.
        scale: A factor for the inputs that the first layer takes up.

    Raises:
        InputError: If it is another network, or its weights are not finite.
    """
    if type(network) not in (MLP, Linear, Convolutional, Residual):
        raise InputError(
            "expected the networks MLP, Linear, Convolutional or Residual, which have a form in "
            f"whole numbers; got {type(network).__name__}; train with one of them"
        )
    flat = isinstance(network, MLP | Linear)
    inner: Any = network  # each of them has the one or the other
    modules = [inner.linear] if isinstance(network, Linear) else [*inner.layers]
    layers: list[Layer] = [Reshape((prod(network.inputs),))] if flat else []
    for number, module in enumerate(modules):
        layers.append(_layer_of(module, scale if number == 0 else 1.0))
    return (*layers, Reshape(network.outputs))


def affine(weight: torch.Tensor, bias: torch.Tensor, scale: float = 1.0) -> Affine:
    """y = W x + b in fixed point, for inputs in units of `scale`."""
    return Affine(whole(weight, WEIGHT, scale), whole(bias, _BIAS))


def _layer_of(module: Any, scale: float) -> Layer:
    name = type(module).__name__
    if isinstance(module, nn.Linear):
        return affine(module.weight, module.bias, scale)
    if isinstance(module, nn.Conv2d):
        weight, bias = whole(module.weight, WEIGHT, scale), whole(module.bias, _BIAS)
        edge = int(module.padding[0])
        return Convolution(weight, bias, module.stride[0], (edge, edge))
    if isinstance(module, nn.ConvTranspose2d):
        weight = whole(module.weight, WEIGHT, scale).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1].copy()
        height, width = module.output_padding
        bias, padding = whole(module.bias, _BIAS), int(module.padding[0])
        return TransposedConvolution(weight, bias, module.stride[0], padding, (height, width))
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


def whole(tensor: Any, fraction: int, scale: float = 1.0) -> Ints:
    """A tensor times a factor, in units of 2^-fraction, to the nearest.

    Raises:
        InputError: If a value is not finite, or too large.
    """
    scaled = np.floor(tensor.detach().cpu().double().numpy() * scale * 2.0**fraction + 0.5)
    if not (np.abs(scaled) < EXACT).all():
        raise InputError("expected weights that are finite numbers of a moderate size; train again")
    return scaled.astype(np.int64)
