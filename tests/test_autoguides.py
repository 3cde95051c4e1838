"""Pyro's autoguides: their densities, and what is measured with them, against closed forms."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import counts, counts_log_likelihood, counts_model, refused
from pyro import poutine
from pyro.infer import autoguide
from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.weights import log_weights
from ppl_vae.inference.ais import ais, bidirectional
from ppl_vae.inference.calibration import simulation_based_calibration
from ppl_vae.inference.datatree import to_datatree
from ppl_vae.inference.gaps import gap_decomposition
from ppl_vae.inference.marginal_likelihood import marginal_likelihood_estimator
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.pareto import pareto_k

DESIGN = torch.tensor([[1.0, 0.6], [0.2, 1.0], [1.0, -0.3]], dtype=torch.float64)
DATA = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)


def regression(x: Tensor) -> None:
    """w ~ N(0, I) for all data together, x_i ~ N(a_i w, 1)."""
    zeros = torch.zeros(2, dtype=torch.float64)
    w = pyro.sample("w", dist.Normal(zeros, 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal((DESIGN * w).sum(-1), 1.0), obs=x)


def two_sites(x: Tensor) -> None:
    """The same model with a site for each weight; the second is positive."""
    zero = torch.zeros((), dtype=torch.float64)
    first = pyro.sample("first", dist.Normal(zero, 1.0))
    second = pyro.sample("second", dist.LogNormal(zero, 1.0))
    with pyro.plate("data", len(x)):
        loc = first * DESIGN[:, 0] + second.log() * DESIGN[:, 1]
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def exact() -> dist.MultivariateNormal:
    precision = torch.eye(2, dtype=torch.float64) + DESIGN.T @ DESIGN
    return dist.MultivariateNormal(
        torch.linalg.solve(precision, DESIGN.T @ DATA), precision_matrix=precision
    )


def log_evidence() -> Tensor:
    covariance = torch.eye(3, dtype=torch.float64) + DESIGN @ DESIGN.T
    return dist.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(DATA)


def built(kind: Callable, model: Callable = regression, x: Tensor = DATA):
    """A guide of the class, near the posterior."""
    guide = kind(model)
    guide(x)
    return guide.double()


def near(kind: Callable, **numbers: Tensor):
    """A guide around the posterior's mean."""
    guide = built(kind)
    guide.loc = torch.nn.Parameter(exact().mean)
    for name, value in numbers.items():
        setattr(guide, name, value)
    return guide


def multivariate():
    tril = exact().scale_tril
    scale = tril.diagonal().clone()
    return near(autoguide.AutoMultivariateNormal, scale=scale, scale_tril=tril / scale[:, None])


def low_rank():
    """s_i s_j (w_i w_j + [i = j]), with s and w such that it is the posterior's covariance."""
    posterior = exact()
    covariance = posterior.covariance_matrix
    correlation = covariance[0, 1] / (posterior.stddev[0] * posterior.stddev[1])
    weight = (correlation.abs() / (1 - correlation.abs())).sqrt()
    factor = torch.stack([weight, correlation.sign() * weight])[:, None]
    return near(
        lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=1),
        scale=posterior.stddev / (1 + weight.square()).sqrt(),
        cov_factor=torch.nn.Parameter(factor),
    )


def normal():
    posterior = exact()
    guide = built(autoguide.AutoNormal)
    guide.locs.w, guide.scales.w = posterior.mean, 1.2 * posterior.stddev
    return guide


def flow():
    torch.set_default_dtype(torch.float64)  # which the inverse of Pyro's map is computed in
    guide = built(lambda model: autoguide.AutoIAFNormal(model, hidden_dim=[6], num_transforms=1))
    for parameter in guide.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return guide


GUIDES = {
    "AutoNormal": normal,
    "AutoDiagonalNormal": lambda: near(autoguide.AutoDiagonalNormal, scale=1.2 * exact().stddev),
    "AutoMultivariateNormal": multivariate,
    "AutoLowRankMultivariateNormal": low_rank,
    "AutoIAFNormal": flow,
}
EXACT = ("AutoMultivariateNormal", "AutoLowRankMultivariateNormal")
each = pytest.mark.parametrize("name", GUIDES)


@each
def test_the_density_of_an_autoguide(name: str) -> None:
    """It integrates to one on a grid, and is that of the draws."""
    joint = Joint.of(regression, GUIDES[name](), DATA, as_one=True)
    latents, log_q = joint.draw(50)
    assert latents["w"].shape == (50, 1, 1, 2)
    torch.testing.assert_close(joint.log_guide(latents), log_q, rtol=1e-6, atol=1e-6)
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    mass = joint.log_guide({"w": grid}).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-3)


@each
def test_the_weights_of_an_autoguide(name: str) -> None:
    """The posterior's are all log p(x); those of another guide have the mean p(x)."""
    joint = Joint.of(regression, GUIDES[name](), DATA, as_one=True)
    weights = joint.log_weights(4000)
    assert weights.shape == (4000, 1)
    relative = (weights - log_evidence()).exp()
    error = relative.std() / 4000**0.5
    assert (relative.mean() - 1).abs() < 4.5 * error + 1e-9
    assert (error < 1e-6) == (name in EXACT)
    if name != "AutoIAFNormal":
        assert (pareto_k(weights).k_hat < 0.5).all()


@each
def test_annealing_from_an_autoguide(name: str) -> None:
    found = ais(
        regression, GUIDES[name](), DATA, temperatures=40, leapfrog_steps=3, start="guide",
        as_one=True,
    )  # fmt: skip
    assert found.lower - 1e-3 < log_evidence() < found.upper + 1e-3


@each
def test_the_gaps_of_an_autoguide(name: str) -> None:
    """The best diagonal normal is the posterior without its correlations; others have it."""
    guide = GUIDES[name]()
    before = {key: value.clone() for key, value in guide.named_parameters()}
    gaps = gap_decomposition(regression, guide, DATA, particles=4000, steps=400, as_one=True)
    torch.testing.assert_close(
        gaps.approximation_gap + gaps.amortization_gap, gaps.log_likelihood - gaps.elbo
    )
    precision = exact().precision_matrix
    mean_field = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    best = mean_field if name in ("AutoNormal", "AutoDiagonalNormal") else 0.0
    error = 4 * gaps.approximation_gap_standard_error + 5e-3
    assert (gaps.approximation_gap - best).abs() < error
    assert gaps.amortization_gap > -4 * gaps.amortization_gap_standard_error - 1e-3
    for key, value in guide.named_parameters():
        assert torch.equal(value, before[key])


def test_nuts_and_appendix_d_on_latents_that_the_data_share() -> None:
    joint = Joint.of(regression, normal(), DATA, as_one=True)
    found = nuts_posterior(joint, draws=200, warmup=100)
    w, ess, posterior = found.latents["w"], found.ess["w"], exact()
    assert w.shape == (4, 200, 1, 1, 2)
    assert ((w.mean((0, 1)) - posterior.mean).abs() < 4 * posterior.stddev / ess.sqrt()).all()
    found = marginal_likelihood_estimator(joint, draws=200, warmup=100)
    error = (found.log_likelihood - log_evidence()).abs()
    assert (error < 6 * found.standard_error + 1e-3).all()


def test_a_tree_of_latents_that_the_data_share() -> None:
    tree = to_datatree(regression, normal(), DATA, draws=5, chains=2, as_one=True)
    assert tree["posterior"]["w"].shape == (2, 5, 1, 1, 2)
    assert tree["posterior_predictive"]["x"].shape == (2, 5, 1, 3)
    assert tree["observed_data"]["x"].values.ravel().tolist() == pytest.approx(DATA.tolist())


def test_a_list_of_guides_for_sites_of_their_own() -> None:
    """One site by one guide, one by another; the second is positive, with its Jacobian."""
    guide = autoguide.AutoGuideList(two_sites)
    guide.append(autoguide.AutoNormal(poutine.block(two_sites, expose=["first"])))
    guide.append(autoguide.AutoDiagonalNormal(poutine.block(two_sites, expose=["second"])))
    guide(DATA)
    guide.double()
    posterior = exact()
    guide[0].locs.first, guide[0].scales.first = posterior.mean[0], 1.3 * posterior.stddev[0]
    guide[1].loc = torch.nn.Parameter(posterior.mean[1:])
    guide[1].scale = 1.3 * posterior.stddev[1:]
    joint = Joint.of(two_sites, guide, DATA, as_one=True)
    latents, log_q = joint.draw(6)
    by_hand = dist.Normal(posterior.mean[0], 1.3 * posterior.stddev[0]).log_prob(latents["first"])
    second = dist.LogNormal(posterior.mean[1], 1.3 * posterior.stddev[1])
    by_hand = (by_hand + second.log_prob(latents["second"])).squeeze(-1)
    torch.testing.assert_close(log_q, by_hand)
    torch.testing.assert_close(joint.log_guide(latents), by_hand)
    relative = (joint.log_weights(4000) - log_evidence()).exp()
    assert (relative.mean() - 1).abs() < 4 * relative.std() / 4000**0.5


@pytest.fixture
def local() -> tuple[autoguide.AutoNormal, Tensor]:
    """An AutoNormal with parameters for each datum of a plate."""
    x = counts(6)
    guide = built(autoguide.AutoNormal, counts_model, x)
    mean = (3 + x.sum(-1)) / 7
    guide.locs.rate, guide.scales.rate = mean.log(), 1.2 * (7 * mean) ** -0.5
    return guide, x


@pytest.mark.parametrize("memory_bytes", [1, 2000, 2**25])
def test_an_autoguide_under_a_plate_is_per_datum(local, memory_bytes: int) -> None:
    """Also where passes take some of the data, and it has parameters for all of them."""
    guide, x = local
    joint = Joint.of(counts_model, guide, x, memory_bytes)
    part = joint[torch.tensor([4, 1])]
    latents, log_q = part.draw(3)
    loc, scale = guide.locs.rate[[4, 1]], guide.scales.rate[[4, 1]]
    expected = dist.LogNormal(loc, scale).log_prob(latents["rate"])
    torch.testing.assert_close(log_q, expected)
    torch.testing.assert_close(part.log_guide(latents), expected)
    relative = (joint.log_weights(300) - counts_log_likelihood(x)).exp()
    assert relative.shape == (300, 6)
    assert ((relative.mean(0) - 1).abs() < 4.5 * relative.std(0) / 300**0.5).all()
    torch.manual_seed(5)
    one = log_weights(counts_model, guide, x, 7)
    torch.manual_seed(5)
    latents, log_q = joint.draw(7)
    torch.testing.assert_close(one, torch.stack(joint.log_terms(latents)).sum(0) - log_q)


def test_what_else_an_autoguide_under_a_plate_gives(local) -> None:
    guide, x = local
    found = ais(counts_model, guide, x, temperatures=30, leapfrog_steps=3, start="guide")
    truth = counts_log_likelihood(x)
    assert ((found.lower < truth) & (truth < found.upper)).all()
    drawn = nuts_posterior(counts_model, guide, x, draws=100, warmup=60).latents["rate"]
    assert drawn.shape == (4, 100, 6)
    both = bidirectional(counts_model, guide, 6, temperatures=30, leapfrog_steps=3, like=x)
    truth = counts_log_likelihood(both.batch[0])
    assert (both.above - truth).mean().abs() < 4 * both.gap.std() / 6**0.5 + 0.05
    assert to_datatree(counts_model, guide, x, draws=3, chains=2)["posterior"]["rate"].shape[2] == 6
    for call in (
        lambda: simulation_based_calibration(counts_model, guide, data_points=100, like=x),
        lambda: gap_decomposition(counts_model, guide, x, particles=50),
        lambda: log_weights(counts_model, guide, x[:4], 5),
    ):
        with refused("parameters for each"):
            call()


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (normal, "as_one=True"),
        (lambda: built(autoguide.AutoDelta), "point mass"),
        (lambda: built(autoguide.AutoDiagonalNormal, counts_model, torch.ones(3, 5)), "as_one"),
    ],
    ids=["shared", "delta", "of_all_data"],
)
def test_what_is_not_per_datum_is_refused_with_the_way_to_go_on(guide, said: str) -> None:
    guide = guide()
    model, x = (regression, DATA) if said != "as_one" else (counts_model, torch.ones(3, 5))
    with refused(said):
        log_weights(model, guide, x.double(), 5)
    if said == "as_one":  # one distribution over the latents of all data
        weights = Joint.of(model, guide, x.double(), as_one=True).log_weights(5)
        assert weights.shape == (5, 1)


def test_an_auxiliary_site_that_is_more_than_the_latents_is_refused() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample(
                "u", dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1),
                infer={"is_auxiliary": True},
            )  # fmt: skip
            pyro.sample("rate", dist.Delta(u.sum(-1).exp()))

    with refused("auxiliary sites"):
        log_weights(counts_model, guide, torch.ones(3, 5).double(), 5)


@pytest.mark.parametrize("particles", [0, -1])
def test_no_particles_are_refused(local, particles: int) -> None:
    guide, x = local
    for call in (
        lambda: log_weights(counts_model, guide, x, particles),
        lambda: Joint.of(counts_model, guide, x).log_weights(particles),
    ):
        with pytest.raises(ValueError, match=f"expected particles >= 1; got {particles}"):
            call()
