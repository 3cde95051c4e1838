"""The importance-weighted bound and its three gradient estimators."""

from functools import partial
from inspect import signature
from math import sqrt

import pytest
import torch
from comparing import loss_and_gradients, seeded
from torch import Tensor, nn

from guides import IAF, BottomUp, DiagonalNormal, FullRankNormal, Ladder, SemiAmortized
from models import MLP, VAE, Hierarchical, Spec
from ppl_vae.densities.weights import log_terms
from ppl_vae.fit import main
from ppl_vae.objectives import ELBO, IWAE


def _guide_gradients(objective, pair, repeats: int) -> Tensor:
    model, guide, x = pair
    rows = []
    for _ in range(repeats):
        gradients = torch.autograd.grad(objective.loss(model, guide, x), guide.encoder.parameters())
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def test_the_bound_rises_with_the_particles_to_log_p(pair):
    model, guide, x = pair
    exact = model.log_likelihood(x).mean().item()
    bounds = {}
    for particles, repeats in ((1, 1500), (10, 500), (1000, 25)):
        with torch.no_grad():
            values = -torch.stack([IWAE(particles).loss(model, guide, x) for _ in range(repeats)])
        bounds[particles] = (values.mean().item(), values.std().item() / sqrt(repeats))
    assert bounds[1][0] + 3 * bounds[1][1] < bounds[10][0] < exact
    mean, error = bounds[1000]
    assert abs(mean - exact) < 3 * error + 1e-3  # the bias at K = 1,000 is below a thousandth


def test_one_particle_is_the_elbo(pair):
    model, guide, x = pair
    one, elbo = (seeded(objective.loss, model, guide, x) for objective in (IWAE(1), ELBO()))
    torch.testing.assert_close(one, elbo, rtol=1e-12, atol=0)


def test_at_the_exact_posterior_the_sticking_gradients_vanish_and_the_plain_one_does_not(
    exact_pair,
):
    spread = {
        gradient: _guide_gradients(IWAE(4, gradient), exact_pair, 20).abs().max().item()
        for gradient in ("plain", "stl", "dreg")
    }
    assert spread["stl"] < 1e-12
    assert spread["dreg"] < 1e-12
    assert spread["plain"] > 0.01


def test_dreg_has_the_mean_of_the_plain_gradient_and_less_variance(pair):
    repeats = 1000
    plain = _guide_gradients(IWAE(5), pair, repeats)
    dreg = _guide_gradients(IWAE(5, "dreg"), pair, repeats)
    error = ((plain.var(0) + dreg.var(0)) / repeats).sqrt()
    assert ((plain.mean(0) - dreg.mean(0)).abs() < 4 * error + 1e-12).all()
    assert (dreg.mean(0).abs() > 4 * error).any()  # and the comparison is of something
    assert dreg.var(0).sum() < plain.var(0).sum()


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_the_models_gradient_is_the_same_in_all_estimators(pair, gradient):
    model, guide, x = pair
    results = [
        loss_and_gradients(IWAE(5, name).loss, [model], model, guide, x)
        for name in ("plain", gradient)
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_a_closed_form_kl_that_does_not_exist_is_refused_before_training(capsys, tmp_path):
    pieces = ["--prior", "MixtureOfNormals", "--objective.analytic_kl", "true"]
    with pytest.raises(SystemExit) as left:
        main([*pieces, "--run", str(tmp_path / "run")])
    assert left.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ELBO cannot be computed")
    assert "KL(q || p) at site 'z' has no closed form" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model_kind", "guide_kind"),
    [
        (VAE, DiagonalNormal),
        (VAE, FullRankNormal),
        (VAE, IAF),
        (VAE, partial(SemiAmortized, guide=IAF, steps=1)),
        (Hierarchical, BottomUp),
        (Hierarchical, Ladder),
    ],
)
def test_the_density_that_is_held_constant_has_no_gradient_but_through_the_draws(
    model_kind, guide_kind
):
    """By the chain rule: with d log q / d z_k known, the rest of it is d z_k / d phi alone."""
    spec = Spec((1, 3, 2), "binary", 2)
    model = model_kind(spec, network=partial(MLP, hidden=(5,)))
    wanted = {"model": model} if "model" in signature(guide_kind).parameters else {}
    guide = guide_kind(spec, network=partial(MLP, hidden=(5,)), **wanted)
    pair = nn.ModuleList([model, guide]).double()
    x = torch.rand(4, 1, 3, 2, dtype=torch.float64).round()
    terms = log_terms(model, guide, x, 3, stop_guide=True)
    draws, parameters = list(terms.latents.values()), list(pair.parameters())
    total = terms.log_guide.sum()
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(total, parameters, **options)
    backwards = torch.autograd.grad(total, draws, **options)
    expected = torch.autograd.grad(draws, parameters, backwards, **options)
    assert any(gradient.any() for gradient in expected)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
