"""log p(x) - ELBO, split: closed forms of probabilistic PCA and of pairs written by hand."""

from functools import partial
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import (
    SPEC,
    MeanField,
    Posterior,
    TwoLevels,
    counts,
    counts_guide,
    counts_log_likelihood,
    counts_lognormal_guide,
    counts_model,
    mean_field_gap,
    ppca,
    refused,
    two_clusters,
    two_clusters_normal,
    two_clusters_terms,
    two_levels_log_likelihood,
    two_levels_model,
)
from torch import Tensor

from guides import IAF, BottomUp, DiagonalNormal, FullRankNormal
from models import MLP, VAE, Hierarchical, Linear, ProbabilisticPCA, Spec
from ppl_vae.densities.joint import Joint
from ppl_vae.inference.families import _by_copies
from ppl_vae.inference.gaps import Gaps, gap_decomposition


def check_sum(gaps: Gaps) -> None:
    whole = gaps.log_likelihood - gaps.elbo
    torch.testing.assert_close(
        gaps.approximation_gap + gaps.amortization_gap, whole, rtol=0, atol=1e-10
    )


def within(value: Tensor, expected: Tensor | float, error: Tensor, floor: float = 1e-6) -> bool:
    return bool(error.isfinite().all() and ((value - expected).abs() < 4 * error + floor).all())


def test_the_exact_posterior_has_no_gaps() -> None:
    model = ppca()
    x = model(size=5)
    gaps = gap_decomposition(model, Posterior(model), x, particles=500)
    check_sum(gaps)
    torch.testing.assert_close(gaps.log_likelihood, model.log_likelihood(x))
    for gap in (gaps.approximation_gap, gaps.amortization_gap):
        torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-9)
    assert gaps.converged.all()
    assert (gaps.k_hat < 0.5).all()


def test_a_mean_field_gap_is_split_as_the_closed_form_says() -> None:
    model, offset = ppca(), 0.4
    x = model(size=20)
    gaps = gap_decomposition(model, MeanField(model, offset), x, particles=20_000)
    check_sum(gaps)
    exact = mean_field_gap(model, x)
    assert (exact > 0.03).all()
    assert gaps.converged.all()
    assert within(gaps.approximation_gap, exact, gaps.approximation_gap_standard_error, 3e-3)
    # A mean that is off by d costs d' Lambda d / 2 more.
    precision = model.posterior(x).precision_matrix
    amortization = 0.5 * offset**2 * precision.sum((-1, -2))
    assert within(gaps.amortization_gap, amortization, gaps.amortization_gap_standard_error, 3e-3)
    assert within(
        gaps.elbo, model.log_likelihood(x) - exact - amortization, gaps.elbo_standard_error
    )
    assert within(gaps.log_likelihood, model.log_likelihood(x), gaps.log_likelihood_standard_error)
    assert (gaps.log_likelihood_standard_error < 0.02).all()


def test_an_untrained_guide_of_the_right_family_loses_by_amortization_alone() -> None:
    model = ppca()
    x = model(size=8)
    gaps = gap_decomposition(
        model, FullRankNormal(SPEC, network=Linear).double(), x, particles=1000, learning_rate=0.1
    )
    assert gaps.converged.all()
    assert (gaps.approximation_gap.abs() < 1e-3).all()
    exact = model.log_likelihood(x)
    assert within(gaps.elbo + gaps.amortization_gap, exact, gaps.best_elbo_standard_error, 1e-3)
    assert (gaps.amortization_gap > 0.5).all()


def test_a_pair_by_hand_with_a_positive_latent() -> None:
    x = counts(6)
    exact = counts_log_likelihood(x)
    gaps = gap_decomposition(counts_model, counts_guide, x, particles=500)
    assert (gaps.approximation_gap.abs() < 1e-6).all()
    torch.testing.assert_close(gaps.log_likelihood, exact, rtol=0, atol=1e-6)
    gaps = gap_decomposition(counts_model, counts_lognormal_guide, x, particles=5000)
    check_sum(gaps)
    assert gaps.converged.all()
    # Towards 0 a gamma density has the heavier tail: no log-normal has weights of finite variance.
    assert gaps.log_likelihood_standard_error.isinf().all()
    assert (gaps.log_likelihood - exact).abs().max() < 0.01
    # The best log-normal has a closed form: E log p is linear in E z and E log z.
    shape = 3 + x.sum(-1)
    variance = 1 / shape
    loc = (shape / 7).log() - variance / 2
    best = dist.LogNormal(loc, variance.sqrt())
    posterior_term = (
        shape * torch.log(torch.tensor(7.0)) - torch.lgamma(shape) + (shape - 1) * loc
    ) - 7 * best.mean
    divergence = -(loc + 0.5 * (1 + (2 * torch.pi * variance).log())) - posterior_term
    assert (divergence > 1e-3).all()
    error = gaps.best_elbo_standard_error
    assert within(gaps.best_elbo, exact - divergence, error, 1e-4)


def test_copies_of_a_guide_fit_sites_that_depend_on_each_other() -> None:
    """The posterior of a chain of normals is in the family of the guide, not of its sites."""
    x = torch.randn(6, 2, dtype=torch.float64)
    guide = TwoLevels()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    gaps = gap_decomposition(two_levels_model, guide, x, particles=500)
    check_sum(gaps)
    exact = two_levels_log_likelihood(x)
    assert gaps.converged.all()
    assert (gaps.approximation_gap.abs() < 1e-2).all()
    assert within(gaps.log_likelihood, exact, gaps.log_likelihood_standard_error, 1e-4)
    assert (gaps.amortization_gap > 0.05).all()
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_a_class_that_is_summed_out() -> None:
    x = torch.linspace(-3, 3, 8, dtype=torch.float64)
    gaps = gap_decomposition(two_clusters, two_clusters_normal, x, particles=5000)
    check_sum(gaps)
    exact = two_clusters_terms(x).logsumexp(-1)
    assert within(gaps.log_likelihood, exact, gaps.log_likelihood_standard_error)
    for gap in ("approximation_gap", "amortization_gap"):
        assert (getattr(gaps, gap) > -4 * getattr(gaps, f"{gap}_standard_error")).all()
    assert gaps.amortization_gap.mean() > 0.1


def test_where_k_hat_is_large_no_error_is_claimed() -> None:
    """A posterior correlated in six dimensions: the spread of the draws claims a few tenths."""
    model = ProbabilisticPCA(Spec((1, 4, 4), "real", 6)).double().requires_grad_(False)
    model.loadings.copy_(torch.randn(16, 1) + 0.3 * torch.randn(16, 6))
    model.log_scale.zero_()
    x = model(size=20)
    gaps = gap_decomposition(model, MeanField(model, 0.0), x, particles=500, steps=60)
    assert (doubtful := gaps.k_hat > 0.7).sum() > 10
    for error in (gaps.approximation_gap_standard_error, gaps.log_likelihood_standard_error):
        assert torch.equal(error.isinf(), doubtful)
    assert (gaps.log_likelihood - model.log_likelihood(x))[doubtful].abs().mean() > 1


class SharedScale(MeanField):
    """Free means, and standard deviations that are one parameter of the guide for all data."""

    def __init__(self, model) -> None:
        super().__init__(model, 0.0)
        self.log_scale = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

    def encode(self, x: Tensor) -> Tensor:
        return self.exact(x).mean

    def posterior_of(self, features: Tensor) -> dist.TorchDistribution:
        return dist.Normal(features, self.log_scale.exp()).to_event(1)


def test_what_all_data_share_belongs_to_the_family() -> None:
    """The best diagonal normal needs other scales than the shared ones."""
    model = ppca()
    x = model(size=5)
    guide = SharedScale(model)
    gaps = gap_decomposition(model, guide, x, particles=20_000)
    check_sum(gaps)
    exact = mean_field_gap(model, x)
    assert within(gaps.approximation_gap, exact, gaps.approximation_gap_standard_error, 3e-3)
    assert (gaps.amortization_gap > 1).all()
    assert (guide.log_scale == 1).all()


def test_an_untrained_flow_reaches_a_correlated_normal() -> None:
    """z_2 scaled and shifted by z_1 is a normal with any covariance: the family has the posterior.

    The features alone, with the maps' networks as they are, do not reach it.
    """
    model = ppca()
    x = model(size=4)
    guide = IAF(SPEC, network=Linear, hidden=(16,)).double()
    gaps = gap_decomposition(model, guide, x, particles=2000)
    with torch.no_grad():
        start = guide.encode(x)
    fixed = gap_decomposition(
        model, guide, x, particles=2000, family=guide.posterior_of, features=start
    )
    check_sum(gaps)
    assert (gaps.approximation_gap.abs() < 0.02).all()
    assert (fixed.approximation_gap > gaps.approximation_gap + 0.01).all()


def test_copies_of_wide_networks_climb() -> None:
    """Hundreds of weights that move one number together: no step may lose what was there."""
    spec = Spec((1, 4, 4), "binary", 3)
    model = Hierarchical(spec, top_dim=2)
    guide = BottomUp(spec, model=model)
    x = torch.rand(6, 1, 4, 4).bernoulli()
    gaps = gap_decomposition(model, guide, x, particles=1000, steps=400)
    check_sum(gaps)
    error = gaps.amortization_gap_standard_error
    assert (gaps.amortization_gap > -4 * error).all()
    assert gaps.amortization_gap.mean() > 0.1
    # log p(x) by brute force, from draws of the prior.
    with torch.no_grad():
        z2 = model.prior().sample((200_000,))
        z1 = model.lower_prior(z2).sample()
        terms = model.decode(z1[:, None]).log_prob(x)
    exact = terms.double().logsumexp(0) - log(200_000)
    assert within(gaps.log_likelihood, exact, gaps.log_likelihood_standard_error, 0.02)


def test_a_collapse_is_undone() -> None:
    """Steps that throw the fit far away, until its rate has fallen: the result is no worse."""
    model = ppca()
    x = model(size=6)
    guide = MeanField(model, 0.0)  # the best of its family
    gaps = gap_decomposition(model, guide, x, particles=500, steps=300, learning_rate=60.0)
    assert gaps.best_elbo.isfinite().all()
    assert (gaps.amortization_gap > -0.5).all()


def test_a_family_of_ones_own() -> None:
    model = ppca()
    x = model(size=5)
    start = torch.zeros(5, 4, dtype=torch.float64)
    gaps = gap_decomposition(
        model,
        Posterior(model, 1.5),
        x,
        particles=20_000,
        family=MeanField(model, 0.0).posterior_of,
        features=start,
    )
    exact = mean_field_gap(model, x)
    assert within(gaps.approximation_gap, exact, gaps.approximation_gap_standard_error, 3e-3)
    assert (gaps.amortization_gap < 0.2).all()


def test_a_log_likelihood_known_better_is_taken() -> None:
    model = ppca()
    x = model(size=5)
    exact = model.log_likelihood(x)
    guide = DiagonalNormal(SPEC, network=Linear).double()
    gaps = gap_decomposition(model, guide, x, particles=100, steps=50, log_likelihood=exact)
    assert torch.equal(gaps.log_likelihood, exact)
    check_sum(gaps)
    assert not gaps.converged.any()


def test_pieces_give_every_datum_its_gaps() -> None:
    model = ppca()
    x = model(size=7)
    done: list[int] = []
    gaps = gap_decomposition(
        model, MeanField(model, 0.2), x, particles=30, steps=50, memory_bytes=20_000,
        advance=done.append,
    )  # fmt: skip
    assert sum(done) == 7
    assert len(done) > 1
    assert gaps.elbo.shape == gaps.converged.shape == (7,)
    assert (gaps.elbo - model.log_likelihood(x)).abs().max() < 3


@pytest.mark.parametrize(
    "options",
    [
        {"particles": 24},
        {"steps": 0},
        {"fit_particles": 0},
        {"learning_rate": 0.0},
        {"family": lambda features: None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    model = ppca()
    with pytest.raises(ValueError, match="expected"):
        gap_decomposition(model, Posterior(model), model(size=2), **options)


def test_a_guide_without_a_family_is_refused() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            noise = torch.rand(len(x), dtype=torch.float64)
            pyro.sample("rate", dist.Gamma(x.sum(-1) + 1 + noise, 1.0))

    with refused("family="):
        gap_decomposition(counts_model, guide, torch.ones(3, 5, dtype=torch.float64))


def test_a_guide_copied_for_each_datum_scores_its_flow_with_the_parameters_of_the_copy():
    """A flow looks at its networks when a density is taken, after its program has run."""
    spec = Spec((1, 3, 2), "binary", 2)
    network = partial(MLP, hidden=(4,))
    model, guide = VAE(spec, network=network).double(), IAF(spec, network=network).double()
    x = torch.rand(3, 1, 3, 2, dtype=torch.float64).round()
    family = _by_copies(Joint.of(model, guide, x))
    moved = {name: v + 0.3 * torch.randn_like(v) for name, v in family.features.items()}
    latents, log_q = family.draw(moved, torch.arange(3), 5)
    for datum in range(3):
        guide.load_state_dict({name: v[datum] for name, v in moved.items()}, strict=False)
        expected = guide.posterior(x[datum : datum + 1]).log_prob(latents["z"][:, datum, None])
        torch.testing.assert_close(log_q[:, datum], expected[:, 0], rtol=1e-8, atol=1e-10)
