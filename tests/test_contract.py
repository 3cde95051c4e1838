"""What every pair of a model and a guide promises, for every combination of pieces that fits.

The combinations are made of what `models` and `guides` export: a new class is covered as soon as
it is exported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from inspect import isabstract, signature
from itertools import product
from pathlib import Path
from typing import Any

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.distributions import Distribution
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.util import site_is_subsample
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import guides
import models
from guides import Guide
from models import Gaussian, Likelihood, MaxPooling, Model, Network, Prior, Spec

IMAGE_SHAPE = (2, 5, 4)
IMAGE_SHAPES = {MaxPooling: (2, 16, 16)}  # of the networks that not every size fits
LATENT_DIM = 3
BATCH = 4
PARTICLES = 6

# Options that change which parameters a class has, beside its defaults.
OPTIONS: dict[type, list[dict[str, Any]]] = {
    Gaussian: [{"scale": "pixel"}, {"scale": "network"}],
}


def concrete(package: Any, base: type) -> list[type]:
    exported = [getattr(package, name) for name in package.__all__]
    classes = [value for value in exported if isinstance(value, type)]
    return [value for value in classes if issubclass(value, base) and not isabstract(value)]


@dataclass(frozen=True)
class Piece:
    """A class with the options to construct it with."""

    kind: type
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.kind.__name__ + "".join(f"-{value}" for value in self.options.values())


def pieces(package: Any, base: type) -> list[Piece]:
    return [
        Piece(kind, options)
        for kind in concrete(package, base)
        for options in [{}, *OPTIONS.get(kind, [])]
    ]


@dataclass(frozen=True)
class Case:
    """One combination; None where the model takes no such piece."""

    model: Piece
    guide: Piece
    prior: Piece | None
    likelihood: Piece | None
    network: Piece

    def __str__(self) -> str:
        parts = (self.model, self.prior, self.likelihood, self.guide, self.network)
        return "_".join(str(part) for part in parts if part)

    @property
    def spec(self) -> Spec:
        owner = self.likelihood.kind if self.likelihood else self.model.kind
        return Spec(self.image_shape, owner.domain, LATENT_DIM)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return IMAGE_SHAPES.get(self.network.kind, IMAGE_SHAPE)

    def build(self) -> tuple[Model, Guide]:
        spec = self.spec
        chosen: dict[str, Any] = {"network": self.network.kind}
        if self.prior:
            chosen["prior"] = self.prior.kind(spec, **self.prior.options)
        if self.likelihood:
            chosen["likelihood"] = self.likelihood.kind(spec, **self.likelihood.options)
        built = []
        for piece in (self.model, self.guide):
            takes = signature(piece.kind).parameters
            wanted = {name: value for name, value in chosen.items() if name in takes}
            built.append(piece.kind(spec, **wanted, **piece.options))
        return built[0], built[1]

    def data(self, batch: int = BATCH) -> Tensor:
        shape = (batch, *self.image_shape)
        match self.spec.domain:
            case "binary":
                return torch.bernoulli(torch.full(shape, 0.5))
            case "unit":
                return torch.rand(shape)
            case "bytes":
                return torch.randint(256, shape).float()
            case _:
                return torch.randn(shape)


def combinations() -> Iterator[Case]:
    """Every model with every guide, prior and likelihood, and with every network.

    What a network can do wrong does not depend on the prior or the likelihood, only on its two
    shapes: each model and guide meets all networks once, and the other combinations take turns.
    """
    networks = pieces(models, Network)
    for model, guide in product(pieces(models, Model), pieces(guides, Guide)):
        if guide.kind.has_density and not model.kind.has_prior:
            continue
        takes = signature(model.kind).parameters
        priors = pieces(models, Prior) if "prior" in takes else [None]
        likelihoods = pieces(models, Likelihood) if "likelihood" in takes else [None]
        for number, parts in enumerate(product(priors, likelihoods)):
            chosen = networks if number == 0 else [networks[number % len(networks)]]
            cases = [Case(model, guide, *parts, network) for network in chosen]
            case = cases[0]
            guide_trace = poutine.trace(case.build()[1]).get_trace(case.data())
            if set(sites(guide_trace)) == set(model.kind.latents):
                yield from cases


def sites(trace: poutine.Trace) -> dict[str, dict]:
    """The random sites, latent and observed, without the plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


with torch.random.fork_rng(devices=[]):  # collection draws nothing from the tests' random numbers
    CASES = list(combinations())

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def traces(
    model: Model, guide: Guide, x: Tensor, particles: int | None = None
) -> tuple[poutine.Trace, poutine.Trace]:
    """The trace of the model, replayed against that of the guide, and the guide's."""
    programs: list[Callable] = [model, guide]
    if particles:
        programs = [pyro.plate("particles", particles, dim=-2)(program) for program in programs]
    guide_trace = poutine.trace(programs[1]).get_trace(x)
    model_trace = poutine.trace(poutine.replay(programs[0], trace=guide_trace)).get_trace(x)
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    return model_trace, guide_trace


def log_probs(trace: poutine.Trace) -> dict[str, Tensor]:
    return {name: site["log_prob"].detach() for name, site in sites(trace).items()}


def parameters(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{type(module).__name__}.{name}": parameter
        for module in modules
        for name, parameter in module.named_parameters()
    }


def values(*modules: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters(*modules).items()}


def posterior_of(guide: Guide, x: Tensor) -> Distribution:
    try:
        return guide.posterior(x)
    except NotImplementedError as reason:
        pytest.skip(str(reason))


def test_every_exported_class_is_in_a_case() -> None:
    covered = {
        piece.kind
        for case in CASES
        for piece in (case.model, case.guide, case.prior, case.likelihood, case.network)
        if piece
    }
    exported = {
        kind
        for package, base in [
            (models, Model),
            (models, Prior),
            (models, Likelihood),
            (models, Network),
            (guides, Guide),
        ]
        for kind in concrete(package, base)
    }
    assert covered == exported


@pytest.mark.parametrize("base", [Model, Prior, Likelihood, Network, Guide])
def test_every_class_is_exported(base: type) -> None:
    package = guides if base is Guide else models

    def descendants(kind: type) -> Iterator[type]:
        for child in kind.__subclasses__():
            yield child
            yield from descendants(child)

    home = package.__name__
    ours = [kind for kind in descendants(base) if kind.__module__.split(".")[0] == home]
    assert ours
    for kind in [base, *ours]:
        assert kind.__name__ in package.__all__


@every_case
def test_sites_and_plate(case: Case) -> None:
    model, guide = case.build()
    model_trace, guide_trace = traces(model, guide, case.data())
    assert set(sites(model_trace)) == {*model.latents, "x"}
    assert set(sites(guide_trace)) == set(model.latents)
    assert model_trace.observation_nodes == ["x"]
    assert guide_trace.observation_nodes == []
    for site in [*sites(model_trace).values(), *sites(guide_trace).values()]:
        (plate,) = site["cond_indep_stack"]
        assert (plate.name, plate.dim, plate.size) == ("data", -1, BATCH)
        assert site["scale"] == 1


@every_case
def test_log_probabilities_are_per_datum(case: Case) -> None:
    model, guide = case.build()
    x = case.data()
    for trace in traces(model, guide, x):
        for name, value in log_probs(trace).items():
            assert value.shape == (BATCH,), name
            assert value.isfinite().all(), name
    for trace in traces(model, guide, x, PARTICLES):
        for name, value in log_probs(trace).items():
            assert value.shape == (PARTICLES, BATCH), name
            assert value.isfinite().all(), name
            # Each particle and each datum is another, unless the guide is a point.
            if name in model.latents and guide.has_density:
                assert value.unique().numel() == PARTICLES * BATCH, name


@every_case
def test_draws_are_images_of_the_domain(case: Case) -> None:
    model, _ = case.build()
    trace = poutine.trace(model).get_trace(size=7)
    drawn = trace.nodes["_RETURN"]["value"]
    assert drawn.shape == (7, *case.image_shape)
    assert drawn is trace.nodes["x"]["value"]
    assert trace.nodes["x"]["fn"].support.check(drawn).all()
    assert model().shape == (1, *case.image_shape)
    assert not torch.equal(model(size=7), drawn)
    # A draw is data: it can be scored, and given back it stays as it is.
    assert model(drawn) is drawn


@every_case
def test_decode_is_the_likelihood_of_the_program(case: Case) -> None:
    model, guide = case.build()
    x = case.data()
    model_trace, _ = traces(model, guide, x, PARTICLES)
    z = model_trace.nodes[model.latents[-1]]["value"]
    distribution = model.decode(z)
    assert distribution.batch_shape == (PARTICLES, BATCH)
    assert distribution.event_shape == case.image_shape
    expected = model_trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(distribution.log_prob(x), expected, rtol=0, atol=0)
    alone = model.decode(z[0, 0])
    assert (alone.batch_shape, alone.event_shape) == ((), case.image_shape)


@every_case
def test_posterior_is_the_distribution_of_the_program(case: Case) -> None:
    _, guide = case.build()
    x = case.data()
    distribution = posterior_of(guide, x)
    assert distribution.batch_shape == (BATCH,)
    torch.manual_seed(5)
    drawn = guide(x)
    torch.manual_seed(5)
    expected = distribution.rsample() if distribution.has_rsample else distribution.sample()
    assert drawn.shape == (BATCH, *distribution.event_shape)
    assert torch.equal(drawn, expected)
    torch.manual_seed(6)
    assert torch.equal(guide(x), drawn) is not guide.has_density


@every_case
def test_each_datum_stands_alone(case: Case) -> None:
    model, guide = (program.double() for program in case.build())
    x = case.data().double()
    model_trace, guide_trace = traces(model, guide, x)
    kept = {name: site["value"][:2] for name, site in sites(guide_trace).items()}
    if not guide.has_density:  # the point itself is what has to be the same
        torch.testing.assert_close(guide(x[:2]), guide(x)[:2], rtol=1e-10, atol=1e-10)
    programs = [(model, model_trace), (guide, guide_trace)]
    for program, together in programs[: 2 if guide.has_density else 1]:
        alone = poutine.trace(poutine.condition(program, data=kept)).get_trace(x[:2])
        alone.compute_log_prob()
        for name, value in log_probs(alone).items():
            torch.testing.assert_close(
                value, together.nodes[name]["log_prob"].detach()[:2], rtol=1e-10, atol=1e-10
            )


@every_case
def test_gradients_reach_every_parameter(case: Case) -> None:
    model, guide = case.build()
    Trace_ELBO()(model, guide)(case.data()).backward()
    for name, parameter in parameters(model, guide).items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_case
def test_saved_and_loaded_is_the_same(case: Case, tmp_path: Path) -> None:
    x = case.data()
    pair, other = case.build(), case.build()
    for module in pair:  # away from values that every fresh pair begins with
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)

    def score(model: Model, guide: Guide) -> list[dict[str, Tensor]]:
        torch.manual_seed(5)
        return [log_probs(trace) for trace in traces(model, guide, x)]

    expected = score(*pair)
    assert not torch.equal(score(*other)[0]["x"], expected[0]["x"])
    for name, module, blank in zip(["model", "guide"], pair, other, strict=True):
        path = tmp_path / f"{name}.safetensors"
        save_file(module.state_dict(), path)
        blank.load_state_dict(load_file(path))
    for loaded, saved in zip(score(*other), expected, strict=True):
        assert loaded.keys() == saved.keys()
        for name, value in saved.items():
            assert torch.equal(loaded[name], value), name


@every_case
def test_stock_svi_trains_this_pair_and_no_other(case: Case) -> None:
    model, guide = case.build()
    other = case.build()
    before, others_before = values(model, guide), values(*other)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    losses = [svi.step(case.data()) for _ in range(2)]
    assert torch.tensor(losses).isfinite().all()
    assert before.keys() == values(model, guide).keys()
    for name, value in values(model, guide).items():
        assert not torch.equal(value, before[name]), name
    for name, value in values(*other).items():
        assert torch.equal(value, others_before[name]), name
    assert not dict(pyro.get_param_store())
