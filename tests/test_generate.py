"""What `generate` computes is what its equations say, and bad input leaves nothing behind."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import refused
from PIL import Image
from reports import ended, train
from scipy.stats import norm

import guides
import models
from ppl_vae.generate import generate, interpolate, main, manifold, reconstruct, sample, traverse
from ppl_vae.pictures import plots

VERBS = ("sample", "reconstruct", "manifold", "traverse", "interpolate")


network = partial(models.MLP, hidden=(32,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = {"network": network, "epochs": 5, "learning_rate": 1e-2}
    return {dim: train(folder / str(dim), latent_dim=dim, **options) for dim in (2, 5)}


@pytest.fixture
def run2(trained, tmp_path):
    trained[2].path = tmp_path
    return trained[2]


@pytest.fixture
def run5(trained, tmp_path):
    trained[5].path = tmp_path
    return trained[5]


def decode(run, z):
    with torch.no_grad():
        return run.model.decode(torch.as_tensor(z)).mean.numpy()


def encode(run, images):
    with torch.no_grad():
        return run.guide.posterior(run.data.test[torch.as_tensor(images)]).mean.numpy()


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_sample_draws_from_the_model(run5):
    found = sample(run5, count=2000, seed=3)
    assert found["z"].shape == (2000, 5)
    assert np.abs(found["z"].mean(0)).max() < 5 / np.sqrt(2000)
    assert np.abs(found["z"].var(0) - 1).max() < 5 * np.sqrt(2 / 2000)
    close(found["mean"], decode(run5, found["z"]))
    assert set(np.unique(found["draw"])) == {0, 1}
    # Given z, each pixel is a Bernoulli variable with the decoded mean: 128,000 of them.
    mean = found["mean"].astype(np.float64)
    error = (found["draw"] - mean).sum() / np.sqrt((mean * (1 - mean)).sum())
    assert abs(error) < 5


def test_reconstruct_decodes_the_posterior_mean(run5):
    found = reconstruct(run5, images=[7, 0, 7])
    np.testing.assert_array_equal(found["original"], run5.data.test[[7, 0, 7]])
    close(found["z"], encode(run5, [7, 0, 7]))
    close(found["mean"], decode(run5, found["z"]))
    np.testing.assert_array_equal(reconstruct(run5, count=4)["images"], range(4))


def test_manifold_is_even_in_probability(run2):
    found = manifold(run2, rows=6)
    expected = norm.ppf([1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12])
    close(norm.ppf(found["probabilities"]), expected)
    across, up = np.meshgrid(expected, expected[::-1])  # z_0 to the right, z_1 upwards
    close(found["z"], np.stack([across, up], -1))
    close(found["mean"], decode(run2, found["z"]))


def quantiles_of_draws(run, steps, seed=0):
    """Of 20 draws from q(z|x) for each test image: linear between the sorted draws."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        draws = run.guide.posterior(run.data.test[:512]).sample((20,))
    draws = np.sort(draws.numpy().astype(np.float64).reshape(-1, run.spec.latent_dim), axis=0)
    places = (np.arange(steps) + 0.5) / steps * (len(draws) - 1)
    below = np.floor(places).astype(int)
    part = (places - below)[:, None]
    return (1 - part) * draws[below] + part * draws[below + 1]


def within_quantiles_of_the_mixture(run, quantiles):
    """Whether 1/N sum_n q(z_d <= v|x_n) is (s + 1/2) / steps, but for the noise of the draws."""
    with torch.no_grad():
        q = run.guide.posterior(run.data.test[:512])
    loc, scale = q.mean.numpy(), q.variance.sqrt().numpy()
    below = norm.cdf((quantiles[:, None] - loc) / scale)
    # The draws are from each image's q(z|x) in turn, not from the mixture.
    error = np.sqrt((below * (1 - below)).mean(1) / (20 * len(loc)))
    p = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
    return (np.abs(below.mean(1) - p[:, None]) < 5 * error + 1 / (20 * len(loc))).all()


def moved(z, latent, quantiles):
    """(N, D) to (N, S, D): one latent takes S values and the others stay."""
    z = np.repeat(z[:, None], len(quantiles), axis=1)
    z[:, :, latent] = quantiles[:, latent]
    return z


def test_traverse_stays_where_data_encode(run5):
    found = traverse(run5, steps=9)
    assert found["quantiles"].shape == (9, 5)
    assert within_quantiles_of_the_mixture(run5, found["quantiles"])
    assert not within_quantiles_of_the_mixture(run5, found["quantiles"] + 0.2)


def test_traverse_moves_one_latent_and_holds_the_others(run5):
    found = traverse(run5, images=[3, 8], steps=7, latents=4, seed=2)
    quantiles = quantiles_of_draws(run5, steps=7, seed=2)
    close(found["quantiles"], quantiles)
    base = encode(run5, [3, 8])
    close(found["z"], base)
    assert found["mean"].shape == (4, 2, 7, 1, 8, 8)
    for place, latent in enumerate(found["order"][:4]):
        close(found["mean"][place], decode(run5, moved(base, latent, quantiles)))


def test_traverse_orders_all_latents_by_their_effect(run5):
    found = traverse(run5, steps=5, latents=1)
    base = encode(run5, range(64)).astype(np.float64)
    values = quantiles_of_draws(run5, steps=5)
    effects = []
    for latent in range(5):
        z = moved(base, latent, values)
        images = decode(run5, z.astype(np.float32)).astype(np.float64).reshape(64, 5, 64)
        away = images - images.mean(axis=1, keepdims=True)
        effects.append(np.sqrt((away**2).mean(axis=(1, 2))).mean())
    np.testing.assert_allclose(found["effects"], effects, rtol=1e-4)
    np.testing.assert_array_equal(found["order"], np.argsort(effects)[::-1])
    assert len(found["mean"]) == 1


def test_many_latents_are_ordered_by_fewer_images(run5, monkeypatch):
    latents = run5.spec.latent_dim
    monkeypatch.setattr("ppl_vae.latents.views._TRAVERSALS", 3 * latents + 1)
    few = traverse(run5, steps=5, latents=1)
    monkeypatch.setattr("ppl_vae.latents.views._ORDERING", 3)
    monkeypatch.setattr("ppl_vae.latents.views._TRAVERSALS", 10**6)
    expected = traverse(run5, steps=5, latents=1)
    np.testing.assert_array_equal(few["effects"], expected["effects"])


def test_interpolate_is_a_line_between_reconstructions(run5):
    found = interpolate(run5, images=[4, 9, 1, 2], steps=5)
    ends = reconstruct(run5, images=[4, 9, 1, 2])["mean"].reshape(2, 2, 1, 8, 8)
    close(found["mean"][:, [0, -1]], ends)
    z = encode(run5, [4, 9, 1, 2]).reshape(2, 2, 5)
    for step, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        close(found["z"][:, step], (1 - t) * z[:, 0] + t * z[:, 1])
    close(found["mean"], decode(run5, found["z"]))
    assert interpolate(run5, count=3)["images"].tolist() == [[0, 1], [2, 3], [4, 5]]


class Scaled(models.Prior):
    """p(z) = N(1, diag(1, 9)): not the standard normal."""

    def forward(self):
        return dist.Normal(torch.ones(2), torch.tensor([1.0, 3.0])).to_event(1)


def test_quantiles_of_another_prior_come_from_its_draws(run2):
    model = models.VAE(run2.spec, prior=Scaled(run2.spec), network=network)
    run = replace(run2, model=model)
    found = manifold(run, rows=5, seed=1)
    p = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    error = np.sqrt(p * (1 - p) / 10_000) / norm.pdf(norm.ppf(p))  # of a quantile of N(0, 1)
    assert (np.abs(found["z"][0, :, 0] - (1 + norm.ppf(p))) < 5 * error).all()
    assert (np.abs(found["z"][::-1, 0, 1] - (1 + 3 * norm.ppf(p))) < 15 * error).all()
    np.testing.assert_array_equal(manifold(run, rows=5, seed=1)["z"], found["z"])


def test_quantiles_of_a_hierarchy_are_those_of_the_layer_that_is_decoded(run2):
    model = models.Hierarchical(run2.spec, network=network)
    with torch.no_grad():  # p(z1|z2) = N((3, -3), I) for every z2, and p(z2) is a standard normal
        model.between.layers[-1].weight.zero_()
        model.between.layers[-1].bias.copy_(torch.tensor([3.0, -3.0, 0.0, 0.0]))
    run = replace(run2, model=model, guide=guides.BottomUp(run2.spec, model))
    found = manifold(run, rows=3)
    assert np.abs(found["z"][0, :, 0].mean() - 3) < 0.1
    assert np.abs(found["z"][:, 0, 1].mean() + 3) < 0.1


class Shy(guides.DiagonalNormal):
    """The same program, of which nobody knows that it is one distribution."""

    def posterior(self, x):
        raise NotImplementedError

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", guides.DiagonalNormal.posterior(self, x))


@pytest.fixture
def shy(run2):
    guide = Shy(run2.spec, network)
    guide.load_state_dict(run2.guide.state_dict())
    return replace(run2, guide=guide)


def test_the_posterior_mean_is_averaged_where_it_has_no_closed_form(run2, shy):
    found = reconstruct(shy, count=300, seed=2)["z"]
    with torch.no_grad():
        q = run2.guide.posterior(run2.data.test[:])
    error = (found - q.mean.numpy()) / (q.variance.sqrt().numpy() / np.sqrt(256))
    assert np.abs(error).max() < 5
    assert abs(error.std() - 1) < 5 / np.sqrt(2 * error.size)


def test_a_guide_that_is_no_one_distribution_is_traversed_over_its_own_draws(run2, shy):
    found = traverse(shy, steps=9, seed=1)
    assert within_quantiles_of_the_mixture(run2, found["quantiles"])
    np.testing.assert_array_equal(traverse(shy, steps=9, seed=1)["quantiles"], found["quantiles"])


@pytest.mark.parametrize("verb", VERBS)
def test_generate_writes_the_same_files_again_and_no_random_state(run2, tmp_path, verb):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    options = {"count": 3, "rows": 4, "steps": 3, "latents": 2}
    first = generate(run2, verb, **options)
    content = [path.read_bytes() for path in first]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert generate(run2, verb, **options) == first
    assert [path.read_bytes() for path in first] == content
    names = [f"{verb}.png", f"{verb}.gif", f"{verb}.npz"]
    expected = [name for name in names if verb == "traverse" or not name.endswith("gif")]
    assert [path.name for path in first] == expected
    assert sorted(tmp_path.glob("generated/*")) == sorted(first)
    with np.load(first[-1], allow_pickle=False) as arrays:
        assert arrays["mean"].shape[-3:] == (1, 8, 8)
        assert np.isfinite(arrays["mean"]).all()


def test_the_traversal_moves_in_the_gif(run5):
    paths = generate(run5, "traverse", images=[0, 1], steps=6, latents=3)
    with Image.open(paths[1]) as gif:
        assert gif.n_frames == 10


def test_the_seed_changes_the_draws(run5):
    seeds = [generate(run5, "sample", seed=seed)[1].read_bytes() for seed in (0, 1)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(("images", "shown"), [([4], 1), ([4, 9], 3)])
def test_each_of_several_images_stands_beside_all_its_rows(run5, monkeypatch, images, shown):
    sheets = []
    monkeypatch.setattr(plots, "image_grid", lambda tiles, *_, **__: sheets.append(tiles))
    generate(run5, "traverse", images=images, steps=4, latents=3)
    rows = sheets[0].reshape(3, len(images), 5, 1, 8, 8)
    for latent in range(3):
        if latent < shown:
            np.testing.assert_array_equal(rows[latent, :, 0], run5.data.test[images])
        else:
            assert np.isnan(rows[latent, :, 0]).all()
    assert np.isfinite(rows[:, :, 1:]).all()


@pytest.mark.parametrize(
    ("given", "got"), [([], "none"), (["smple"], "'smple'"), (["--seed", "1", "none"], "'none'")]
)
def test_the_command_line_lists_what_can_be_generated(tmp_path, capsys, given, got):
    assert ended(main, tmp_path, *given) == 2
    choices = "sample, reconstruct, manifold, traverse, interpolate, levels, analogies or clusters"
    assert capsys.readouterr().err == f"error: expected {choices} after the run; got {got}\n"


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("sample", {"count": 0}, "expected --count >= 1; got 0"),
        ("sample", {"seed": -1}, r"--seed: expected 0 <= seed < 2\^32; got -1"),
        ("traverse", {"seed": 2**64}, r"--seed: expected 0 <= seed < 2\^32"),
        ("reconstruct", {"images": [0, 300]}, "--images: expected 0 to 299; got 300"),
        ("reconstruct", {"images": [-1]}, "--images: expected 0 to 299; got -1"),
        ("reconstruct", {"images": []}, "--images: expected at least one index of an image"),
        ("reconstruct", {"count": 301}, "--count: expected at most 300, all test images; got 301"),
        ("manifold", {"rows": 1}, "expected --rows >= 2; got 1"),
        ("manifold", {}, "5 dimensions: train a VAE with --latent_dim 2"),
        ("traverse", {"steps": 1}, "expected --steps >= 2; got 1"),
        ("traverse", {"latents": 0}, "expected --latents >= 1; got 0"),
        ("traverse", {"images": [500]}, "got 500"),
        (
            "interpolate",
            {"images": [1, 2, 3]},
            "--images: expected pairs, an even number .*; got 3",
        ),
        ("interpolate", {"steps": 0}, "expected --steps >= 2; got 0"),
        (
            "interpolate",
            {"count": 900},
            "two for each pair; the data set has 300; choose --count 150",
        ),
        ("interpolate", {"count": 0}, "expected --count >= 1; got 0"),
        ("dream", {}, "expected sample, reconstruct, .*; got 'dream'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run2, run5, tmp_path, verb, options, message):
    with refused(message):
        generate(run2 if "rows" in options else run5, verb, **options)
    assert not any(tmp_path.iterdir())
