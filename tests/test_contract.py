"""The contract of a pair of a model and a guide, for every combination of pieces that fits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import pyro.poutine as poutine
import pytest
import torch
from cases import BATCH, COVERING, Case, concrete, every_case, with_labels
from pyro.distributions import Distribution
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.util import site_is_subsample
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import guides
import models
from guides import Guide
from models import Likelihood, Model, Network, Prior

PARTICLES = 6


def elbo_for(model: Model) -> Trace_ELBO | TraceEnum_ELBO:
    """Pyro's own estimator of the bound."""
    return TraceEnum_ELBO(max_plate_nesting=1) if model.enumerated else Trace_ELBO()


def sites(trace: poutine.Trace) -> dict[str, dict]:
    """The random sites, latent and observed, without the plates."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def traces(
    model: Model, guide: Guide, x: Tensor, particles: int | None = None
) -> tuple[poutine.Trace, poutine.Trace]:
    """The trace of the model, replayed against that of the guide, and the guide's."""
    programs: list[Callable] = [model, guide]
    if particles:
        programs = [pyro.plate("particles", particles, dim=-2)(program) for program in programs]
    batch = with_labels(model, x)
    guide_trace = poutine.trace(programs[1]).get_trace(*batch)
    model_trace = poutine.trace(poutine.replay(programs[0], trace=guide_trace)).get_trace(*batch)
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


def posterior_of(guide: Guide, *batch: Tensor) -> Distribution:
    try:
        return guide.posterior(*batch)
    except NotImplementedError as reason:
        pytest.skip(str(reason))


def test_every_exported_class_is_in_a_case() -> None:
    covered = {piece.kind for case in COVERING for piece in case.pieces}
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
    observed = ["label", "x"] if model.labelled and model.enumerated else ["x"]
    assert set(sites(model_trace)) == {*model.latents, *model.enumerated, *observed}
    assert set(sites(guide_trace)) - {*model.enumerated} == set(model.latents)
    assert model_trace.observation_nodes == observed
    for trace in (model_trace, guide_trace):
        for name in {*model.enumerated} & {*trace.nodes}:
            assert trace.nodes[name]["infer"]["enumerate"] == "parallel"
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
    assert model(*with_labels(model, drawn)) is drawn


@every_case
def test_decode_is_the_likelihood_of_the_program(case: Case) -> None:
    model, guide = case.build()
    x = case.data()
    model_trace, _ = traces(model, guide, x, PARTICLES)
    z = model.code({site: model_trace.nodes[site]["value"] for site in model.latents})
    given = ()
    if model.labelled:
        y = model_trace.nodes["y"]["value"] if model.enumerated else with_labels(model, x)[1]
        given = (y,)
    distribution = model.decode(z, *given)
    assert distribution.batch_shape == (PARTICLES, BATCH)
    assert distribution.event_shape == case.image_shape
    expected = model_trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(distribution.log_prob(x), expected, rtol=0, atol=0)
    alone = model.decode(z[0, 0])
    assert (alone.batch_shape, alone.event_shape) == ((), case.image_shape)


@every_case
def test_posterior_is_the_distribution_of_the_program(case: Case) -> None:
    model, guide = case.build()
    x = case.data()
    batch = with_labels(model, x)
    _, trace = traces(model, guide, x)
    if {*model.enumerated} & {*trace.nodes}:
        distribution = guide.posterior(x, trace.nodes["y"]["value"])
        assert distribution.batch_shape == (BATCH,)
        site = trace.nodes["z"]
        assert torch.equal(distribution.log_prob(site["value"]), site["log_prob"])
        return
    torch.manual_seed(5)
    drawn = guide(*batch)
    torch.manual_seed(5)
    distribution = posterior_of(guide, *batch)
    assert distribution.batch_shape == (BATCH,)
    expected = distribution.rsample() if distribution.has_rsample else distribution.sample()
    assert drawn.shape == (BATCH, *distribution.event_shape)
    assert torch.equal(drawn, expected)
    torch.manual_seed(6)
    assert torch.equal(guide(*batch), drawn) is not guide.has_density


@every_case
def test_each_datum_stands_alone(case: Case) -> None:
    model, guide = (program.double() for program in case.build())
    x = case.data().double()
    torch.manual_seed(5)
    model_trace, guide_trace = traces(model, guide, x)
    kept = {name: model_trace.nodes[name]["value"] for name in model_trace.stochastic_nodes}
    few = {name: value[:2] for name, value in kept.items()}
    _, *labels = with_labels(model, x)
    if not guide.has_density:  # the point itself is what has to be the same
        torch.testing.assert_close(guide(x[:2]), guide(x)[:2], rtol=1e-10, atol=1e-10)
    # A guide may draw to find q(z|x), so it sees as many data, and others after the first two.
    other = torch.cat([x[:2], case.data().double()[2:]])
    programs = [
        (model, model_trace, few, (x[:2], *(y[:2] for y in labels))),
        (guide, guide_trace, kept, (other, *labels)),
    ]
    for program, together, data, seen in programs[: 2 if guide.has_density else 1]:
        torch.manual_seed(5)
        alone = poutine.trace(poutine.condition(program, data=data)).get_trace(*seen)
        alone.compute_log_prob()
        for name, value in log_probs(alone).items():
            torch.testing.assert_close(
                value[:2], together.nodes[name]["log_prob"].detach()[:2], rtol=1e-10, atol=1e-10
            )


@every_case
def test_gradients_reach_every_parameter(case: Case) -> None:
    model, guide = case.build()
    elbo_for(model)(model, guide)(*with_labels(model, case.data())).backward()
    for name, parameter in parameters(model, guide).items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_case
def test_saved_and_loaded_is_the_same(case: Case, tmp_path: Path) -> None:
    x = case.data()
    pair, other = case.build(), case.build()
    for module in pair:  # away from what every fresh pair has; further, deep networks explode
        for parameter in module.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)

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
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo_for(model))
    losses = [svi.step(*with_labels(model, case.data())) for _ in range(2)]
    assert torch.tensor(losses).isfinite().all()
    assert before.keys() == values(model, guide).keys()
    for name, value in values(model, guide).items():
        assert not torch.equal(value, before[name]), name
    for name, value in values(*other).items():
        assert torch.equal(value, others_before[name]), name
    assert not dict(pyro.get_param_store())
