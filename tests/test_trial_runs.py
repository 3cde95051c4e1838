"""Programs that a graph would silently get wrong are refused, and no others."""

import threading

import pyro.distributions as dist
import pytest
import torch
from comparing import assert_equal, outcome
from pyro.distributions import constraints
from pyro.nn import PyroParam
from silently_wrong import SILENTLY_WRONG
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from guides import DiagonalNormal, Guide
from models import MLP, VAE, Spec
from ppl_vae.compiler.comparison import NotCompilable, with_gradients
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3)


def images() -> Tensor:
    x = torch.rand(6, 1, 5, 4).round()
    x[0] = 0
    return x


@pytest.mark.parametrize(("guide", "why"), SILENTLY_WRONG)
def test_what_a_graph_would_silently_get_wrong_is_refused(guide: type[Guide], why: str) -> None:
    step = SVIStep(VAE(SPEC), guide(SPEC), ELBO())
    with pytest.raises(NotCompilable, match=why) as caught:
        step.compile((images(),))
    assert "\n" not in str(caught.value)
    assert not step.compiled


class _CountingObjective(ELBO):
    calls = 0

    def loss(self, *arguments, **options) -> Tensor:
        type(self).calls += 1
        return super().loss(*arguments, **options) * self.calls


def test_an_objective_that_counts_is_refused() -> None:
    pair = PairLoss(VAE(SPEC), DiagonalNormal(SPEC), _CountingObjective())
    with pytest.raises(NotCompilable, match="is another function in each call"):
        trace_programs(pair, (images(),))


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
    """Keeps a tensor in Python that it makes when it is first needed, and its last result."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.cache: dict[str, Tensor] = {}

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        factor = self.cache.setdefault("factor", torch.ones(self.spec.latent_dim))
        self.cache["last"] = self.last = factor * super().posterior(x).mean
        return dist.Normal(self.last, 1.0).to_event(1)


class _Clamped(DiagonalNormal):
    """Changes its parameters itself."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        with torch.no_grad():
            self.encoder.layers[0].weight.clamp_(-0.1, 0.1)
        return super().posterior(x)


class _Odd(DiagonalNormal):
    """Keeps what cannot be copied or is not equal to itself."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.lock = threading.Lock()
        self.itself = [self.lock]
        self.itself.append(self.itself)
        self.sparse = torch.eye(3).to_sparse()
        self.bound = float("nan")
        self.activation = lambda value: value


@pytest.mark.parametrize("guide", [_Constrained, _Masked, _Caching, _Clamped, _Odd])
def test_what_a_graph_gets_right_is_traced(guide: type[Guide]) -> None:
    pair = PairLoss(VAE(SPEC, network=MLP), guide(SPEC), ELBO())
    x = images()
    pair(x)  # then attributes hold tensors with a history in autograd
    state = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    traced = trace_programs(pair, (x,))
    assert_equal(pair.state_dict(), state)
    other = x.roll(1, 0)
    assert_equal(outcome(traced, other), outcome(with_gradients(pair), other))
    kept = [*getattr(pair.guide, "cache", {}).values(), getattr(pair.guide, "last", torch.ones(()))]
    for value in kept:
        assert not isinstance(value, FakeTensor)
        assert value.isfinite().all()
