"""Two layers of latents, against the closed forms of linear-Gaussian programs and SciPy."""

from functools import partial
from math import log, sqrt

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from comparing import loss_and_gradients
from pyro import poutine
from torch import Tensor

from guides import BottomUp, DiagonalNormal, Guide, Ladder
from guides.ladder import precision_weighted
from models import MLP, Hierarchical, Linear, MixtureOfNormals, Spec
from ppl_vae.densities.weights import log_terms, log_weights, pair_sites
from ppl_vae.errors import InputError
from ppl_vae.fit import fit, main
from ppl_vae.objectives import ELBO, IWAE, Beta
from ppl_vae.pairs.building import build_pair
from ppl_vae.pairs.checks import check_pair

SPEC = Spec((1, 3, 2), "real", 3)
TOP = 2


@pytest.fixture
def model() -> Hierarchical:
    """Linear-Gaussian: no tanh layers, a linear decoder and a scale that all pixels share."""
    torch.manual_seed(0)
    built = Hierarchical(SPEC, network=Linear, top_dim=TOP, hidden=()).double()
    with torch.no_grad():
        layer = built.between.layers[0]
        layer.weight[:3] = torch.randn(3, TOP)
        layer.weight[3:] = 0  # one scale for all z2
        layer.bias[3:] = torch.tensor([-0.5, 0.2, -1.0])
        built.decoder.linear.weight.normal_()
        built.likelihood.log_scale.fill_(log(0.6))
    return built


def _joint(model: Hierarchical) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (z2, z1, x), by carrying both through the two affine maps."""
    layer, decoder = model.between.layers[0], model.decoder.linear
    a, b, variances = layer.weight[:3], layer.bias[:3], layer.bias[3:].exp()
    w, c = decoder.weight, decoder.bias
    noise = (model.likelihood.floor + model.likelihood.log_scale.exp()).flatten() ** 2
    # (z2, z1, x) is an affine map of independent normals (e2, e1, e0).
    z2 = torch.cat([torch.eye(TOP), torch.zeros(TOP, 9)], 1).double()
    z1 = torch.cat([a, variances.sqrt().diag(), torch.zeros(3, 6)], 1)
    x = torch.cat([w @ z1[:, :5], noise.sqrt() * torch.eye(6)], 1)
    mix = torch.cat([z2, z1, x]).detach()
    return torch.cat([torch.zeros(TOP), b, w @ b + c]).detach(), mix @ mix.T


class _Exact(Guide):
    """p(z2|x) p(z1|x, z2), by conditioning the joint normal."""

    latents = ("z2", "z1")

    def __init__(self, spec: Spec, model: Hierarchical) -> None:
        super().__init__(spec)
        self.mean, self.covariance = _joint(model)

    def _given(self, wanted: list[int], known: list[int], values: Tensor) -> dist.TorchDistribution:
        cov, mean = self.covariance, self.mean
        gain = cov[wanted][:, known] @ cov[known][:, known].inverse()
        scale = cov[wanted][:, wanted] - gain @ cov[known][:, wanted]
        return dist.MultivariateNormal(mean[wanted] + (values - mean[known]) @ gain.T, scale)

    def forward(self, x: Tensor) -> Tensor:
        top, lower, data = [0, 1], [2, 3, 4], list(range(5, 11))
        flat = x.flatten(1)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", self._given(top, data, flat))
            both = torch.cat([z2, flat.expand(*z2.shape[:-1], 6)], -1)
            return pyro.sample("z1", self._given(lower, top + data, both))


def _exact_log_p(model: Hierarchical, x: Tensor) -> np.ndarray:
    mean, covariance = (part.numpy() for part in _joint(model))
    return scipy.stats.multivariate_normal.logpdf(
        x.flatten(1).numpy(), mean[5:], covariance[5:, 5:]
    )


def test_the_joint_density_is_scipys(model):
    x = torch.randn(4, 1, 3, 2, dtype=torch.float64)
    z = {"z2": torch.randn(4, TOP).double(), "z1": torch.randn(4, 3).double()}
    trace = poutine.trace(poutine.condition(model, data=z)).get_trace(x)
    trace.compute_log_prob()
    got = sum(trace.nodes[site]["log_prob"] for site in ("z2", "z1", "x")).detach()
    mean, covariance = (part.numpy() for part in _joint(model))
    values = torch.cat([z["z2"], z["z1"], x.flatten(1)], 1).numpy()
    expected = scipy.stats.multivariate_normal.logpdf(values, mean, covariance)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_at_the_exact_posterior_every_weight_is_p(model):
    x = model(size=5).detach()
    weights = log_weights(model, _Exact(SPEC, model), x, 7).detach()
    expected = np.broadcast_to(_exact_log_p(model, x), (7, 5))
    np.testing.assert_allclose(weights, expected, atol=1e-8)
    elbo = -ELBO(particles=3).loss(model, _Exact(SPEC, model), x).item()
    assert elbo == pytest.approx(expected[0].mean(), abs=1e-8)


@pytest.mark.parametrize("guide", [BottomUp, Ladder])
def test_importance_sampling_converges_to_log_p_and_the_bound_stays_below(model, guide):
    torch.manual_seed(1)
    x = model(size=3).detach()
    built = guide(SPEC, model, network=Linear).double()
    with torch.no_grad():
        draws = log_weights(model, built, x, 200_000)
    exact = _exact_log_p(model, x)
    assert (draws.mean(0).numpy() < exact).all()
    relative = (draws - torch.as_tensor(exact)).exp()  # of mean one
    error = relative.std(0) / sqrt(len(draws))
    assert (error < 0.1).all()
    assert ((relative.mean(0) - 1).abs() < 4 * error).all()


def test_the_combined_normal_is_the_product_of_the_two():
    first = dist.Normal(torch.randn(3).double(), torch.rand(3).double() + 0.1)
    second = dist.Normal(torch.randn(3).double(), torch.rand(3).double() + 0.1)
    both = precision_weighted(first, second)
    grid = torch.linspace(-12, 12, 24001, dtype=torch.float64)[:, None]
    product = (first.log_prob(grid) + second.log_prob(grid)).exp()
    density = product / torch.trapezoid(product, grid.expand(-1, 3), dim=0)
    torch.testing.assert_close(both.log_prob(grid).exp(), density, rtol=1e-6, atol=1e-10)


def test_a_ladder_that_learns_nothing_from_the_data_is_the_models_p(model):
    guide = Ladder(SPEC, model).double()
    with torch.no_grad():
        last = guide.encoder.layers[-1]
        last.weight[3:6] = 0
        last.bias[3:6] = 40.0  # log variance of what the data say
    trace = poutine.trace(guide).get_trace(torch.randn(4, 1, 3, 2).double())
    expected = model.lower_prior(trace.nodes["z2"]["value"])
    got = trace.nodes["z1"]["fn"].base_dist
    torch.testing.assert_close(got.loc, expected.loc, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.scale, expected.scale, rtol=1e-9, atol=0)


def test_a_ladder_leaves_the_models_parameters_to_the_model(model):
    guide = Ladder(SPEC, model)
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in model.parameters()}
    assert not any("lower_prior" in name for name in guide.state_dict())


def _by_hand(particles: int, gradient: str, model: Hierarchical, guide: Guide, x: Tensor) -> Tensor:
    """The surrogate of STL and DReG written out for noise, not for hooks on draws.

    log w is linearised in the draws (z2, z1), at whose values all else is held, and those are
    followed to the parameters separately.
    """
    with pyro.plate("particles", particles, dim=-2):
        drawn = poutine.trace(guide).get_trace(x)
    values = {site: drawn.nodes[site]["value"] for site in ("z2", "z1")}
    leaves = {site: value.detach().requires_grad_() for site, value in values.items()}

    def log_prob(program) -> Tensor:
        with pyro.plate("particles", particles, dim=-2):
            trace = poutine.trace(poutine.condition(program, data=leaves)).get_trace(x)
        trace.compute_log_prob()
        return sum(
            trace.nodes[site]["log_prob"] for site in ("z2", "z1", "x") if site in trace.nodes
        )

    joint = log_prob(model)
    log_w = joint - log_prob(guide)
    weights = log_w.detach().softmax(0)
    path = torch.autograd.grad(log_w.sum(), list(leaves.values()), retain_graph=True)
    follow = (weights if gradient == "stl" else weights**2).unsqueeze(-1)
    through = sum((follow * g * values[s]).sum() for g, s in zip(path, values, strict=True))
    return -((weights * joint).sum() + through) / len(x)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("guide", [BottomUp, Ladder])
def test_layered_draws_have_the_gradients_of_the_papers(model, guide, gradient):
    built = guide(SPEC, model, network=Linear).double()
    x = model(size=4).detach()
    (_, *got), (_, *expected) = (
        loss_and_gradients(loss, (model, built), model, built, x)
        for loss in (IWAE(6, gradient).loss, partial(_by_hand, 6, gradient))
    )
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_the_closed_form_kl_has_the_value_of_the_sampled_one(model):
    """Top-down, where the terms are KLs given what is above; refused bottom-up."""
    x = model(size=4).detach()
    guide = Ladder(SPEC, model, network=Linear).double()
    with torch.no_grad():
        sampled = log_weights(model, guide, x, 30_000).mean(1)
        closed = -ELBO(30_000, analytic_kl=True).loss(model, guide, x)
    error = sampled.std() / sqrt(len(sampled))
    assert (sampled.mean() - closed).abs() < 4 * error
    with pytest.raises(NotImplementedError, match=r"model's order \['z2', 'z1'\]"):
        ELBO(analytic_kl=True).loss(model, BottomUp(SPEC, model).double(), x)


def test_the_top_dimension_is_set_once():
    pieces = {
        "model": partial(Hierarchical, top_dim=4, hidden=[7]),
        "prior": partial(MixtureOfNormals, components=3),
        "likelihood": None,
        "network": partial(MLP, hidden=[5]),
        "guide": Ladder,
    }
    model, guide = build_pair(Spec((1, 3, 2), "binary", 6), pieces)
    x = model(size=2)
    terms = log_terms(model, guide, x, 5)
    assert {site: tuple(z.shape) for site, z in terms.latents.items()} == {
        "z2": (5, 2, 4),
        "z1": (5, 2, 6),
    }
    assert Hierarchical(Spec((1, 3, 2), "binary", 1)).top_dim == 1
    assert Hierarchical(Spec((1, 3, 2), "binary", 7)).top_dim == 3


def test_a_guide_of_one_layer_is_refused_with_those_that_fit(model):
    with pytest.raises(InputError, match="guides for these: BottomUp, Ladder") as caught:
        check_pair(model, DiagonalNormal(SPEC).double(), torch.randn(3, 1, 3, 2).double())
    assert "\n" not in str(caught.value)


def test_a_prior_of_a_bad_dimension_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--model", "Hierarchical", "--model.top_dim", "0", "--guide", "Ladder"]
    with pytest.raises(SystemExit) as left:
        main([*options, "--prior", "MixtureOfNormals", "--run", "run"])
    assert left.value.code == 2
    assert "Hierarchical: expected top_dim >= 1; got 0" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_ladder_needs_the_warm_up_and_with_it_uses_both_layers(tmp_path):
    rates = {}
    for warmup in (0, 10):
        options = {"objective": Beta(warmup_epochs=warmup), "run": tmp_path / str(warmup)}
        run = fit(model=Hierarchical, guide=Ladder, epochs=20, **options)
        x = run.data.validation[:]
        with torch.no_grad():
            pair = pair_sites(run.model, run.guide, (x,), 50)
            rates[warmup] = [
                (q - p).mean().item()
                for site in ("z2", "z1")
                for q, p in [[nodes[site]["fn"].log_prob(nodes[site]["value"]) for nodes in pair]]
            ]
    assert sum(rates[0]) < 0.1
    assert min(rates[10]) > 0.3
