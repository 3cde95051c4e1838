"""Guides that a graph of tensor operations would silently get wrong, and why it is refused."""

import random
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guides import DiagonalNormal

__all__ = ["SILENTLY_WRONG", "Frozen", "Straight"]


class Frozen(DiagonalNormal):
    """Has a parameter that no module owns."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        shift = pyro.param("shift", torch.zeros(self.spec.latent_dim))
        return dist.Normal(super().posterior(x).mean + shift, 1.0).to_event(1)


class _Scaled(DiagonalNormal):
    """Takes the scale of q(z|x) from Python."""

    def scale(self, x: Tensor) -> Any:
        raise NotImplementedError

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(super().posterior(x).mean, self.scale(x)).to_event(1)


class _Branching(_Scaled):
    def scale(self, x: Tensor) -> float:
        return 2.0 if x.detach().numpy().std() > 0.4 else 1.0


class _BranchingOnTensors(_Scaled):
    def scale(self, x: Tensor) -> float:
        return 2.0 if x.std() > 0.4 else 1.0


class Straight(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class _BranchingInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient / 2 if gradient.abs().max() > 1e6 else gradient


class _OwnBackward(DiagonalNormal):
    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(_BranchingInBackward.apply(q.mean), q.stddev).to_event(1)


# These change so rarely that no trial shows it, but their attributes move.


class _Counting(_Scaled):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.calls = 0

    def scale(self, x: Tensor) -> float:
        self.calls += 1
        return 2.0 if self.calls > 1000 else 1.0


class _CountingInside(_Scaled):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.kept = {"calls": [0]}

    def scale(self, x: Tensor) -> float:
        self.kept["calls"][0] += 1
        return 2.0 if self.kept["calls"][0] > 1000 else 1.0


class _CountingTensor(_Scaled):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.calls = torch.zeros(())

    def scale(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.where(self.calls > 1000, 2.0, 1.0)


class _Random(_Scaled):
    def scale(self, x: Tensor) -> float:
        return 2.0 if random.random() < 1e-6 else 1.0


class _NumPyRandom(_Scaled):
    def scale(self, x: Tensor) -> float:
        return 2.0 if np.random.rand() < 1e-6 else 1.0


class _CountingHook(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.calls = 0

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        q = super().posterior(x)
        loc = q.mean
        if loc.requires_grad:
            loc.register_hook(self.count)
        return dist.Normal(loc, q.stddev).to_event(1)

    def count(self, gradient: Tensor) -> Tensor:
        self.calls += 1
        return gradient / 2 if self.calls > 1000 else gradient


class _HookedParameter(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        for parameter in self.encoder.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-1e6, 1e6))


# The state of these is nowhere in their attributes, but it shows in the loss.


class _OwnRandom(_Scaled):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.generator = np.random.default_rng(1)

    def scale(self, x: Tensor) -> float:
        return 1.0 + self.generator.random()


_counts = {"calls": 0}


class _CountingBeside(_Scaled):
    def scale(self, x: Tensor) -> float:
        _counts["calls"] += 1
        return 1.0 + _counts["calls"]


class _CountingInClass(_Scaled):
    calls = 0

    def scale(self, x: Tensor) -> float:
        type(self).calls += 1
        return 1.0 + self.calls


class _CountingForwardHook(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        calls = 0

        def count(module, inputs, output) -> Tensor:
            nonlocal calls
            calls += 1
            return output * calls

        self.encoder.register_forward_hook(count)


_ANOTHER = "is another function in each call, in which its value is off by"

SILENTLY_WRONG = [
    (Frozen, r"pyro\.param"),
    (_Branching, "cannot be traced: .numpy"),
    (_BranchingOnTensors, "a branch in Python depends on the data; use torch.where"),
    (_OwnBackward, "a branch in Python depends on the data; use torch.where"),
    (_Counting, "changes guide.calls in Python with every call; make it a buffer"),
    (_CountingInside, "changes guide.kept in Python"),
    (_CountingTensor, "changes guide.calls in Python"),
    (_Random, "draws from Python's random; use torch.rand"),
    (_NumPyRandom, "draws from NumPy's random; use torch.rand"),
    (_CountingHook, "changes guide.calls in Python"),
    (_HookedParameter, "has a hook on the parameter guide.encoder.layers.0.weight"),
    (_OwnRandom, _ANOTHER),
    (_CountingBeside, _ANOTHER),
    (_CountingInClass, _ANOTHER),
    (_CountingForwardHook, _ANOTHER),
]
