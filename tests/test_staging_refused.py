"""What a graph would silently get wrong is refused, and what it gets right is not."""

import logging
import random
import sys
import threading
from collections import deque
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from test_staging import loss_and_gradients
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from guides import DiagonalNormal
from models import VAE, Spec
from ppl_vae.compiling import compile_staged
from ppl_vae.objectives import ELBO
from ppl_vae.staging import NotStageable, stage


class _Frozen(DiagonalNormal):
    """Has a parameter that no module owns."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        shift = pyro.param("shift", torch.zeros(self.spec.latent_dim))
        return dist.Normal(super().posterior(x).mean + shift, 1.0).to_event(1)


class _Straight(torch.autograd.Function):
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
        return dist.Normal(loc + _Straight.apply(3 * loc), 1.0).to_event(1)


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
    (_Frozen, "cannot be traced: Support for global pyro.param"),
    (_StraightThrough, "has a backward pass of its own, that of _Straight"),
    (_Branching, "cannot be traced: .numpy"),
    (_BranchingOnTensors, "a branch in Python depends on the data; use torch.where"),
    (_Counting, "changes guide.calls in Python with every call; make it a buffer"),
    (_CountingInside, "changes guide.kept in Python"),
    (_CountingInClass, "changes _CountingInClass.calls in Python"),
    (_CountingBeside, "changes test_staging_refused._calls in Python"),
    (_CountingTensor, "changes guide.calls in Python"),
    (_Random, "draws from Python's random; use torch.rand"),
    (_NumPyRandom, "draws from NumPy's random; use torch.rand"),
    (_Queueing, "changes guide.kept in Python"),
    (_CountingInSlots, "changes guide.kept in Python"),
    (_OwnRandom, "changes guide.kept in Python"),
    (_OwnNumPyRandom, "changes guide.kept in Python"),
    (_Iterating, "changes guide.kept in Python"),
    (_CountingInClosure, "changes guide.kept in Python"),
    (_CountingInDictionaryBeside, "changes test_staging_refused._counts in Python"),
    (_CountingInObjectBeside, "changes test_staging_refused._slots in Python"),
    (_CountingInClosureBeside, "changes test_staging_refused._closure in Python"),
    (_CountingInArguments, "changes guide.kept in Python"),
    (_CountingInClassBeside, r"changes _Beside\.calls in Python"),
    (_CountingInFunction, r"changes test_staging_refused\._count in Python"),
    (_CountingInHook, "changes a variable of a hook on guide.encoder in Python"),
    (_HookedParameter, "has a hook on the parameter guide.encoder.layers.0.weight"),
    (_Clipping, "puts a hook on a tensor, which no staged loss has"),
]


@pytest.mark.parametrize(("guide", "why"), SILENTLY_WRONG)
def test_what_a_graph_would_silently_get_wrong_is_refused(guide, why):
    spec = Spec((1, 5, 4), "binary", 3)
    x = torch.rand(6, 1, 5, 4).round()
    x[0] = 0
    with pytest.raises(NotStageable, match=why) as caught:
        stage(VAE(spec), guide(spec), ELBO(), (x,))
    assert "\n" not in str(caught.value)


class _CountingObjective(ELBO):
    calls = 0

    def loss(self, *arguments, **options) -> Tensor:
        type(self).calls += 1
        return super().loss(*arguments, **options) * (2.0 if self.calls > 1000 else 1.0)


def test_an_objective_that_counts_in_its_class_is_refused():
    spec = Spec((1, 5, 4), "binary", 3)
    with pytest.raises(NotStageable, match=r"changes _CountingObjective\.calls in Python"):
        stage(VAE(spec), DiagonalNormal(spec), _CountingObjective(), (torch.ones(6, 1, 5, 4),))


class _Empty(DiagonalNormal):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.empty = nn.Parameter(torch.empty(3, 0))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        q = super().posterior(x)
        return dist.Normal(q.mean + self.empty.sum(), q.stddev).to_event(1)


def test_a_parameter_without_elements_is_staged():
    spec = Spec((1, 5, 4), "binary", 3)
    x = torch.ones(6, 1, 5, 4)
    compiled = compile_staged(stage(VAE(spec), _Empty(spec), ELBO(), (x,)), (x,))
    assert compiled(x)[1]["guide.empty"].shape == (3, 0)


def test_a_parameter_that_no_module_owns_is_refused_where_pyro_allows_it():
    spec = Spec((1, 5, 4), "binary", 3)
    with pyro.settings.context(module_local_params=False):
        model, guide = VAE(spec), _Frozen(spec)
        with pytest.raises(NotStageable, match="has a parameter shift that no module owns"):
            stage(model, guide, ELBO(), (torch.rand(6, 1, 5, 4).round(),))


class _Constrained(DiagonalNormal):
    """Has a parameter that is not its own unconstrained value."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.scale = PyroParam(torch.ones(spec.latent_dim), constraints.positive)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(super().posterior(x).mean, self.scale).to_event(1)


class _Masked(DiagonalNormal):
    """Has buffers that no arithmetic tells to be the same."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.register_buffer("kept", torch.tensor([True, False, True]))
        self.register_buffer("infinite", torch.full((3,), -torch.inf))
        self.register_buffer("empty", torch.empty(0))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        loc = super().posterior(x).mean * self.kept + self.infinite.exp()
        return dist.Normal(loc, 1.0).to_event(1)


class _Caching(DiagonalNormal):
    """Keeps a tensor in Python that it makes when it is first needed."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.cache: dict[str, Tensor] = {}

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        factor = self.cache.setdefault("factor", torch.ones(self.spec.latent_dim))
        return dist.Normal(factor * super().posterior(x).mean, 1.0).to_event(1)


class _Remembering(_Caching):
    """Keeps its last result too."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        self.cache["last"] = super().posterior(x).mean
        return dist.Normal(self.cache["last"], 1.0).to_event(1)


def test_a_cache_that_would_hold_what_was_traced_is_refused():
    spec = Spec((1, 5, 4), "binary", 3)
    model, guide = VAE(spec), _Remembering(spec)
    x = torch.rand(6, 1, 5, 4).round()
    with pytest.raises(NotStageable, match=r"changes guide.cache in Python with every call"):
        stage(model, guide, ELBO(), (x,))
    assert ELBO().loss(model, guide, x).isfinite()
    assert not any(isinstance(value, FakeTensor) for value in guide.cache.values())


class _Node:
    __slots__ = ("other", "parent")


class _Raising:
    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class _Odd(DiagonalNormal):
    """Keeps what cannot well be looked into, and logs."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        nodes = [_Node(), _Node()]
        for node, other in (nodes, reversed(nodes)):
            node.parent, node.other = other, node
        self.nodes = nodes
        self.odd = [_Raising(), {_Raising(): 1}, threading.Lock(), sys.stderr]
        self.sparse = torch.eye(3).to_sparse()
        self.empty = torch.empty(3, device="meta")
        self.many = list(range(10**6))
        self.log = logging.getLogger("odd")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        self.log.debug("called")
        _log.debug("called")
        return super().posterior(x)


_log = logging.getLogger("beside")


class _Undecided(DiagonalNormal):
    """Has an attribute that is not equal to itself."""

    best = float("nan")

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.bound = float("nan")
        self.coarse = torch.ones(2, dtype=torch.bfloat16)


@pytest.mark.parametrize("guide", [_Constrained, _Masked, _Caching, _Odd, _Undecided])
def test_what_a_graph_gets_right_is_staged(guide):
    spec = Spec((1, 5, 4), "binary", 3)
    model, guide = VAE(spec), guide(spec)
    x = torch.rand(6, 1, 5, 4).round()
    staged = stage(model, guide, ELBO(), (x,))
    fresh = x.roll(1, 0)
    eager = loss_and_gradients(lambda x: ELBO().loss(model, guide, x), [model, guide], fresh)
    got = loss_and_gradients(staged, [model, guide], fresh)
    assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))
    for value in getattr(guide, "cache", {}).values():
        assert not isinstance(value, FakeTensor)
        assert value.isfinite().all()
