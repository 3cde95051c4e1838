"""Guides that a graph of tensor operations would silently get wrong, and why it is refused."""

import random
from collections.abc import Callable
from copy import deepcopy
from itertools import count
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guides import DiagonalNormal, Guide

__all__ = ["SILENTLY_WRONG", "Straight", "scaled_by"]


def scaled_by(scale: Callable[[Any, Tensor], Any], **attributes: Any) -> type[Guide]:
    """A guide that takes the scale of q(z|x) from Python, with attributes of its own."""

    class Scaled(DiagonalNormal):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            vars(self).update(deepcopy(attributes))

        def posterior(self, x: Tensor) -> dist.TorchDistribution:
            return dist.Normal(super().posterior(x).mean, scale(self, x)).to_event(1)

    return Scaled


class Straight(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class _Halving(Straight):
    """Branches in its backward pass."""

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient / 2 if gradient.abs().max() > 1e6 else gradient


class _OwnBackward(DiagonalNormal):
    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(_Halving.apply(q.mean), q.stddev).to_event(1)


# These change so rarely that no trial shows it, but their attributes move.


def counting(guide: Any, x: Tensor) -> float:
    guide.calls += 1
    return 2.0 if guide.calls > 1000 else 1.0


def counting_inside(guide: Any, x: Tensor) -> float:
    guide.kept["calls"][0] += 1
    return 2.0 if guide.kept["calls"][0] > 1000 else 1.0


class _CountingHook(DiagonalNormal):
    calls = 0

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        q = super().posterior(x)
        loc = q.mean
        if loc.requires_grad:
            loc.register_hook(lambda gradient: gradient / counting(self, x))
        return dist.Normal(loc, q.stddev).to_event(1)


class _HookedParameter(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        for parameter in self.encoder.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-1e6, 1e6))


# The state of these is nowhere in their attributes, but it shows in the loss.


def counting_in_class(guide: Any, x: Tensor) -> float:
    kind: Any = type(guide)
    kind.calls = getattr(kind, "calls", 0) + 1
    return 1.0 + kind.calls


class _CountingForwardHook(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        calls = count(1)
        self.encoder.register_forward_hook(lambda module, inputs, output: output * next(calls))


_BESIDE = count(1)
_BRANCH = "a branch in Python depends on the data; use torch.where"
_COUNTS = "changes guide.calls in Python with every call; make it a buffer"
_ANOTHER = "is another function in each call, in which its value is off by"

SILENTLY_WRONG = [
    (
        scaled_by(lambda guide, x: pyro.param("scale", torch.ones(guide.spec.latent_dim))),
        r"\.param",
    ),
    (scaled_by(lambda guide, x: 1.0 + (x.detach().numpy().std() > 0.4)), "be traced: .numpy"),
    (scaled_by(lambda guide, x: 2.0 if x.std() > 0.4 else 1.0), _BRANCH),
    (_OwnBackward, _BRANCH),
    (scaled_by(counting, calls=0), _COUNTS),
    (scaled_by(counting, calls=torch.zeros(())), _COUNTS),
    (scaled_by(counting_inside, kept={"calls": [0]}), "changes guide.kept in Python"),
    (_CountingHook, _COUNTS),
    (scaled_by(lambda guide, x: 1.0 + (random.random() < 1e-6)), "Python's random; use torch.rand"),
    (scaled_by(lambda guide, x: 1.0 + (np.random.rand() < 1e-6)), "NumPy's random; use torch.rand"),
    (_HookedParameter, "has a hook on the parameter guide.encoder.layers.0.weight"),
    (
        scaled_by(
            lambda guide, x: 1.0 + guide.generator.random(), generator=np.random.default_rng(1)
        ),
        _ANOTHER,
    ),
    (scaled_by(lambda guide, x: float(next(_BESIDE))), _ANOTHER),
    (scaled_by(counting_in_class), _ANOTHER),
    (_CountingForwardHook, _ANOTHER),
]
