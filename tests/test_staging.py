"""A staged graph is the eager program, or it is refused."""

import random
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from guides import DiagonalNormal, Guide
from models import (
    MLP,
    VAE,
    Convolutional,
    Gaussian,
    Linear,
    Model,
    Network,
    ProbabilisticPCA,
    Spec,
)
from ppl_vae.compiling import compile_measurement, compile_staged
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.precision import matrix_precision
from ppl_vae.staging import NotStageable, stage, with_gradients
from ppl_vae.svi import SVIStep

NETWORKS = {
    "Linear": Linear,
    "MLP": partial(MLP, hidden=(6, 5)),
    "Convolutional": partial(Convolutional, channels=(3, 4), hidden=7),
}


def _images(domain: str) -> Tensor:
    return torch.rand(6, 1, 5, 4).round() if domain == "binary" else torch.rand(6, 1, 5, 4)


def _pair(name: str, network: str) -> tuple[Model, Guide, Tensor]:
    domain = "binary" if name == "Bernoulli" else "real"
    spec = Spec((1, 5, 4), domain, 3)
    built = NETWORKS[network]
    if name == "ProbabilisticPCA":
        model: Model = ProbabilisticPCA(spec)
    elif name == "Bernoulli":
        model = VAE(spec, network=built)
    else:
        model = VAE(spec, likelihood=Gaussian(spec, scale=name), network=built)
    return model, DiagonalNormal(spec, network=built), _images(domain)


def _loss_and_gradients(loss, modules: list[nn.Module], x: Tensor) -> list[Tensor]:
    torch.manual_seed(7)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    value = loss(x)
    return [value.detach(), *torch.autograd.grad(value, parameters)]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["Bernoulli", "shared", "pixel", "network", "ProbabilisticPCA"])
@pytest.mark.parametrize("objective", [ELBO(), ELBO(particles=3), ELBO(analytic_kl=True)], ids=str)
def test_a_staged_loss_and_its_gradients_are_those_of_the_programs(name, network, objective):
    model, guide, x = _pair(name, network)
    staged = stage(model, guide, objective, (x,))
    fresh = x.roll(1, 0)
    eager = _loss_and_gradients(lambda x: objective.loss(model, guide, x), [model, guide], fresh)
    got = _loss_and_gradients(staged, [model, guide], fresh)
    assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))
    assert {id(p) for p in staged.parameters()} <= {
        id(p) for module in (model, guide) for p in module.parameters()
    }


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize(
    ("analytic_kl", "stock"), [(False, Trace_ELBO), (True, TraceMeanField_ELBO)]
)
def test_the_estimators_are_pyros(particles, analytic_kl, stock):
    model, guide, x = _pair("Bernoulli", "MLP")
    reference = stock(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
    )
    ours = ELBO(particles, analytic_kl)
    expected = _loss_and_gradients(
        lambda x: reference.differentiable_loss(model, guide, x) / len(x), [model, guide], x
    )
    got = _loss_and_gradients(lambda x: ours.loss(model, guide, x), [model, guide], x)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # float32, sums in another order


def test_a_batch_that_is_a_view_of_more_images():
    model, guide, x = _pair("Bernoulli", "MLP")
    staged = stage(model, guide, IWAE(5), (x[1:3],))
    for images in (x[1:3], x[3:5].clone()):
        eager = _loss_and_gradients(lambda x: IWAE(5).loss(model, guide, x), [model, guide], images)
        got = _loss_and_gradients(staged, [model, guide], images)
        assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))


def test_the_programs_run_on_real_tensors_after_staging():
    model, guide, x = _pair("Bernoulli", "MLP")
    stage(model, guide, ELBO(), (x,))
    assert torch.isfinite(ELBO().loss(model, guide, x))
    assert not pyro.get_param_store().keys()


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
    (_CountingBeside, "changes test_staging._calls in Python"),
    (_CountingTensor, "changes guide.calls in Python"),
    (_Random, "draws from Python's random; use torch.rand"),
    (_NumPyRandom, "draws from NumPy's random; use torch.rand"),
    (_Clipping, "puts a hook on a tensor, which no graph keeps"),
]


@pytest.mark.parametrize(("guide", "why"), SILENTLY_WRONG)
def test_what_a_graph_would_silently_get_wrong_is_refused(guide, why):
    spec = Spec((1, 5, 4), "binary", 3)
    x = torch.rand(6, 1, 5, 4).round()
    x[0] = 0
    with pytest.raises(NotStageable, match=why) as caught:
        stage(VAE(spec), guide(spec), ELBO(), (x,))
    assert "\n" not in str(caught.value)


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


class _Undecided(DiagonalNormal):
    """Has an attribute that is not equal to itself."""

    best = float("nan")

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.bound = float("nan")


@pytest.mark.parametrize("guide", [_Constrained, _Masked, _Caching, _Undecided])
def test_what_a_graph_gets_right_is_staged(guide):
    spec = Spec((1, 5, 4), "binary", 3)
    model, guide = VAE(spec), guide(spec)
    x = torch.rand(6, 1, 5, 4).round()
    staged = stage(model, guide, ELBO(), (x,))
    fresh = x.roll(1, 0)
    eager = _loss_and_gradients(lambda x: ELBO().loss(model, guide, x), [model, guide], fresh)
    got = _loss_and_gradients(staged, [model, guide], fresh)
    assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))
    for value in getattr(guide, "cache", {}).values():
        assert not isinstance(value, FakeTensor)
        assert value.isfinite().all()


def test_the_mode_of_the_pair_is_that_of_the_graph():
    class Dropping(DiagonalNormal):
        def posterior(self, x: Tensor) -> dist.TorchDistribution:
            dropped = nn.functional.dropout(x, 0.5, self.training)
            return super().posterior(dropped)

    spec = Spec((1, 5, 4), "binary", 3)
    model, guide = VAE(spec), Dropping(spec)
    x = torch.rand(6, 1, 5, 4).round()
    for mode in (True, False):
        guide.train(mode)
        staged = stage(model, guide, ELBO(), (x,))
        torch.manual_seed(0)
        expected = ELBO().loss(model, guide, x)
        torch.manual_seed(0)
        assert torch.equal(staged(x), expected)


def test_another_mode_than_the_graphs_runs_the_programs():
    """A module may be in another mode than its owner, and be put into training later on."""

    class Dropping(DiagonalNormal):
        def __init__(self, spec) -> None:
            super().__init__(spec)
            self.drop = nn.Dropout(0.5).eval()

        def posterior(self, x: Tensor) -> dist.TorchDistribution:
            return super().posterior(self.drop(x))

    spec = Spec((1, 5, 4), "binary", 3)
    x = torch.rand(6, 1, 5, 4).round()
    steps = [SVIStep(VAE(spec), Dropping(spec), ELBO()) for _ in range(2)]
    steps[1].pair.load_state_dict(steps[0].pair.state_dict())
    steps[1].compile((x,))
    for mode in (False, True):
        losses = []
        for step in steps:
            step.guide.drop.train(mode)
            torch.manual_seed(0)
            losses.append(step((x,), 0.0))
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)


def test_a_compiled_step_is_an_eager_step_up_to_rounding():
    x = torch.rand(6, 1, 5, 4, dtype=torch.float64).round()
    steps = []
    for compiled in (False, True):
        torch.manual_seed(0)
        spec = Spec((1, 5, 4), "binary", 3)
        network = NETWORKS["MLP"]
        step = SVIStep(
            VAE(spec, network=network).double(), DiagonalNormal(spec, network).double(), ELBO()
        )
        if compiled:
            step.compile((x,))
        losses = [step((x,), 1e-2), step((x[:4],), 1e-2), step((x,), 1e-2)]
        steps.append((step, losses))
    (eager, expected), (fast, got) = steps
    torch.testing.assert_close(torch.stack(got), torch.stack(expected), rtol=1e-12, atol=0)
    for name, parameter in eager.parameters.items():
        torch.testing.assert_close(fast.parameters[name], parameter, rtol=1e-9, atol=1e-12)


def _wrong(graph, examples, **options):
    def run(*tensors):
        loss, *gradients = graph(*tensors)
        return [1.01 * loss, *gradients]

    return run


def _broken(*arguments, **options):
    raise RuntimeError("no C++ compiler\nmore")


def test_a_compiled_graph_that_is_another_function_is_refused(monkeypatch):
    model, guide, x = _pair("Bernoulli", "Linear")
    staged = stage(model, guide, ELBO(), (x,))
    monkeypatch.setattr(torch._inductor, "compile", _wrong)
    monkeypatch.setattr(torch, "compile", lambda module, **options: lambda x: 1.01 * module(x))
    with pytest.raises(NotStageable, match="its value is off by"):
        compile_staged(staged, (x,))


def test_where_the_young_entry_points_fail_the_loss_alone_is_compiled(monkeypatch):
    model, guide, x = _pair("Bernoulli", "Linear")
    staged = stage(model, guide, ELBO(), (x,))
    monkeypatch.setattr(torch._inductor, "compile", _broken)
    outcomes = []
    for run in (compile_staged(staged, (x,)), with_gradients(staged)):
        torch.manual_seed(3)
        outcomes.append(run(x))
    (loss, gradients), (expected_loss, expected) = outcomes
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert gradients.keys() == expected.keys() == dict(staged.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_machine_that_cannot_compile_is_told(monkeypatch):
    model, guide, x = _pair("Bernoulli", "Linear")
    staged = stage(model, guide, ELBO(), (x,))
    monkeypatch.setattr(torch._inductor, "compile", _broken)
    monkeypatch.setattr(torch, "compile", _broken)
    with pytest.raises(NotStageable, match=r"cannot be compiled: no C\+\+ compiler$"):
        compile_staged(staged, (x,))


class _Affine(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 5))
        self.bias = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight).tanh()


@pytest.mark.parametrize("bias", [(5,), (1,), (4, 5), (1, 5), (4, 1), ()])
def test_a_compiled_product_takes_every_bias_that_broadcasts(bias):
    x, affine = torch.randn(4, 7), _Affine(*bias)
    with torch.no_grad():
        torch.testing.assert_close(compile_measurement(affine, (x,))(x), affine(x))


class _Idle(DiagonalNormal):
    """Has a parameter that the loss does not depend on, and one that is not learned."""

    def __init__(self, spec, network=MLP) -> None:
        super().__init__(spec, network)
        self.idle = nn.Parameter(torch.ones(2))
        self.shift = nn.Parameter(torch.ones(spec.latent_dim), requires_grad=False)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(super().posterior(x).mean + self.shift, 1.0).to_event(1)


def test_what_is_not_learned_stays_as_it_is():
    spec = Spec((1, 5, 4), "binary", 3)
    x = torch.rand(6, 1, 5, 4).round()
    for compiled in (False, True):
        model, guide = VAE(spec), _Idle(spec)
        step = SVIStep(model, guide, ELBO())
        if compiled:
            step.compile((x,))
        before = {name: p.detach().clone() for name, p in step.parameters.items()}
        step((x,), 1e-2)
        same = {n for n, p in step.parameters.items() if torch.equal(p.detach(), before[n])}
        assert same == {"guide.idle", "guide.shift"}


def test_what_is_frozen_after_compiling_stays_as_it_is():
    model, guide, x = _pair("Bernoulli", "MLP")
    step = SVIStep(model, guide, ELBO())
    step.compile((x,))
    step((x,), 1e-2)
    model.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    step((x,), 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_measurement_that_counts_in_python_is_refused():
    class Measured(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x.sum() * (2.0 if self.calls > 1000 else 1.0)

    with pytest.raises(NotStageable, match="changes calls in Python with every call"):
        compile_measurement(Measured(), (torch.rand(6, 1, 5, 4),))


def test_a_type_without_a_rounding_error_is_not_compiled():
    model, guide, x = _pair("Bernoulli", "Linear")
    staged = stage(model, guide, ELBO(), (x,))
    with pytest.raises(NotStageable, match=r"computes in torch.float16; a graph is of float64"):
        compile_staged(staged, (x,), precision=torch.float16)


class _Normalised(Network):
    """Whose first bias batch normalisation takes away, so that its gradient is rounding alone."""

    def __init__(self, inputs, outputs) -> None:
        super().__init__(inputs, outputs)
        width = torch.Size(outputs).numel()
        self.layers = nn.Sequential(
            nn.Linear(torch.Size(inputs).numel(), 9), nn.BatchNorm1d(9), nn.Linear(9, width)
        )

    def compute(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_batch_normalisation_compiles_in_every_precision(precision):
    x = torch.rand(16, 1, 5, 4).round()
    steps = []
    for compiled in (False, True):
        torch.manual_seed(0)
        spec = Spec((1, 5, 4), "binary", 3)
        pair = VAE(spec, network=_Normalised), DiagonalNormal(spec, network=_Normalised)
        step = SVIStep(*pair, ELBO(), precision)
        if compiled:
            step.compile((x,))
        steps.append((step, torch.stack([step((x,), 0.0) for _ in range(3)])))
    (eager, expected), (fast, got) = steps
    rounding = 1e-4 if precision is None else 1e-2
    torch.testing.assert_close(got, expected, rtol=rounding, atol=0)
    for name, buffer in eager.pair.named_buffers():
        torch.testing.assert_close(
            fast.pair.get_buffer(name), buffer, rtol=10 * rounding, atol=rounding
        )
        assert buffer.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("network", ["MLP", "Convolutional"])
def test_mixed_precision_is_that_of_the_networks_alone(network):
    model, guide, x = _pair("Bernoulli", network)
    losses = {}
    for precision in (None, torch.bfloat16):
        step = SVIStep(model, guide, ELBO(), precision)
        eager = []
        for compiled in (False, True):
            if compiled:
                step.compile((x,))
            torch.manual_seed(3)
            eager.append(step((x,), 0.0))
            assert eager[-1].dtype == torch.float32
            assert {value.dtype for value in step.state().values()} == {torch.float32}
        losses[precision] = torch.stack(eager)
    # Eight bits of mantissa: 0.4 % a product, and the compiled graph keeps more of them.
    torch.testing.assert_close(losses[torch.bfloat16], losses[None], rtol=1e-2, atol=0)
    assert not torch.equal(losses[torch.bfloat16], losses[None])
    assert model.decoder.precision is None
    with matrix_precision(torch.bfloat16, model):
        z = torch.randn(4, 3)
        logits = model.decoder(z)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, logits.bfloat16().float(), rtol=0, atol=0)
    torch.testing.assert_close(logits, model.decoder(z), rtol=0.02, atol=0.01)
