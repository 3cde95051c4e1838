"""Gradient steps on variational parameters, on a model whose posterior is known."""

from functools import partial
from math import sqrt

import pytest
import torch
from comparing import seeded
from pyro import poutine
from torch import Tensor

from guides import Delta, DiagonalNormal, FullRankNormal, SemiAmortized
from models import MLP, Linear, ProbabilisticPCA, Spec
from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.densities.weights import log_terms, log_weights
from ppl_vae.errors import InputError
from ppl_vae.fit import fit, main
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.pairs.checks import check_objective
from ppl_vae.pairs.descriptions import describe, outside_classes, restore
from ppl_vae.runs.run import load

SPEC = Spec((1, 3, 2), "real", 2)


@pytest.fixture
def model() -> ProbabilisticPCA:
    torch.manual_seed(0)
    return ProbabilisticPCA(SPEC, initial_scale=0.6).double()


def _guide(model: ProbabilisticPCA, **options) -> SemiAmortized:
    torch.manual_seed(1)
    return SemiAmortized(SPEC, model, network=Linear, **options).double()


def test_more_steps_bring_an_untrained_guide_to_the_exact_bound(model):
    x = model(size=200).detach()
    exact = model.log_likelihood(x).mean().item()
    bounds = []
    for steps in (0, 2, 10, 60):
        guide = _guide(
            model, guide=FullRankNormal, steps=steps, step_size=0.05, max_norm=50.0, particles=20
        )
        with torch.no_grad():
            weights = log_weights(model, guide, x, 200)
        bounds.append(weights.mean().item())
    assert bounds == sorted(bounds)
    assert bounds[-1] < exact
    assert exact - bounds[0] > 1
    assert exact - bounds[-1] < 0.05


def test_a_step_is_the_gradient_of_the_bound_in_closed_form(model):
    """One step with many draws is that along the gradient of log p(x) - KL(q || p(z|x))."""
    x = model(size=4).detach()
    guide = _guide(model, steps=1, step_size=0.01, max_norm=1e6, particles=40_000)
    features = guide.guide.encode(x).detach().requires_grad_()
    q = guide.posterior_of(features)
    q = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    bound = -torch.distributions.kl_divergence(q, model.posterior(x)).sum()
    (gradient,) = torch.autograd.grad(bound, features)
    with torch.no_grad():
        got = (guide.encode(x) - features) / 0.01
    once = _guide(model, steps=1, step_size=0.01, max_norm=1e6)
    spread = [(once.encode(x) - features).detach() / 0.01 for _ in range(200)]
    error = torch.stack(spread).std(0) / sqrt(40_000)
    assert ((got - gradient).abs() < 5 * error).all()


def test_without_steps_it_is_the_other_guide(model):
    x = model(size=3).detach()
    guide = _guide(model, steps=0)
    assert torch.equal(seeded(guide, x), seeded(guide.guide, x))
    assert torch.equal(guide.encode(x), guide.guide.encode(x))


def test_the_steps_on_a_datum_do_not_depend_on_the_others(model):
    guide = _guide(model, steps=4, particles=3)
    x = model(size=6).detach()
    other = torch.cat([x[:2], model(size=4).detach() * 3])
    encoded = [seeded(guide.encode, images) for images in (x, other)]
    assert torch.equal(encoded[0][:2], encoded[1][:2])
    assert not torch.equal(encoded[0][2:], encoded[1][2:])


def test_a_long_gradient_is_shortened_datum_by_datum(model):
    x = model(size=3).detach()
    x[0] *= 100
    guide = _guide(model, steps=1, step_size=0.1, max_norm=2.0)
    moved = (guide.encode(x) - guide.guide.encode(x)).norm(dim=-1)
    assert moved[0].item() == pytest.approx(0.2)
    assert (moved <= 0.2 + 1e-12).all()


def test_training_and_evaluation_climb_alike(model):
    x = model(size=3).detach()
    for through_steps in (True, False):
        guide = _guide(model, through_steps=through_steps)
        training = seeded(guide.encode, x)
        with torch.no_grad():
            evaluation = seeded(guide.encode, x)
        assert not evaluation.requires_grad
        torch.testing.assert_close(training, evaluation, rtol=1e-12, atol=1e-12)


def test_the_gradient_goes_through_the_steps_where_asked(model):
    """Against finite differences of the encoded parameters, under the same draws."""
    x = model(size=3).detach()
    direction = torch.randn(3, 4, dtype=torch.float64)

    def encoded(guide: SemiAmortized) -> Tensor:
        return (direction * seeded(guide.encode, x)).sum()

    slopes = {}
    for through_steps in (True, False):
        guide = _guide(model, steps=3, step_size=0.05, max_norm=100.0, through_steps=through_steps)
        parameter = guide.guide.encoder.linear.bias
        (slopes[through_steps],) = torch.autograd.grad(encoded(guide), parameter)
        (scale,) = torch.autograd.grad(encoded(guide), [model.log_scale], allow_unused=True)
        assert (scale is not None) is through_steps
    differences = []
    for index in range(4):
        ends = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[index] += shift
                ends.append(encoded(guide))
                parameter[index] -= shift
        differences.append((ends[0] - ends[1]) / 2e-5)
    torch.testing.assert_close(slopes[True], torch.stack(differences), rtol=1e-6, atol=1e-6)
    # Otherwise the steps count as given, and lambda_K moves as lambda_0 does.
    torch.testing.assert_close(slopes[False], direction.sum(0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stop_guide", [False, True])
def test_draws_are_scored_under_the_parameters_that_they_were_drawn_from(model, stop_guide):
    """What is scored once more, with parameters held constant, climbs with the same draws."""
    guide = _guide(model)
    x = model(size=3).detach()
    terms = seeded(log_terms, model, guide, x, 4, stop_guide)
    expected = seeded(guide.posterior, x).log_prob(terms.latents["z"])
    torch.testing.assert_close(terms.log_guide, expected, rtol=1e-12, atol=1e-12)


def test_the_steps_leave_no_site_and_no_gradient_behind(model):
    guide = _guide(model)
    x = model(size=3).detach()
    trace = poutine.trace(guide).get_trace(x)
    assert set(trace.stochastic_nodes) == {"data", "z"}
    assert all(parameter.grad is None for parameter in (*guide.parameters(), *model.parameters()))
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("objective", [ELBO(), IWAE(3, "stl"), IWAE(3, "dreg")], ids=str)
def test_it_is_traced_or_refused_and_the_programs_run_on(model, objective):
    guide, x = _guide(model), model(size=3).detach()
    pair = PairLoss(model, guide, objective)
    if isinstance(objective, ELBO):
        assert trace_programs(pair, (x,))(x)[0].isfinite()
    else:  # which draw the same noise twice, where a graph draws other noise
        with pytest.raises(NotCompilable, match=r"^has a graph in which its value is off by \S+$"):
            trace_programs(pair, (x,))
    assert torch.isfinite(pair(x))


def test_what_it_cannot_improve_is_refused(model):
    class Drawn(DiagonalNormal):
        encode = SemiAmortized.__mro__[1].encode

    with pytest.raises(ValueError, match="such as DiagonalNormal; got Drawn"):
        _guide(model, guide=Drawn)


# As a configuration: a piece in a piece


NESTED = {
    "class_path": "guides.SemiAmortized",
    "init_args": {
        "guide": {"class_path": "guides.FullRankNormal", "init_args": {}},
        "steps": 2,
        "step_size": 0.1,
        "max_norm": 5.0,
        "particles": 1,
        "through_steps": True,
    },
}


def test_a_piece_in_a_piece_goes_there_and_back():
    for other in (FullRankNormal, partial(FullRankNormal)):
        assert describe(partial(SemiAmortized, guide=other, steps=2)) == NESTED
    restored = restore("guide", NESTED)
    assert describe(restored) == NESTED
    built = restored(SPEC, ProbabilisticPCA(SPEC))
    assert isinstance(built.guide, FullRankNormal)


def test_a_piece_in_a_piece_is_no_way_in(monkeypatch):
    called = []
    monkeypatch.setattr("os.system", lambda *a: called.append(a))
    inner = {"class_path": "os.system", "init_args": {"command": "x"}}
    config = {"class_path": "guides.SemiAmortized", "init_args": {"guide": inner}}
    assert outside_classes(config) == ["os.system"]
    for allow_code, said in ((False, "code from outside"), (True, "is not a subclass of")):
        with pytest.raises(InputError, match=said):
            restore("guide", config, allow_code)
    bad = {
        "class_path": "guides.SemiAmortized",
        "init_args": {"guide": {"class_path": "models.VAE"}},
    }
    with pytest.raises(InputError, match=r"models\.VAE is not a subclass of guides\.Guide"):
        restore("guide", bad)
    assert not called


def test_a_run_keeps_it_and_its_config_repeats_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--network.hidden", "[8]", "--latent_dim", "2", "--epochs", "1"]
    arguments = ["--guide.guide", "FullRankNormal", "--guide.steps", "2", "--guide",
                 "SemiAmortized", *small, "--run", "first"]  # fmt: skip
    for words in (arguments, ["--config", "first/config.yaml", "--run", "second"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0
    first, second = load("first"), load("second")
    assert first.config["guide"] == NESTED
    for run in (first, second):
        assert isinstance(run.guide.guide, FullRankNormal)
    for a, b in zip(first.guide.parameters(), second.guide.parameters(), strict=True):
        assert torch.equal(a, b)
    guide, network = partial(SemiAmortized, guide=FullRankNormal, steps=2), partial(MLP, hidden=[8])
    third = fit(guide=guide, network=network, latent_dim=2, epochs=1, run="third")
    assert third.config == first.config


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (["FullRankNorml"], "did you mean FullRankNormal?"),
        (["MLP"], "got 'MLP'; expected one of"),
        (["os.system"], "os.system is not a subclass of guides.Guide"),
        (["FullRankNormal", "--guide.guide.flows", "3"], "unknown option of FullRankNormal"),
        (["SemiAmortized", "--guide.guide.stps", "0"], "did you mean steps?"),
        (["SemiAmortized", "--guide.guide.steps", "-1"], "expected steps >= 0; got -1"),
    ],
)
def test_a_bad_piece_in_a_piece_is_one_line(tmp_path, monkeypatch, capsys, inner, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["--guide", "SemiAmortized", "--guide.guide", *inner, "--run", "run"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert said in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not any(tmp_path.iterdir())


def test_around_a_point_it_is_a_point(model):
    guide = _guide(model, guide=Delta)
    assert not guide.has_density
    assert _guide(model).has_density
    with pytest.raises(InputError, match="that of SemiAmortized is a point"):
        check_objective(IWAE(), model, guide, model(size=3).detach())
