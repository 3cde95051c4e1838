"""Densities of any Pyro pair with local latents, per datum, and what cannot be one."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from oracles import (
    counts,
    counts_guide,
    counts_log_likelihood,
    counts_lognormal_guide,
    counts_model,
    ppca,
    refused,
    two_clusters,
    two_clusters_guide,
    two_clusters_terms,
)
from torch import Tensor

from guides import DiagonalNormal
from models import MLP, VAE, Bernoulli, MixtureOfNormals, Spec
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.unconstrained import Unconstrained
from ppl_vae.densities.weights import log_weights
from ppl_vae.inference.calibration import simulation_based_calibration
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.simulation import simulate


def test_the_weights_of_our_pairs_are_those_of_log_weights() -> None:
    spec = Spec((1, 3, 4), "binary", 2)
    model = VAE(spec, network=lambda i, o: MLP(i, o, hidden=(8,))).double()
    guide = DiagonalNormal(spec, network=lambda i, o: MLP(i, o, hidden=(8,))).double()
    x = torch.rand(5, 1, 3, 4, dtype=torch.float64).bernoulli()
    joint = Joint.of(model, guide, x)
    assert joint.sites == {"z": torch.Size([2])}
    torch.manual_seed(1)
    with torch.no_grad():
        expected = log_weights(model, guide, x, 6)
    torch.manual_seed(1)
    torch.testing.assert_close(joint.log_weights(6), expected, rtol=1e-12, atol=1e-12)


def test_terms_are_scipys() -> None:
    x = counts()
    joint = Joint.of(counts_model, counts_guide, x)
    latents, log_q = joint.draw(7)
    log_prior, log_likelihood = joint.log_terms(latents)
    rate = latents["rate"].numpy()
    np.testing.assert_allclose(log_prior, scipy.stats.gamma.logpdf(rate, 3, scale=0.5))
    expected = scipy.stats.poisson.logpmf(x.numpy(), rate[..., None]).sum(-1)
    np.testing.assert_allclose(log_likelihood, expected)
    shape = 3 + x.sum(-1).numpy()
    np.testing.assert_allclose(log_q, scipy.stats.gamma.logpdf(rate, shape, scale=1 / 7))
    torch.testing.assert_close(joint.log_guide(latents), log_q)
    weights = joint.log_weights(7)
    torch.testing.assert_close(weights, counts_log_likelihood(x).expand(7, 4))


def test_scales_of_a_subsampled_plate_do_not_count() -> None:
    def scaled(program):
        def run(x: Tensor) -> None:
            with pyro.poutine.scale(scale=50.0):
                program(x)

        return run

    x = counts()
    weights = Joint.of(scaled(counts_model), scaled(counts_guide), x).log_weights(3)
    torch.testing.assert_close(weights, counts_log_likelihood(x).expand(3, 4))


@pytest.mark.parametrize("memory_bytes", [1, 500, 5_000, 2**20])
def test_pieces_cover_everything_once(memory_bytes: int) -> None:
    joint = Joint.of(counts_model, counts_guide, counts(5), memory_bytes)
    seen = torch.zeros(23, 5)
    for rows, start, size in joint.pieces(23):
        seen[start : start + size, rows] += 1
        assert size * (rows.stop - rows.start) <= joint.rows()
    assert (seen == 1).all()
    exact = counts_log_likelihood(joint.batch[0])
    torch.testing.assert_close(joint.log_weights(23), exact.expand(23, 5))


def test_rows_bound_the_memory_of_a_decoder() -> None:
    """The largest tensors of a pass are counted, and weights are not."""
    spec = Spec((1, 20, 20), "binary", 2)
    model = VAE(spec, network=lambda i, o: MLP(i, o, hidden=(50,)))
    guide = DiagonalNormal(spec, network=lambda i, o: MLP(i, o, hidden=(50,)))
    rows = Joint.of(model, guide, torch.zeros(3, 1, 20, 20), 2**20).rows()
    per_row = 2**20 / rows
    assert 4 * 400 * 2 < per_row < 4 * 400 * 20


def test_unconstrained_densities_have_the_jacobian() -> None:
    """Integrated over u they are 1, as over z; u and z are inverses of each other."""
    x = counts(2)
    target = Unconstrained.of(Joint.of(counts_model, counts_lognormal_guide, x))
    u = torch.linspace(-12, 6, 20_001, dtype=torch.float64)[:, None, None].expand(-1, 2, 1)
    width = u[1, 0, 0] - u[0, 0, 0]
    log_prior, log_likelihood = target.log_terms(u)
    torch.testing.assert_close(log_prior.exp().sum(0) * width, torch.ones(2).double())
    torch.testing.assert_close(target.log_guide(u).exp().sum(0) * width, torch.ones(2).double())
    evidence = ((log_prior + log_likelihood).exp().sum(0) * width).log()
    torch.testing.assert_close(evidence, counts_log_likelihood(x))
    torch.testing.assert_close(target.pack(target.unpack(u)), u)
    assert (target.draw_prior(50).exp() > 0).all()


def test_a_mixture_as_prior_has_real_latents() -> None:
    spec = Spec((1, 3, 4), "binary", 2)
    model = VAE(spec, prior=MixtureOfNormals(spec, components=3), likelihood=Bernoulli(spec))
    target = Unconstrained.of(Joint.of(model, DiagonalNormal(spec), torch.zeros(2, 1, 3, 4)))
    u = target.draw_guide(4)
    latents = target.unpack(u)
    assert torch.equal(latents["z"], u)
    torch.testing.assert_close(target.log_terms(u), target.joint.log_terms(latents))


def test_simulate_draws_data_with_their_latents() -> None:
    model = ppca()
    (x,), latents = simulate(model, 20_000)
    residual = x - model.decode(latents["z"]).mean
    scale = model.log_scale.exp().item()
    assert abs(residual.std().item() / scale - 1) < 4 / (2 * x.numel()) ** 0.5
    (counted,), rates = simulate(counts_model, 20_000, like=counts(3))
    standard_error = (1.5 / 5 + 0.75) ** 0.5 / 20_000**0.5
    assert abs(counted.mean().item() - 1.5) < 4 * standard_error
    assert rates["rate"].shape == (20_000,)


def test_classes_that_the_guide_leaves_out_are_summed_out() -> None:
    x = torch.linspace(-3, 3, 5, dtype=torch.float64)
    joint = Joint.of(two_clusters, two_clusters_guide, x)
    assert joint.summed == ("y",)
    exact = two_clusters_terms(x).logsumexp(-1)
    torch.testing.assert_close(joint.log_weights(9), exact.expand(9, 5))
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None].expand(7, 5)
    log_prior, log_likelihood = joint.log_terms({"z": z})
    prior = 0.7 * scipy.stats.norm.pdf(z, -2) + 0.3 * scipy.stats.norm.pdf(z, 2)
    np.testing.assert_allclose(log_prior, np.log(prior))
    np.testing.assert_allclose(log_likelihood, scipy.stats.norm.logpdf(x, z, 0.5**0.5))
    calibration = simulation_based_calibration(two_clusters, two_clusters_guide, like=x)
    assert calibration.p_value["z"] > 0.001
    drawn = nuts_posterior(two_clusters, two_clusters_guide, x[:1], draws=50, warmup=50)
    assert drawn.latents["z"].shape == (4, 50, 1)


def test_what_comes_with_the_data_is_taken_row_by_row() -> None:
    """Simulated data have the classes of the data given, and not those of the first alone."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1e-3))
            pyro.sample("x", dist.Normal(z + 10.0 * y, 1e-3), obs=x)

    (x, y), _ = simulate(model, 7, like=(torch.zeros(3), torch.tensor([2, 0, 1])))
    assert y.tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert ((x - 10.0 * y).abs() < 0.1).all()


def test_a_model_that_cannot_draw_by_itself_needs_data() -> None:
    with refused("like=x"):
        simulate(counts_model, 3)


def program(name: str, distribution):
    def run(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(name, distribution(x))

    return run


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (program("rate", lambda x: dist.Delta(x.mean(-1) + 1)), "no density"),
        (program("other", lambda x: dist.Gamma(x.sum(-1) + 1, 1.0)), "exactly"),
        (lambda x: pyro.sample("rate", dist.Gamma(x.sum(-1) + 1, 1.0).to_event(1)), "per datum"),
        (lambda x: None, "exactly"),
    ],
    ids=["delta", "other", "joint", "none"],
)
def test_guides_that_do_not_fit_are_refused(guide, said: str) -> None:
    with refused(said):
        Joint.of(counts_model, guide, counts())


def test_discrete_latents_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Poisson(1.0 + k[..., None] + 0 * x).to_event(1), obs=x)

    guide = program("k", lambda x: dist.Categorical(torch.ones(len(x), 3)))
    with refused("discrete"):
        Joint.of(model, guide, counts())
    enumerated = pyro.infer.config_enumerate(model)
    with refused("exactly the model's latent sites"):
        Joint.of(enumerated, counts_guide, counts())


def test_a_check_moves_no_random_numbers() -> None:
    x = counts()
    before = torch.get_rng_state()
    Joint.of(counts_model, counts_guide, x).rows()
    assert torch.equal(torch.get_rng_state(), before)
