"""Guides that a graph of tensor operations would silently get wrong, and why it is refused."""

import random
from collections import deque
from functools import partial
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


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class _StraightThrough(DiagonalNormal):
    """Rounds, and passes gradients through as if it had not."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        loc = super().posterior(x).mean
        return dist.Normal(loc + Straight.apply(3 * loc), 1.0).to_event(1)


class _Branching(DiagonalNormal):
    """Depends on the data through Python."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        scale = 2.0 if x.detach().numpy().std() > 0.4 else 1.0
        return dist.Normal(super().posterior(x).mean, scale).to_event(1)


class _Counting(DiagonalNormal):
    """Changes with every call, through Python."""

    calls = 0

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        self.calls += 1
        return dist.Normal(super().posterior(x).mean * self.calls, 1.0).to_event(1)


class _BranchingOnTensors(DiagonalNormal):
    """Depends on the data through Python, as tensors allow."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        scale = 2.0 if x.std() > 0.4 else 1.0
        return dist.Normal(super().posterior(x).mean, scale).to_event(1)


# What follows changes its scale so rarely, or with such numbers only, that no trial shows it.


class _Rare(DiagonalNormal):
    def rare(self) -> bool:
        raise NotImplementedError

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        scale = 2.0 if self.rare() else 1.0
        return dist.Normal(super().posterior(x).mean, scale).to_event(1)


class _CountingInside(_Rare):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.kept = {"calls": [0]}

    def rare(self) -> bool:
        self.kept["calls"][0] += 1
        return self.kept["calls"][0] > 1000


class _CountingInClass(_Rare):
    calls = 0

    def rare(self) -> bool:
        type(self).calls += 1
        return self.calls > 1000


_calls = 0


class _CountingBeside(_Rare):
    def rare(self) -> bool:
        global _calls
        _calls += 1
        return _calls > 1000


class _CountingTensor(DiagonalNormal):
    """Counts in a tensor that is no buffer."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.calls = torch.zeros(())

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        self.calls += 1
        scale = torch.where(self.calls > 1000, 2.0, 1.0)
        return dist.Normal(super().posterior(x).mean, scale).to_event(1)


class _Random(_Rare):
    def rare(self) -> bool:
        return random.random() < 1e-6


class _NumPyRandom(_Rare):
    def rare(self) -> bool:
        return np.random.rand() < 1e-6


class _Keeping(_Rare):
    """Changes something that it keeps, which has no attributes that one could look at."""

    kept: Any = None

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.kept = self.new()

    def new(self) -> Any:
        raise NotImplementedError


class _Queueing(_Keeping):
    def new(self) -> deque:
        return deque()

    def rare(self) -> bool:
        self.kept.append(1)
        return len(self.kept) > 1000


class _Slots:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class _CountingInSlots(_Keeping):
    def new(self) -> _Slots:
        return _Slots()

    def rare(self) -> bool:
        self.kept.calls += 1
        return self.kept.calls > 1000


class _OwnRandom(_Keeping):
    def new(self) -> random.Random:
        return random.Random(1)

    def rare(self) -> bool:
        return self.kept.random() < 1e-6


class _OwnNumPyRandom(_Keeping):
    def new(self) -> np.random.Generator:
        return np.random.default_rng(1)

    def rare(self) -> bool:
        return self.kept.random() < 1e-6


class _Iterating(_Keeping):
    def new(self) -> Any:
        return (number > 1000 for number in range(10**9))

    def rare(self) -> bool:
        return next(self.kept)


def _counter() -> Any:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


class _CountingInClosure(_Keeping):
    def new(self) -> Any:
        return _counter()

    def rare(self) -> bool:
        return self.kept() > 1000


_counts = {"calls": 0}
_slots = _Slots()
_closure = _counter()


class _CountingInDictionaryBeside(_Rare):
    def rare(self) -> bool:
        _counts["calls"] += 1
        return _counts["calls"] > 1000


class _CountingInObjectBeside(_Rare):
    def rare(self) -> bool:
        _slots.calls += 1
        return _slots.calls > 1000


class _CountingInClosureBeside(_Rare):
    def rare(self) -> bool:
        return _closure() > 1000


class _CountingInArguments(_Keeping):
    def new(self) -> Any:
        def count(calls: list[int]) -> int:
            calls[0] += 1
            return calls[0]

        return partial(count, [0])

    def rare(self) -> bool:
        return self.kept() > 1000


class _Beside:
    calls = 0


class _CountingInClassBeside(_Rare):
    def rare(self) -> bool:
        _Beside.calls += 1
        return _Beside.calls > 1000


def _count() -> int:
    _count.calls += 1  # type: ignore[attr-defined]
    return _count.calls  # type: ignore[attr-defined]


_count.calls = 0  # type: ignore[attr-defined]


class _CountingInFunction(_Rare):
    def rare(self) -> bool:
        return _count() > 1000


class _CountingInHook(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        calls = 0

        def count(module, inputs, output) -> Tensor | None:
            nonlocal calls
            calls += 1
            return 2 * output if calls > 1000 else None

        self.encoder.register_forward_hook(count)
        self.encoder.register_forward_hook(lambda module, inputs, output: None)


class _HookedParameter(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        for parameter in self.encoder.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-1e6, 1e6))


class _Clipping(DiagonalNormal):
    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        loc = super().posterior(x).mean
        if loc.requires_grad:
            loc.register_hook(lambda gradient: gradient.clamp(-1e6, 1e6))
        return dist.Normal(loc, 1.0).to_event(1)


SILENTLY_WRONG = [
    (Frozen, "cannot be traced: Support for global pyro.param"),
    (_StraightThrough, "has a backward pass of its own, that of Straight"),
    (_Branching, "cannot be traced: .numpy"),
    (_BranchingOnTensors, "a branch in Python depends on the data; use torch.where"),
    (_Counting, "changes guide.calls in Python with every call; make it a buffer"),
    (_CountingInside, "changes guide.kept in Python"),
    (_CountingInClass, "changes _CountingInClass.calls in Python"),
    (_CountingBeside, "changes silently_wrong._calls in Python"),
    (_CountingTensor, "changes guide.calls in Python"),
    (_Random, "draws from Python's random; use torch.rand"),
    (_NumPyRandom, "draws from NumPy's random; use torch.rand"),
    (_Queueing, "changes guide.kept in Python"),
    (_CountingInSlots, "changes guide.kept in Python"),
    (_OwnRandom, "changes guide.kept in Python"),
    (_OwnNumPyRandom, "changes guide.kept in Python"),
    (_Iterating, "changes guide.kept in Python"),
    (_CountingInClosure, "changes guide.kept in Python"),
    (_CountingInDictionaryBeside, "changes silently_wrong._counts in Python"),
    (_CountingInObjectBeside, "changes silently_wrong._slots in Python"),
    (_CountingInClosureBeside, "changes silently_wrong._closure in Python"),
    (_CountingInArguments, "changes guide.kept in Python"),
    (_CountingInClassBeside, r"changes _Beside\.calls in Python"),
    (_CountingInFunction, r"changes silently_wrong\._count in Python"),
    (_CountingInHook, "changes a variable of a hook on guide.encoder in Python"),
    (_HookedParameter, "has a hook on the parameter guide.encoder.layers.0.weight"),
    (_Clipping, "puts a hook on a tensor, which no staged loss has"),
]
