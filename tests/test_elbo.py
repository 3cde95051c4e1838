"""The plain VAE, derived by hand in PyTorch, against the Pyro pair."""

from collections.abc import Callable
from math import sqrt

import pyro
import pytest
import scipy.stats
import torch
from comparing import seeded
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from guides import DiagonalNormal
from models import MLP, VAE, Bernoulli, Gaussian, Likelihood, Spec

Parameters = dict[str, Tensor]
LATENT_DIM = 3


def network(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> MLP:
    return MLP(inputs, outputs, hidden=(5,))


def build(likelihood: type[Likelihood]) -> tuple[VAE, DiagonalNormal, Tensor]:
    """A small VAE of Kingma and Welling (2014), appendix C, and four images for it."""
    spec = Spec((1, 2, 3), likelihood.domain, LATENT_DIM)
    x = torch.rand(4, 1, 2, 3, dtype=torch.float64)
    if likelihood is Bernoulli:
        x = x.bernoulli()
    model = VAE(spec, likelihood=likelihood(spec), network=network).double()
    return model, DiagonalNormal(spec, network=network).double(), x


def copies(model: VAE, guide: DiagonalNormal) -> Parameters:
    """Leaves with the same values, in no module."""
    named = [*model.named_parameters(), *guide.named_parameters()]
    return {name: value.detach().clone().requires_grad_() for name, value in named}


def noise(x: Tensor) -> Tensor:
    return torch.randn(len(x), LATENT_DIM, dtype=torch.float64)


def elbo(p: Parameters, x: Tensor, eps: Tensor, closed_form: bool) -> Tensor:
    """The bound of Kingma and Welling (2014) summed over images, without Pyro.

    Equation (7), or (10) with the divergence's closed form of appendix B.
    """
    x = x.flatten(1)
    # The encoder, appendix C.2, with h a tanh layer.
    h = torch.tanh(x @ p["encoder.layers.0.weight"].T + p["encoder.layers.0.bias"])
    statistics = h @ p["encoder.layers.2.weight"].T + p["encoder.layers.2.bias"]
    mu, log_variance = statistics[:, :LATENT_DIM], statistics[:, LATENT_DIM:]
    sigma = torch.exp(log_variance / 2)
    z = mu + sigma * eps
    # The decoder, appendices C.1 and C.2.
    h = torch.tanh(z @ p["decoder.layers.0.weight"].T + p["decoder.layers.0.bias"])
    features = h @ p["decoder.layers.2.weight"].T + p["decoder.layers.2.bias"]
    two_pi = torch.tensor(2 * torch.pi, dtype=torch.float64)
    if "likelihood.log_scale" in p:
        scale = 1e-3 + torch.exp(p["likelihood.log_scale"].flatten())
        log_likelihood = -0.5 * (torch.log(two_pi * scale**2) + ((x - features) / scale) ** 2)
    else:
        y = 1 / (1 + torch.exp(-features))
        log_likelihood = x * torch.log(y) + (1 - x) * torch.log(1 - y)
    if closed_form:
        minus_divergence = 0.5 * (1 + torch.log(sigma**2) - mu**2 - sigma**2)
    else:
        log_prior = -0.5 * (torch.log(two_pi) + z**2)
        log_posterior = -0.5 * (torch.log(two_pi) + log_variance + ((z - mu) / sigma) ** 2)
        minus_divergence = log_prior - log_posterior
    return log_likelihood.sum() + minus_divergence.sum()


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceMeanField_ELBO])
def test_value_and_gradients_equal_the_derivation(
    likelihood: type[Likelihood], estimator: type
) -> None:
    model, guide, x = build(likelihood)
    loss = seeded(estimator()(model, guide), x)
    loss.backward()
    parameters = copies(model, guide)
    torch.manual_seed(1)
    by_hand = -elbo(parameters, x, noise(x), closed_form=estimator is TraceMeanField_ELBO)
    by_hand.backward()
    torch.testing.assert_close(loss, by_hand, rtol=1e-10, atol=1e-10)
    found = dict([*model.named_parameters(), *guide.named_parameters()])
    gradients, expected = ({n: p.grad for n, p in each.items()} for each in (found, parameters))
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)


def mean_and_error(gradient: Callable[[], Parameters], repeats: int) -> tuple[Tensor, Tensor]:
    """The average of all gradients as one vector, and its standard errors."""
    draws = torch.stack(
        [torch.cat([g.flatten() for g in gradient().values()]) for _ in range(repeats)]
    )
    return draws.mean(0), draws.std(0) / sqrt(repeats)


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian])
@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceMeanField_ELBO])
def test_expected_gradients_of_stock_svi(likelihood: type[Likelihood], estimator: type) -> None:
    """Steps of `pyro.infer.SVI` follow, on average, the gradient of the derivation."""
    torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
    model, guide, x = build(likelihood)
    start = copies(model, guide)
    particles = 20
    loss = estimator(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    # A step of plain gradient descent at rate 1 is minus the gradient.
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 1.0}), loss)
    modules = dict([*model.named_parameters(), *guide.named_parameters()])

    def pyro_gradient() -> Parameters:
        svi.step(x)
        with torch.no_grad():
            step = {name: start[name] - modules[name] for name in start}
            for name in start:
                modules[name].copy_(start[name])
        return step

    def gradient_by_hand() -> Parameters:
        many = x.repeat(particles, 1, 1, 1)
        loss = -elbo(start, many, noise(many), closed_form=True) / particles
        return dict(zip(start, torch.autograd.grad(loss, list(start.values())), strict=True))

    stepped, stepped_error = mean_and_error(pyro_gradient, 300)
    by_hand, by_hand_error = mean_and_error(gradient_by_hand, 300)
    # Sharp enough to see a wrong term: the error is a small part of the gradient.
    assert stepped_error.norm() < 0.05 * by_hand.norm()
    # One element in a thousand such tests would be out by chance (Bonferroni over elements). Where
    # no noise enters an element both errors are 0 and float64 is all that is left.
    standard_errors = scipy.stats.norm.isf(1e-3 / (2 * len(stepped)))
    allowed = standard_errors * (stepped_error**2 + by_hand_error**2).sqrt() + 1e-10
    assert ((stepped - by_hand).abs() < allowed).all()
