"""The tree of a pair's draws: its groups, coordinates and values, and the file that holds it."""

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from oracles import Posterior, ppca, refused
from torch import Tensor

from guides import DiagonalNormal
from models import VAE, Linear, ProbabilisticPCA, Spec
from ppl_vae.inference import datatree
from ppl_vae.inference.ais import bidirectional
from ppl_vae.inference.calibration import simulation_based_calibration
from ppl_vae.inference.datatree import loo_pit_datatree, nuts_datatree, to_datatree
from ppl_vae.inference.netcdf import read_datatree, write_datatree
from ppl_vae.inference.nuts import nuts_posterior
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.inference.simulation import simulate

GROUPS = {"posterior", "prior", "posterior_predictive", "prior_predictive", "log_likelihood",
          "sample_stats", "observed_data", "constant_data"}  # fmt: skip


@pytest.fixture
def pair() -> tuple[VAE, DiagonalNormal, Tensor]:
    spec = Spec((1, 3, 4), "binary", latent_dim=2)
    model, guide = VAE(spec, network=Linear), DiagonalNormal(spec, network=Linear)
    return model.eval(), guide.eval(), (torch.rand(5, 1, 3, 4) > 0.5).float()


def test_groups_dimensions_and_coordinates(pair) -> None:
    given = {"images": [9, 3, 4, 1, 0], "labels": [1, 1, 0, -1, 2]}
    tree = to_datatree(*pair, draws=6, chains=3, predictive_draws=2, **given)
    assert set(tree.children) == GROUPS
    z = tree["posterior"]["z"]
    assert dict(z.sizes) == {"chain": 3, "draw": 6, "image": 5, "latent": 2}
    assert tree["prior"]["z"].sizes["draw"] == 2
    for group in ("prior_predictive", "posterior_predictive"):
        x = tree[group]["x"]
        assert dict(x.sizes) == {
            "chain": 3, "draw": 2, "image": 5, "channel": 1, "height": 3, "width": 4
        }  # fmt: skip
        assert x.dtype == np.uint8
    for name in tree["sample_stats"].data_vars:
        statistic = tree["sample_stats"][name]
        assert statistic.dims == ("chain", "draw", "image")
        assert statistic.attrs["units"] == "nats"
    assert tree["log_likelihood"]["x"].attrs["units"] == "nats"
    for group in tree.children.values():
        for variable in group.variables.values():
            assert {"long_name", "units"} <= variable.attrs.keys()
    assert z["image"].values.tolist() == [9, 3, 4, 1, 0]
    assert tree["constant_data"]["label"].sel(image=4).item() == 0
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, pair[2].numpy())


def test_the_logarithms_are_those_of_the_distributions(pair) -> None:
    model, guide, x = pair
    tree = to_datatree(model, guide, x, draws=4, chains=2)
    z = torch.as_tensor(tree["posterior"]["z"].values)
    with torch.no_grad():
        expected = {
            "log_prior": model.prior().log_prob(z),
            "log_guide": guide.posterior(x).log_prob(z),
            "log_joint": model.prior().log_prob(z) + model.decode(z).log_prob(x),
        }
    expected["log_weight"] = expected["log_joint"] - expected["log_guide"]
    for name, value in expected.items():
        np.testing.assert_allclose(tree["sample_stats"][name].values, value, rtol=1e-5, atol=1e-4)
    likelihood = expected["log_joint"] - expected["log_prior"]
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values, likelihood, rtol=1e-5, atol=1e-4)


def test_predictive_draws_belong_to_the_draws_of_z_beside_them() -> None:
    """(x - E[x|z]) / sd(x|z) is standard normal for the z at the same chain, draw and image."""
    spec = Spec((1, 2, 3), "real", latent_dim=2)
    model, guide = ProbabilisticPCA(spec), DiagonalNormal(spec, network=Linear)
    tree = to_datatree(model, guide, torch.randn(4, 1, 2, 3), draws=3, chains=2)
    for latents, images in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        z = torch.as_tensor(tree[latents]["z"].values)
        decoded = model.decode(z)
        x = torch.as_tensor(tree[images]["x"].values)
        assert x.dtype == torch.float32
        with torch.no_grad():
            distance = ((x - decoded.mean) / decoded.variance.sqrt()).square().mean()
        assert 0.5 < distance < 1.6  # a mean of 144 squares of standard normals


def test_the_moments_are_those_of_guide_and_prior(pair) -> None:
    model, guide, x = pair
    tree = to_datatree(model, guide, x, draws=2000, chains=2, predictive_draws=2000)
    q = guide.posterior(x)
    z = tree["posterior"]["z"].values.reshape(-1, 5, 2)
    error = (q.variance.detach() / len(z)).sqrt().numpy()
    assert (abs(z.mean(0) - q.mean.detach().numpy()) < 5 * error).all()
    prior = tree["prior"]["z"].values.reshape(-1, 5, 2)
    assert (abs(prior.mean(0)) < 5 / len(prior) ** 0.5).all()
    predicted = tree["posterior_predictive"]["x"].values.reshape(-1, *x.shape).mean(0)
    with torch.no_grad():
        known = model.decode(torch.as_tensor(z)).mean.mean(0).numpy()
    assert (abs(predicted - known) < 5 * 0.5 / len(z) ** 0.5).all()


def test_predictive_draws_keep_below_the_bound(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datatree, "PREDICTIVE_BYTES", 2 * 3 * 5 * 12 + 1)  # two draws of 3 chains
    tree = to_datatree(*pair, draws=6, chains=3, predictive_draws=5)
    assert tree["posterior_predictive"]["x"].nbytes == 2 * 3 * 5 * 12


def test_pieces_do_not_change_shapes_or_weights() -> None:
    """At any bound on memory the weights of probabilistic PCA's exact posterior are log p(x)."""
    model = ppca()
    exact, x = Posterior(model), model(size=7)
    for memory in (1, 5000, 10**8):
        counted: list[int] = []
        tree = to_datatree(
            model, exact, x, draws=5, chains=2, memory_bytes=memory, advance=counted.append
        )
        assert sum(counted) == 70
        weights = tree["sample_stats"]["log_weight"].values
        expected = model.log_likelihood(x).detach().numpy()
        np.testing.assert_allclose(weights, np.broadcast_to(expected, weights.shape), atol=1e-3)


def test_arviz_reads_it(pair) -> None:
    """R-hat of independent draws is near 1, and k-hat is that of ArviZ's own function."""
    import arviz_stats

    tree = to_datatree(*pair, draws=500, chains=4)
    assert abs(arviz_stats.rhat(tree)["z"].values - 1).max() < 0.03
    weights = tree["sample_stats"]["log_weight"]
    # ArviZ takes the logarithms of inverse ratios, as in leaving one out.
    _, k_hat = (-weights).azstats.psislw(dim=["chain", "draw"])
    flat = torch.as_tensor(weights.values.reshape(-1, 5))
    own = pareto_k(flat).k_hat
    np.testing.assert_allclose(k_hat.values, own, atol=1e-5)


def test_the_file_holds_the_tree(pair, tmp_path: Path) -> None:
    tree = to_datatree(*pair, draws=6, chains=3, labels=range(5))
    path = tmp_path / "posterior.nc"
    write_datatree(tree, path)
    assert read_datatree(path).identical(tree)
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_files_that_are_cut_off_or_missing_are_refused(pair, tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    write_datatree(to_datatree(*pair, draws=6, chains=3), path)
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with refused("damaged"):
            read_datatree(path)
    path.unlink()
    with refused("there is none"):
        read_datatree(path)


@pytest.mark.parametrize("name", ["draws", "chains", "predictive_draws"])
def test_counts_are_checked(pair, name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} >= 1; got 0"):
        to_datatree(*pair, **{name: 0})


def test_what_does_not_fit_the_data_is_refused(pair) -> None:
    with refused("expected labels of 5 data; got 3"):
        to_datatree(*pair, labels=[1, 2, 3])


def test_arviz_plots_what_it_needs_from_the_tree(pair, tmp_path: Path) -> None:
    """Leaving one out beside the predictive draws; energies and traces of NUTS."""
    import matplotlib

    matplotlib.use("agg")
    from arviz_plots import plot_energy, plot_loo_pit, plot_rank, plot_trace
    from arviz_stats import bfmi, loo_pit

    tree = to_datatree(*pair, draws=50, chains=4, predictive_draws=25)
    assert tree["log_likelihood"]["x"].sizes["draw"] == 25
    plot_loo_pit(loo_pit_datatree(tree), backend="matplotlib")
    values = loo_pit(loo_pit_datatree(tree))["x"].values
    assert values.shape == (5,)
    assert ((values >= 0) & (values <= 1)).all()
    found = nuts_posterior(*pair, draws=60, warmup=30)
    tree["nuts"] = nuts_datatree(found, images=[9, 3, 4, 1, 0])
    write_datatree(tree, tmp_path / "posterior.nc")
    chains = read_datatree(tmp_path / "posterior.nc")["nuts"]
    assert chains["posterior"]["z"].dims == ("chain", "draw", "image", "latent")
    assert chains["sample_stats"]["energy"].sel(image=4).shape == (4, 60)
    for plot in (plot_trace, plot_rank):
        plot(chains.sel(image=[9]), backend="matplotlib")
    plot_energy(chains.sel(image=9), backend="matplotlib")
    assert (bfmi(chains.sel(image=9))["energy"].values > 0.3).all()


def test_energies_are_those_of_the_momenta(pair) -> None:
    """H = kinetic energy - log p(x, z): the first is half a chi-square of D degrees of freedom."""
    model, guide, x = pair
    found = nuts_posterior(model, guide, x, draws=300, warmup=100)
    kinetic = found.energy + found.log_joint
    assert (kinetic > 0).all()
    assert abs(kinetic.mean().item() - 1) < 0.15
    assert scipy.stats.kstest(2 * kinetic[:, ::10].flatten(), "chi2", args=(2,)).pvalue > 1e-4


def test_several_observed_sites_of_any_name() -> None:
    """Counts and a label beside them: each has its own predictive draws and log-likelihood."""

    def model(counts: Tensor, sign: Tensor) -> None:
        with pyro.plate("rows", len(counts)):
            rate = pyro.sample("rate", dist.Gamma(3.0, torch.full((len(counts),), 2.0)))
            seen = dist.Poisson(rate[..., None].expand(*rate.shape, 5)).to_event(1)
            pyro.sample("counts", seen, obs=counts)
            pyro.sample("sign", dist.Bernoulli(logits=rate - 1), obs=sign)

    def guide(counts: Tensor, sign: Tensor) -> None:
        with pyro.plate("rows", len(counts)):
            pyro.sample("rate", dist.Gamma(3.0 + counts.sum(-1), 7.0))

    data = torch.poisson(torch.full((6, 5), 2.0)), (torch.rand(6) > 0.5).float()
    tree = to_datatree(model, guide, data, draws=40, chains=2, predictive_draws=40)
    rate = torch.as_tensor(tree["posterior"]["rate"].values)
    expected = {
        "counts": dist.Poisson(rate[..., None]).log_prob(data[0]).sum(-1),
        "sign": dist.Bernoulli(logits=rate - 1).log_prob(data[1]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(tree["log_likelihood"][name].values, value, rtol=1e-4)
        np.testing.assert_array_equal(tree["observed_data"][name].values, data[name == "sign"])
    assert tree["posterior_predictive"]["sign"].shape == (2, 40, 6)
    assert tree["prior_predictive"]["counts"].shape == (2, 40, 6, 5)
    log_joint = tree["sample_stats"]["log_joint"] - tree["sample_stats"]["log_prior"]
    np.testing.assert_allclose(log_joint, sum(expected.values()), rtol=1e-4)
    (counts, sign), latents = simulate(model, 4000, like=data)
    assert counts.shape == (4000, 5)
    residual = counts.mean(-1) - latents["rate"]
    assert abs(residual.mean()) < 4 * (0.3 / 4000) ** 0.5
    chance = (latents["rate"] - 1).sigmoid()
    assert abs((sign - chance).mean()) < 4 * 0.5 / 4000**0.5
    calibrated = simulation_based_calibration(model, guide, data_points=200, like=data)
    assert calibrated.ranks["rate"].shape == (200,)
    both = bidirectional(model, guide, 10, chains=4, temperatures=10, leapfrog_steps=2, like=data)
    assert both.gap.shape == (10,)
