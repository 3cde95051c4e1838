"""The flows of guide and prior, against autograd's Jacobian, quadrature and their own draws."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch.autograd.functional import jacobian

from guides import IAF, DiagonalNormal
from models import VAE, Flow, Linear, ProbabilisticPCA, Spec
from ppl_vae.densities.weights import log_terms, log_weights
from ppl_vae.objectives import ELBO

DRAWS = 20_000
IMAGE = (1, 3, 2)


def _iaf(size: int = 4, **options) -> IAF:
    guide = IAF(Spec(IMAGE, "real", size), network=Linear, hidden=(16, 12), context=3, **options)
    for parameter in guide.networks.parameters():
        parameter.data *= 2  # away from the identity
    return guide.double()


def _flow(size: int, **options) -> Flow:
    prior = Flow(Spec(IMAGE, "real", size), hidden=(16,), **options)
    for parameter in prior.parameters():
        parameter.data *= 2
    return prior.double()


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, *IMAGE, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("flows", [1, 2, 3])
def test_the_density_of_iaf_is_that_of_its_noise_over_autograds_jacobian(size, flows):
    guide = _iaf(size, flows=flows)
    posterior = guide.posterior(_images(1))
    start = posterior.base_dist

    def carried(z0: torch.Tensor) -> torch.Tensor:
        for transform in posterior.transforms:
            z0 = transform(z0)
        return z0

    z0 = start.sample()
    z = carried(z0)
    slopes = jacobian(lambda z0: carried(z0[None])[0], z0[0])
    by_hand = (
        scipy.stats.norm.logpdf(
            z0.numpy(), start.mean.detach(), start.variance.sqrt().detach()
        ).sum()
        - np.linalg.slogdet(slopes.numpy())[1]
    )
    drawn_here = posterior.log_prob(z).item()  # from the cache
    from_elsewhere = posterior.log_prob(z.detach().clone()).item()  # by inversion
    assert drawn_here == pytest.approx(by_hand, abs=1e-10)
    assert from_elsewhere == pytest.approx(by_hand, abs=1e-10)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("flows", [1, 2, 3])
def test_the_density_of_the_flow_prior_is_that_of_its_noise_over_autograds_jacobian(size, flows):
    prior = _flow(size, flows=flows)
    z = prior().sample()

    def noise(z: torch.Tensor) -> torch.Tensor:
        for transform in reversed(prior().transforms):
            z = transform.inv(z)
        return z

    slopes = jacobian(noise, z)
    by_hand = scipy.stats.norm.logpdf(noise(z).detach()).sum() + np.linalg.slogdet(slopes)[1]
    assert prior().log_prob(z).item() == pytest.approx(by_hand, abs=1e-10)


@pytest.mark.parametrize("flows", [1, 2])
def test_each_map_is_triangular_in_its_own_order(flows):
    posterior = _iaf(4, flows=flows).posterior(_images(1))
    for transform in posterior.transforms:
        slopes = jacobian(
            lambda z, transform=transform: transform(z[None])[0], torch.randn(4).double()
        )
        ordered = slopes[transform.order][:, transform.order]
        assert torch.equal(ordered.triu(1), torch.zeros_like(ordered))
        assert (ordered.tril(-1).abs() > 0).any()
    if flows == 2:
        assert posterior.transforms[1].order == posterior.transforms[0].order[::-1]


def _grid(low: float, high: float, points: int) -> tuple[torch.Tensor, float]:
    axis = torch.linspace(low, high, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def test_both_flows_integrate_to_one_and_their_draws_follow_them():
    for density in (_flow(2, flows=3)(), _iaf(2).posterior(_images(1)).expand((1,))):
        with torch.no_grad():
            draws = density.sample((DRAWS,)).reshape(-1, 2)
            wide = 1.5 * draws.abs().max().item() + 1
            z, cell = _grid(-wide, wide, 600)
            mass = density.log_prob(z[:, None] if density.batch_shape else z).exp().flatten() * cell
        assert mass.sum().item() == pytest.approx(1, abs=2e-3)
        # How many draws lie in each of four quadrants around the medians.
        middle = draws.median(0).values
        sides = [(2 * (points > middle).long()[:, 0] + (points > middle).long()[:, 1])
                 for points in (draws, z)]  # fmt: skip
        got = torch.bincount(sides[0], minlength=4).double() / DRAWS
        expected = torch.zeros(4, dtype=torch.float64).index_add(0, sides[1], mass)
        error = (expected * (1 - expected) / DRAWS).sqrt()
        assert ((got - expected).abs() < 4 * error + 5e-3).all()  # 5e-3: cells across an axis
        # and the entropy, which a wrong density would not get right
        entropy = -density.log_prob(draws[:, None] if density.batch_shape else draws).flatten()
        by_quadrature = -(mass * (mass / cell).clamp(min=1e-300).log()).sum()
        spread = entropy.std().item() / DRAWS**0.5
        assert entropy.mean().item() == pytest.approx(by_quadrature.item(), abs=4 * spread + 5e-3)


def test_with_open_gates_iaf_is_a_diagonal_normal():
    spec = Spec(IMAGE, "real", 3)
    guide = IAF(spec, network=Linear, hidden=(5,), context=2).double()
    for network in guide.networks:
        network.layers[-1].weight.data.zero_()
        network.layers[-1].bias.data = torch.tensor([0.0] * 3 + [60.0] * 3).double()  # m, then s
    normal = DiagonalNormal(spec, network=Linear).double()
    with torch.no_grad():
        for own, other in zip(normal.encoder.parameters(), guide.encoder.parameters(), strict=True):
            own.copy_(other[:6])
    x = _images(4)
    z = torch.randn(7, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(
        guide.posterior(x).log_prob(z), normal.posterior(x).log_prob(z), rtol=0, atol=1e-10
    )
    draws = []
    for each in (guide, normal):
        torch.manual_seed(3)
        draws.append(each(x))
    torch.testing.assert_close(*draws, rtol=0, atol=1e-12)


def test_iaf_takes_features_and_particles_of_any_batch_shape():
    guide = _iaf(3)
    features = guide.encode(_images(4))
    assert features.shape == (4, 2 * 3 + 3)
    z = guide.posterior_of(features).rsample((5,))
    assert z.shape == (5, 4, 3)
    stacked = guide.posterior_of(features.expand(5, 4, -1))
    assert (stacked.batch_shape, stacked.event_shape) == ((5, 4), (3,))
    torch.testing.assert_close(stacked.log_prob(z), guide.posterior_of(features).log_prob(z))
    for k in range(5):
        alone = guide.posterior_of(features[2]).log_prob(z[k, 2])
        torch.testing.assert_close(stacked.log_prob(z)[k, 2], alone, rtol=0, atol=1e-10)


def test_weights_from_the_cache_are_those_by_inversion():
    guide = _iaf(3)
    model = VAE(Spec(IMAGE, "real", 3), network=Linear).double()
    x = _images(4)
    terms = log_terms(model, guide, x, 6)
    again = guide.posterior(x).log_prob(terms.latents["z"].detach().clone())
    torch.testing.assert_close(terms.log_guide, again, rtol=0, atol=1e-9)
    # Gradients through z_k alone, as stl takes them, go through the inversion.
    stopped = log_terms(model, guide, x, 6, stop_guide=True)
    stopped.log_weights.mean().backward()
    assert all(p.grad.isfinite().all() for p in guide.parameters())


def test_weights_of_a_trained_iaf_average_to_the_known_likelihood():
    spec = Spec(IMAGE, "real", 2)
    model = ProbabilisticPCA(spec, initial_scale=0.7).double().requires_grad_(False)
    x = model(size=16)
    guide = IAF(spec, network=Linear, hidden=(16,), context=4).double()
    optimizer = torch.optim.Adam(guide.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        ELBO(particles=4).loss(model, guide, x).backward()
        optimizer.step()
    with torch.no_grad():
        ratios = (log_weights(model, guide, x, DRAWS) - model.log_likelihood(x)).exp()
    # E_q[w] = p(x) for any guide. That the spread tells the error of the average, each image needs
    # many draws that count; and the largest of 16 errors is larger than one.
    assert (ratios.sum(0).square() / ratios.square().sum(0)).min() > DRAWS / 5
    errors = (ratios.mean(0) - 1) / (ratios.std(0) / DRAWS**0.5)
    assert errors.abs().max().item() < scipy.stats.norm.isf(1e-5 / 16)
    # and the bound is below it by no more than a normal of full rank could leave here
    assert 0 < -ratios.log().mean().item() < 0.05


def test_a_flow_prior_learns_a_density_that_no_normal_is():
    # z_0 ~ N(0, 1), z_1 ~ N(z_0^2, 0.3^2): a banana, whose entropy is that of its two normals.
    first = torch.randn(2000, dtype=torch.float64)
    target = torch.stack([first, first**2 + 0.3 * torch.randn(2000).double()], dim=-1)
    prior = Flow(Spec(IMAGE, "real", 2), flows=1, hidden=(32,)).double()
    optimizer = torch.optim.Adam(prior.parameters(), lr=2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = -prior().log_prob(target).mean()
        loss.backward()
        optimizer.step()
    entropy = scipy.stats.norm.entropy() + scipy.stats.norm.entropy(scale=0.3)
    normal = scipy.stats.multivariate_normal(target.mean(0), np.cov(target.mT))
    assert loss.item() == pytest.approx(entropy, abs=0.1)
    assert -normal.logpdf(target).mean() > entropy + 0.5
