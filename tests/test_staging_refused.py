"""What a graph would silently get wrong is refused, and what it gets right is not."""

import logging
import sys
import threading
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from silently_wrong import SILENTLY_WRONG
from test_staging import loss_and_gradients
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from guides import DiagonalNormal
from models import VAE, Spec
from ppl_vae.compiler.comparison import NotStageable
from ppl_vae.compiler.compiling import compile_staged
from ppl_vae.compiler.trial_runs import stage
from ppl_vae.objectives import ELBO


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
