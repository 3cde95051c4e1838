"""A compiled step is the step of the programs, or there is none."""

from functools import partial
from itertools import count

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch._inductor
from comparing import assert_equal, outcome
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from guides import DiagonalNormal, Guide
from models import (
    MLP,
    VAE,
    Convolutional,
    Linear,
    Model,
    Network,
    ProbabilisticPCA,
    Spec,
)
from ppl_vae.compiler.comparison import Gradients, NotCompilable, with_gradients
from ppl_vae.compiler.compiling import (
    compile_measurement,
    compile_programs,
    trace_programs,
)
from ppl_vae.objectives import ELBO, IWAE, Objective
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.precision import matrix_precision
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 5, 4), "binary", 3)
SMALL = partial(MLP, hidden=(6, 5))


def binary_images() -> Tensor:
    return torch.rand(6, 1, 5, 4).round()


def _pair(kind: type[Model]) -> tuple[Model, Guide, Tensor]:
    spec = SPEC if kind is VAE else Spec((1, 5, 4), "real", 3)
    model: Model = VAE(spec, network=SMALL) if kind is VAE else ProbabilisticPCA(spec)
    return model, DiagonalNormal(spec, network=SMALL), binary_images()


def _bernoulli(objective: Objective | None = None) -> tuple[PairLoss, Tensor]:
    model, guide = VAE(SPEC, network=Linear), DiagonalNormal(SPEC, network=Linear)
    return PairLoss(model, guide, objective or ELBO()), binary_images()


@pytest.mark.parametrize("kind", [VAE, ProbabilisticPCA])
@pytest.mark.parametrize("objective", [ELBO(), ELBO(particles=3), ELBO(analytic_kl=True)], ids=str)
def test_a_traced_loss_and_its_gradients_are_those_of_the_programs(kind, objective):
    model, guide, x = _pair(kind)
    pair = PairLoss(model, guide, objective)
    assert_same(trace_programs(pair, (x,)), with_gradients(pair), x.roll(1, 0))


def assert_same(got: Gradients, expected: Gradients, x: Tensor) -> None:
    assert_equal(outcome(got, x), outcome(expected, x))


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize(
    ("analytic_kl", "stock"), [(False, Trace_ELBO), (True, TraceMeanField_ELBO)]
)
def test_the_estimators_are_pyros(particles, analytic_kl, stock):
    model, guide, x = _pair(VAE)
    reference = stock(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
    )
    pair = PairLoss(model, guide, ELBO(particles, analytic_kl))
    got = outcome(with_gradients(pair), x)
    torch.manual_seed(7)
    loss = reference.differentiable_loss(model, guide, x) / len(x)
    loss.backward()
    torch.testing.assert_close(got["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in pair.named_parameters():  # float32, sums in another order
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_a_view_of_more_images():
    pair, x = _bernoulli(IWAE(5))
    traced = trace_programs(pair, (x[1:3],))
    for images in (x[1:3], x[3:5].clone()):
        assert_same(traced, with_gradients(pair), images)


def test_the_programs_run_on_real_tensors_after_tracing():
    pair, x = _bernoulli()
    trace_programs(pair, (x,))
    assert torch.isfinite(pair(x))
    assert not pyro.get_param_store().keys()


class Dropping(DiagonalNormal):
    def __init__(self, spec, network=Linear) -> None:
        super().__init__(spec, network)
        self.drop = nn.Dropout(0.5)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return super().posterior(self.drop(x))


def test_the_mode_of_the_pair_is_that_of_the_graph():
    pair = PairLoss(VAE(SPEC, network=Linear), Dropping(SPEC), ELBO())
    x = binary_images()
    for mode in (True, False):
        pair.train(mode)
        assert_same(trace_programs(pair, (x,)), with_gradients(pair), x)


@pytest.mark.usefixtures("traced_steps")
def test_another_mode_than_the_graphs_runs_the_programs():
    """A module may be in another mode than its owner, and be put into training later on."""
    x = binary_images()
    steps = [SVIStep(VAE(SPEC, network=Linear), Dropping(SPEC), ELBO()) for _ in range(2)]
    steps[1].pair.load_state_dict(steps[0].pair.state_dict())
    for step in steps:
        step.guide.drop.eval()
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
        step = SVIStep(
            VAE(SPEC, network=Linear).double(), DiagonalNormal(SPEC, Linear).double(), ELBO()
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
    pair, x = _bernoulli()
    monkeypatch.setattr(torch._inductor, "compile", _wrong)
    with pytest.raises(NotCompilable, match="its value is off by"):
        compile_programs(pair, (x,))


def _wrong_twice(graph, examples, **options):
    """On the two batches of the first seed alone, as where rounding decides a choice."""
    calls = count()

    def run(*tensors):
        loss, *gradients = graph(*tensors)
        return [1.01 * loss if next(calls) < 2 else loss, *gradients]

    return run


def test_a_graph_that_differs_under_one_seed_alone_is_taken(monkeypatch):
    pair, x = _bernoulli()
    monkeypatch.setattr(torch._inductor, "compile", _wrong_twice)
    compiled = compile_programs(pair, (x,))
    assert_equal(outcome(compiled, x), outcome(with_gradients(pair), x))


def test_a_machine_that_cannot_compile_is_refused(monkeypatch):
    pair, x = _bernoulli()
    monkeypatch.setattr(torch._inductor, "compile", _broken)
    with pytest.raises(NotCompilable, match=r"cannot be compiled: no C\+\+ compiler$"):
        compile_programs(pair, (x,))


class _Affine(nn.Module):
    """Products with biases that broadcast in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 5))
        shapes = [(5,), (1,), (4, 5), (1, 5), (4, 1), ()]
        self.biases = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.addmm(bias, x, self.weight).tanh() for bias in self.biases])


def test_a_compiled_product_takes_every_bias_that_broadcasts():
    x, affine = torch.randn(4, 7), _Affine()
    with torch.no_grad():
        measure = compile_measurement(affine, (x,))
        for batch in (x, torch.randn(7, 4).t(), x[:1].expand(4, 7)):  # and every layout
            torch.testing.assert_close(measure(batch), affine(batch))


class _Idle(DiagonalNormal):
    """Has a parameter that the loss does not depend on, and one that is not learned."""

    def __init__(self, spec, network=MLP) -> None:
        super().__init__(spec, network)
        self.idle = nn.Parameter(torch.ones(2))
        self.shift = nn.Parameter(torch.ones(spec.latent_dim), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(3, 0))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        loc = super().posterior(x).mean + self.shift + self.empty.sum()
        return dist.Normal(loc, 1.0).to_event(1)


@pytest.mark.usefixtures("traced_steps")
def test_what_is_not_learned_or_frozen_later_stays_as_it_is():
    x = binary_images()
    for compiled in (False, True):
        model, guide = VAE(SPEC, network=Linear), _Idle(SPEC, Linear)
        step = SVIStep(model, guide, ELBO())
        if compiled:
            step.compile((x,))
        unchanged = {"guide.idle", "guide.shift", "guide.empty"}
        for _ in range(2):
            before = {name: p.detach().clone() for name, p in step.parameters.items()}
            step((x,), 1e-2)
            same = {n for n, p in step.parameters.items() if torch.equal(p.detach(), before[n])}
            assert same == unchanged
            model.requires_grad_(False)
            unchanged |= {f"model.{name}" for name, _ in model.named_parameters()}


def test_a_type_without_a_rounding_error_is_not_compiled():
    pair, x = _bernoulli()
    with pytest.raises(NotCompilable, match=r"computes in torch.float16; a graph is of float64"):
        compile_programs(pair, (x,), precision=torch.float16)


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


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_batch_normalisation_compiles_in_every_precision(precision):
    x = torch.rand(16, 1, 5, 4).round()
    steps = []
    for compiled in (False, True):
        torch.manual_seed(0)
        pair = VAE(SPEC, network=Linear), DiagonalNormal(SPEC, network=_Normalised)
        step = SVIStep(*pair, ELBO(), precision)
        if compiled:
            step.compile((x,))
        steps.append((step, torch.stack([step((x,), 0.0) for _ in range(3)])))
    (eager, expected), (fast, got) = steps
    # The error that a graph is allowed in float32; in bfloat16 a few roundings of 2^-9 each.
    rounding = 1e-4 if precision == "float32" else 1e-2
    torch.testing.assert_close(got, expected, rtol=rounding, atol=0)
    for name, buffer in eager.pair.named_buffers():
        torch.testing.assert_close(
            fast.pair.get_buffer(name), buffer, rtol=10 * rounding, atol=rounding
        )
        assert buffer.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize(
    "network",
    [
        Linear,
        pytest.param(partial(Convolutional, channels=(2,), hidden=3), marks=pytest.mark.slow),
    ],
)
def test_bfloat16_is_that_of_the_networks_alone(network):
    model, guide, x = VAE(SPEC, network=network), DiagonalNormal(SPEC, Linear), binary_images()
    losses = []
    for precision, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        step = SVIStep(model, guide, ELBO(), precision)
        if compiled:
            step.compile((x,))
        torch.manual_seed(3)
        losses.append(step((x,), 0.0))
        assert losses[-1].dtype == torch.float32
        assert {value.dtype for value in step.state().values()} == {torch.float32}
    # Eight bits of mantissa: 0.4 % a product, and the compiled graph keeps more of them.
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-2, atol=0)
        assert not torch.equal(loss, losses[0])
    assert model.decoder.precision is None
    with matrix_precision("bfloat16", model):
        z = torch.randn(4, 3)
        logits = model.decoder(z)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, logits.bfloat16().float(), rtol=0, atol=0)
    torch.testing.assert_close(logits, model.decoder(z), rtol=0.02, atol=0.01)
