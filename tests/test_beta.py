"""A weight on the rate: by hand, over the epochs of a schedule, and with free bits."""

from functools import partial

import pytest
import torch
from comparing import loss_and_gradients, seeded
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from guides import IAF, ConditionalNormal, DiagonalNormal, FullRankNormal, Ladder
from models import MLP, VAE, Conditional, Flow, Hierarchical, MixtureOfNormals, Spec
from ppl_vae.densities.weights import log_terms
from ppl_vae.errors import InputError
from ppl_vae.objectives import ELBO, Beta
from ppl_vae.objectives.estimators import closed_form_kl, distortion_and_rates
from ppl_vae.pairs.checks import check_objective
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 3, 4), "binary", 3)


def build(guide=DiagonalNormal, prior=None) -> tuple[VAE, DiagonalNormal, Tensor]:
    network = partial(MLP, hidden=(6,))
    model = VAE(SPEC, prior=prior(SPEC) if prior else None, network=network).double()
    return model, guide(SPEC, network=network).double(), torch.rand(5, 1, 3, 4).round().double()


def rates_by_hand(guide: DiagonalNormal, x: Tensor) -> Tensor:
    """KL(q(z_d|x) || p(z_d)) averaged over the batch, (D,); Kingma and Welling, appendix B."""
    q = guide.posterior(x)
    return -0.5 * (1 + q.variance.log() - q.mean**2 - q.variance).mean(0)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("analytic_kl", [False, True])
def test_a_weight_of_one_is_the_elbo(particles, analytic_kl):
    model, guide, x = build()
    options = {"particles": particles, "analytic_kl": analytic_kl}
    (loss, *gradients), (elbo, *expected) = (
        loss_and_gradients(objective(**options).loss, (model, guide), model, guide, x)
        for objective in (Beta, ELBO)
    )
    torch.testing.assert_close(loss, elbo, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)


def test_the_weight_multiplies_the_rate_alone():
    model, guide, x = build()
    rate = rates_by_hand(guide, x).sum()
    free, weighted = (seeded(Beta(b, analytic_kl=True).loss, model, guide, x) for b in (0.0, 2.5))
    torch.testing.assert_close(weighted - free, 2.5 * rate)
    terms = seeded(log_terms, model, guide, x, 1)
    torch.testing.assert_close(free, -terms.log_likelihood.mean())
    expected = -terms.log_likelihood + 2.5 * (terms.log_guide - terms.log_prior)
    torch.testing.assert_close(seeded(Beta(2.5).loss, model, guide, x), expected.mean())


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        (Beta(4.0), {0: 4, 7.5: 4}),
        (Beta(warmup_epochs=10), {0: 0, 2.5: 0.25, 10: 1, 11: 1, 400: 1}),
        (Beta(2.0, 5, 10), {0: 0, 2.5: 1, 5: 2, 9.99: 2, 10: 0, 12.5: 1, 19: 2, 21: 0.4}),
    ],
    ids=str,
)
def test_the_schedule(objective, weights):
    for epoch, weight in weights.items():
        assert objective.schedule(epoch) == {"beta": pytest.approx(weight)}


def test_the_scheduled_weight_arrives_in_training():
    model, guide, x = build()
    objective = Beta(warmup_epochs=4)
    step = SVIStep(model, guide, objective)
    for epoch, weight in ((0.0, 0.0), (1.0, 0.25), (6.0, 1.0)):
        expected = seeded(objective.loss, model, guide, x, beta=weight)
        torch.testing.assert_close(seeded(step, (x,), 1e-2, epoch), expected.detach())


@pytest.mark.parametrize("analytic_kl", [False, True])
def test_free_bits_by_hand(analytic_kl):
    model, guide, x = build()
    with torch.no_grad():  # one dimension that is nearly free, two that are not
        guide.encoder.layers[-1].weight[0::3] *= 1e-3
        guide.encoder.layers[-1].bias[:] = torch.tensor([0.1, 1.2, -0.9, -0.1, 0.3, -0.8])
    terms = seeded(log_terms, model, guide, x, 1)
    z, q = terms.latents["z"][0], guide.posterior(x)
    drawn = Normal(q.mean, q.stddev).log_prob(z) - Normal(0, 1).log_prob(z)
    rates = rates_by_hand(guide, x) if analytic_kl else drawn.mean(0)
    threshold = rates.sort().values[:2].mean().item()  # one dimension below it, two above
    distortion = -terms.log_likelihood.mean()
    expected = distortion + 0.7 * sum(max(threshold, rate.item()) for rate in rates)
    objective = Beta(0.7, free_bits=threshold, analytic_kl=analytic_kl)
    loss = seeded(objective.loss, model, guide, x)
    torch.testing.assert_close(loss, expected)
    # What is free has no pull to the prior: the gradient there is the distortion's alone.
    bias = guide.encoder.layers[-1].bias
    found, of_distortion = (torch.autograd.grad(v, bias)[0][:3] for v in (loss, distortion))
    free = torch.isclose(found, of_distortion, atol=1e-12)
    assert torch.equal(free, torch.arange(3) == rates.argmin())


def test_where_dimensions_depend_on_each_other_a_site_is_one_group():
    model, guide, x = build(FullRankNormal)
    guide.encoder.layers[-1].bias.data[:3] = 1.0  # away from the prior
    terms = seeded(log_terms, model, guide, x, 1)
    rate = (terms.log_guide - terms.log_prior).mean()
    for threshold in (rate / 2, rate * 2):
        loss = seeded(Beta(free_bits=threshold.item()).loss, model, guide, x)
        expected = torch.maximum(rate, threshold) - terms.log_likelihood.mean()
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("guide", [DiagonalNormal, FullRankNormal])
def test_the_kl_of_normals_is_that_of_their_covariances_and_of_draws(guide):
    """KL(N(m, S) || N(0, I)) = (tr S + m m - D - log det S) / 2; and as an average over draws."""
    model, q, x = build(guide)
    posterior = q.posterior(x)
    full = guide is FullRankNormal
    covariance = posterior.covariance_matrix if full else posterior.variance.diag_embed()
    traces = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = (traces + posterior.mean.square().sum(-1) - 3 - covariance.logdet()).mean() / 2
    (distortion, rates), (again, drawn) = (
        seeded(distortion_and_rates, model, q, (x,), 20_000, analytic_kl)
        for analytic_kl in (True, False)
    )
    torch.testing.assert_close(rates["z"].sum(), expected)
    assert torch.equal(distortion, again)
    z = posterior.sample((20_000,))
    ratios = (posterior.log_prob(z) - model.prior().log_prob(z)).mean(1)
    allowed = 4 * ratios.std() / len(ratios) ** 0.5
    assert (ratios.mean() - expected).abs() < allowed
    assert (drawn["z"].sum() - expected).abs() < allowed
    for objective in (ELBO(20_000, analytic_kl=True), Beta(analytic_kl=True, particles=20_000)):
        torch.testing.assert_close(seeded(objective.loss, model, q, x), distortion + expected)


def test_the_kl_of_a_full_covariance_from_a_diagonal_one_is_torchs_of_two_full_ones():
    loc, scale = torch.randn(2, 5, 3).double(), torch.rand(5, 3).double() + 0.1
    triangle = torch.randn(5, 3, 3).double().tril(-1) + scale.diag_embed().flip(0)
    q = MultivariateNormal(loc[0], scale_tril=triangle)
    p = Independent(Normal(loc[1], scale), 1)
    other = MultivariateNormal(loc[1], (scale**2).diag_embed())
    torch.testing.assert_close(closed_form_kl("z", q, p), kl_divergence(q, other))
    torch.testing.assert_close(closed_form_kl("z", p, q), kl_divergence(other, q))


@pytest.mark.parametrize(
    ("analytic_kl", "stock"), [(False, Trace_ELBO), (True, TraceMeanField_ELBO)]
)
def test_masks_and_scales_count_as_in_pyros_estimators(analytic_kl, stock):
    def seen(program):
        mask = torch.tensor([True, False, True, True, False])

        def forward(*args, **kwargs):
            with poutine.scale(scale=0.7), poutine.mask(mask=mask):
                return type(program).forward(program, *args, **kwargs)

        return forward

    model, guide, x = build()
    for program in (model, guide):
        program.forward = seen(program)
    expected = seeded(stock(max_plate_nesting=1).differentiable_loss, model, guide, x) / len(x)
    distortion, rates = seeded(distortion_and_rates, model, guide, (x,), 1, analytic_kl)
    torch.testing.assert_close(distortion + rates["z"].sum(), expected)


def test_free_bits_of_images_with_their_classes():
    spec = Spec((1, 3, 4), "binary", 3, classes=2)
    model, guide = Conditional(spec).double(), ConditionalNormal(spec).double()
    x, y = torch.rand(5, 1, 3, 4).round().double(), torch.tensor([0, 1, 1, 0, 1])
    both = [
        seeded(objective.loss, model, guide, x, labels=y)
        for objective in (ELBO(analytic_kl=True), Beta(free_bits=1e-9, analytic_kl=True))
    ]
    torch.testing.assert_close(*both)
    assert seeded(Beta(free_bits=50.0).loss, model, guide, x, labels=y) > 150


@pytest.mark.parametrize(
    ("guide", "prior"),
    [(DiagonalNormal, MixtureOfNormals), (DiagonalNormal, Flow), (IAF, Flow), (IAF, None)],
)
def test_a_closed_form_that_does_not_exist_is_refused(guide, prior):
    model, q, x = build(guide, prior)
    assert torch.isfinite(Beta(free_bits=0.5).loss(model, q, x))
    said = r"KL.* at site 'z' has no closed form; leave analytic_kl out"
    for objective in (ELBO(analytic_kl=True), Beta(analytic_kl=True)):
        with pytest.raises(InputError, match=said):
            check_objective(objective, model, q, x)


def test_sites_are_balanced_until_the_weight_is_warm():
    """By hand, from the rates of the sites: weights with a mean of one, held constant."""
    spec = Spec((1, 3, 4), "binary", 3)
    model = Hierarchical(spec, network=partial(MLP, hidden=(6,)), top_dim=2, hidden=(5,)).double()
    guide = Ladder(spec, model, network=partial(MLP, hidden=(6,))).double()
    x = torch.rand(5, 1, 3, 4).round().double()
    objective = Beta(beta=0.8, warmup_epochs=4, balance=True)

    def by_hand(model, guide, x, beta):
        distortion, rates = distortion_and_rates(model, guide, (x,), 1, analytic_kl=False)
        z2, z1 = rates["z2"].sum(), rates["z1"].sum()
        by_dimension = [(abs(z2.item()) + 0.01) / 2, (abs(z1.item()) + 0.01) / 3]
        g2, g1 = (2 * share / sum(by_dimension) for share in by_dimension)
        return distortion + beta * (g2 * z2 + g1 * z1)

    for beta, expected in ((0.2, by_hand), (0.8, Beta().loss)):
        results = [
            loss_and_gradients(loss, (model, guide), model, guide, x, beta=torch.tensor(beta))
            for loss in (objective.loss, expected)
        ]
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)
    plain = [seeded(one.loss, model, guide, x) for one in (objective, Beta(0.8))]
    torch.testing.assert_close(*plain)
    with pytest.raises(ValueError, match="expected warmup_epochs above 0 with balance"):
        Beta(balance=True)
