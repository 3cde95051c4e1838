"""A staged graph is the eager program, or it is refused."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

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
from ppl_vae.compiler.comparison import NotStageable, with_gradients
from ppl_vae.compiler.compiling import compile_measurement, compile_staged
from ppl_vae.compiler.trial_runs import stage
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.training.precision import matrix_precision
from ppl_vae.training.step import SVIStep

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


def loss_and_gradients(loss, modules: list[nn.Module], x: Tensor) -> list[Tensor]:
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
    eager = loss_and_gradients(lambda x: objective.loss(model, guide, x), [model, guide], fresh)
    got = loss_and_gradients(staged, [model, guide], fresh)
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
    expected = loss_and_gradients(
        lambda x: reference.differentiable_loss(model, guide, x) / len(x), [model, guide], x
    )
    got = loss_and_gradients(lambda x: ours.loss(model, guide, x), [model, guide], x)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # float32, sums in another order


def test_a_batch_that_is_a_view_of_more_images():
    model, guide, x = _pair("Bernoulli", "MLP")
    staged = stage(model, guide, IWAE(5), (x[1:3],))
    for images in (x[1:3], x[3:5].clone()):
        eager = loss_and_gradients(lambda x: IWAE(5).loss(model, guide, x), [model, guide], images)
        got = loss_and_gradients(staged, [model, guide], images)
        assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))


def test_the_programs_run_on_real_tensors_after_staging():
    model, guide, x = _pair("Bernoulli", "MLP")
    stage(model, guide, ELBO(), (x,))
    assert torch.isfinite(ELBO().loss(model, guide, x))
    assert not pyro.get_param_store().keys()


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
    # What a compiled graph is allowed in float32; in bfloat16 a few roundings of 2^-9 each.
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
