"""Probabilistic PCA, where log p(x), p(z|x) and the best parameters are known exactly."""

from math import log, pi, sqrt

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from oracles import Posterior
from pyro.infer import SVI, Trace_ELBO
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor

from guides import DiagonalNormal
from models import DOMAINS, Linear, ProbabilisticPCA, Spec
from ppl_vae.densities.weights import log_weights

SPEC = Spec((2, 2, 3), "real", 3)


@pytest.fixture
def model() -> ProbabilisticPCA:
    """Not at its maximum likelihood, and with correlated loadings."""
    model = ProbabilisticPCA(SPEC, initial_scale=0.7).double()
    model.mean.data = torch.randn_like(model.mean)
    return model.requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, *SPEC.image_shape, dtype=torch.float64)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """scikit-learn's scans, integers 0 to 16, dequantised with one fixed draw of the noise."""
    noise = torch.Generator().manual_seed(0)
    grey = torch.tensor(load_digits().data)
    return ((grey + torch.rand(grey.shape, generator=noise)) / 17).reshape(-1, 1, 8, 8)


def numbers(model: ProbabilisticPCA) -> tuple[np.ndarray, np.ndarray, float]:
    """W, mu and sigma^2."""
    variance = float(np.exp(2 * model.log_scale.item()))
    return model.loadings.detach().numpy(), model.mean.detach().numpy(), variance


def closed_form_elbo(model: ProbabilisticPCA, loc: np.ndarray, var: np.ndarray, x: Tensor):
    """E_q[log p(x|z)] - KL(q || p(z)) for q = N(loc, diag var); AEVB, appendix B, and algebra."""
    w, mean, s2 = numbers(model)
    error = x.flatten(1).numpy() - mean - loc @ w.T
    spread = var @ (w**2).sum(0)
    expected = -0.5 * (len(mean) * log(2 * pi * s2) + ((error**2).sum(-1) + spread) / s2)
    return expected + 0.5 * (1 + np.log(var) - loc**2 - var).sum(-1)


def closed_form_kl(loc, var, posterior_loc, posterior_covariance) -> np.ndarray:
    """KL(N(loc, diag var) || N(posterior)), (B,), for a covariance that all data share."""
    precision = np.linalg.inv(posterior_covariance)
    gap = posterior_loc - loc
    trace = var @ np.diag(precision)
    mahalanobis = np.einsum("bi,ij,bj->b", gap, precision, gap)
    log_ratio = np.linalg.slogdet(posterior_covariance)[1] - np.log(var).sum(-1)
    return 0.5 * (trace + mahalanobis - loc.shape[-1] + log_ratio)


def conditioned(model: ProbabilisticPCA, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z given x, by conditioning the joint normal of (z, x)."""
    w, mean, s2 = numbers(model)
    covariance = w @ w.T + s2 * np.eye(len(w))
    gain = np.linalg.solve(covariance, w).T  # Cov(z, x) Cov(x)^-1
    return (x.flatten(1).numpy() - mean) @ gain.T, np.eye(w.shape[1]) - gain @ w


def test_log_likelihood_matches_scipy(model: ProbabilisticPCA, x: Tensor) -> None:
    w, mean, s2 = numbers(model)
    marginal = scipy.stats.multivariate_normal(mean, w @ w.T + s2 * np.eye(len(w)))
    np.testing.assert_allclose(
        model.log_likelihood(x), marginal.logpdf(x.flatten(1).numpy()), rtol=1e-12
    )


def test_posterior_matches_conditioning_of_the_joint(model: ProbabilisticPCA, x: Tensor) -> None:
    loc, covariance = conditioned(model, x)
    posterior = model.posterior(x)
    assert (posterior.batch_shape, posterior.event_shape) == ((6,), (3,))
    np.testing.assert_allclose(posterior.mean, loc, atol=1e-12)
    np.testing.assert_allclose(
        posterior.covariance_matrix, np.broadcast_to(covariance, (6, 3, 3)), atol=1e-12
    )


def test_draws_follow_the_marginal(model: ProbabilisticPCA) -> None:
    w, mean, s2 = numbers(model)
    covariance = w @ w.T + s2 * np.eye(len(w))
    draws = 20_000
    drawn = model(size=draws)
    assert drawn.shape == (draws, *SPEC.image_shape)
    flat = drawn.flatten(1).numpy()
    variances = np.diag(covariance)
    assert (np.abs(flat.mean(0) - mean) < 4 * np.sqrt(variances / draws)).all()
    # Var(s_ij) = (c_ii c_jj + c_ij^2) / (n - 1), the variance of a Wishart matrix's elements.
    standard_error = np.sqrt((np.outer(variances, variances) + covariance**2) / (draws - 1))
    assert (np.abs(np.cov(flat.T) - covariance) < 4 * standard_error).all()


def test_maximum_likelihood_matches_scikit_learn(digits: Tensor) -> None:
    model = ProbabilisticPCA(Spec((1, 8, 8), "real", 5)).double()
    model.maximize_likelihood(digits)
    flat = digits.flatten(1).numpy()
    pca = PCA(n_components=5).fit(flat)
    # scikit-learn divides the scatter matrix by N - 1, the maximum of the likelihood by N.
    shrink = (len(flat) - 1) / len(flat)
    pca.explained_variance_ *= shrink
    pca.noise_variance_ *= shrink
    w, mean, s2 = numbers(model)
    assert s2 == pytest.approx(pca.noise_variance_, rel=1e-10)
    np.testing.assert_allclose(mean, pca.mean_, rtol=1e-12)
    np.testing.assert_allclose((w**2).sum(0), pca.explained_variance_ - s2, rtol=1e-10)
    np.testing.assert_allclose(w @ w.T + s2 * np.eye(64), pca.get_covariance(), atol=1e-10)
    assert model.log_likelihood(digits).mean().item() == pytest.approx(pca.score(flat), abs=1e-8)


def test_maximum_likelihood_is_where_the_gradient_vanishes(digits: Tensor) -> None:
    model = ProbabilisticPCA(Spec((1, 8, 8), "real", 5)).double()
    model.log_likelihood(digits).mean().backward()
    assert all(p.grad.abs().max() > 1 for p in model.parameters())
    model.maximize_likelihood(digits)
    model.zero_grad()
    model.log_likelihood(digits).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() < 1e-8, name


def test_maximum_likelihood_of_data_without_noise_is_refused() -> None:
    model = ProbabilisticPCA(SPEC)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flat = torch.randn(50, 3) @ torch.randn(3, 12)  # of rank D: sigma could shrink for ever
    with pytest.raises(ValueError, match="expected data that vary in more than 3 directions"):
        model.maximize_likelihood(flat.reshape(50, 2, 2, 3))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_pyros_elbo_at_the_exact_posterior_is_log_p(model: ProbabilisticPCA, x: Tensor) -> None:
    loss = Trace_ELBO().loss(model, Posterior(model), x)
    assert loss == pytest.approx(-model.log_likelihood(x).sum().item(), abs=1e-8)


def test_log_p_is_elbo_plus_divergence_from_the_posterior(model, x) -> None:
    guide = DiagonalNormal(SPEC, network=Linear).double().requires_grad_(False)
    posterior = guide.posterior(x)
    loc, var = posterior.mean.numpy(), posterior.variance.numpy()
    elbo = closed_form_elbo(model, loc, var, x)
    divergence = closed_form_kl(loc, var, *conditioned(model, x))
    log_p = model.log_likelihood(x).numpy()
    np.testing.assert_allclose(elbo + divergence, log_p, rtol=1e-12)
    # Each datum's bound is below its log p(x), by much more than the estimate's error.
    weights = log_weights(model, guide, x, 20_000).numpy()
    estimate = weights.mean(0)
    standard_error = weights.std(0, ddof=1) / sqrt(len(weights))
    assert (np.abs(estimate - elbo) < 4 * standard_error).all()
    assert (estimate + 4 * standard_error < log_p).all()


@pytest.mark.parametrize("engine", ["pyro.infer.SVI", "torch.optim"])
def test_svi_reaches_the_optimum_of_scikit_learn(engine: str, digits: Tensor) -> None:
    torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
    spec = Spec((1, 8, 8), "real", 5)
    # The scale of the grey levels is 0.3. Any rotation of the loadings is as likely, and the one
    # whose posterior is diagonal is the one that a diagonal guide finds.
    model = ProbabilisticPCA(spec, initial_scale=0.3).double()
    guide = DiagonalNormal(spec, network=Linear).double()
    steps, batch = 1500, 300
    adam = {"lr": 0.05, "betas": (0.9, 0.99)}
    batches = (digits[torch.randint(len(digits), (batch,))] for _ in range(steps))
    if engine == "pyro.infer.SVI":
        decayed = {"optimizer": torch.optim.Adam, "optim_args": adam, "T_max": steps}
        scheduler = pyro.optim.CosineAnnealingLR(decayed)
        svi = SVI(model, guide, scheduler, Trace_ELBO())
        for images in batches:
            svi.step(images)
            scheduler.step()
    else:
        loss = Trace_ELBO()(model, guide)
        optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], **adam)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for images in batches:
            optimizer.zero_grad()
            (loss(images) / batch).backward()
            optimizer.step()
            schedule.step()

    flat = digits.flatten(1).numpy()
    optimum = PCA(n_components=5).fit(flat).score(flat)
    with torch.no_grad():
        log_p = model.log_likelihood(digits).mean().item()
        posterior = guide.posterior(digits)
        elbo = closed_form_elbo(model, posterior.mean.numpy(), posterior.variance.numpy(), digits)
    assert optimum - 0.05 < log_p < optimum + 1e-3  # the N - 1 of scikit-learn costs it O(1 / N)
    # What is left of the guide's gap: its share of the noise of the last, small steps.
    assert 0 < log_p - elbo.mean() < 0.06


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        *(
            (Spec((1, 2, 2), domain, 2), {}, f"needs real data; got {domain} data")
            for domain in DOMAINS
            if domain != "real"
        ),
        (Spec((1, 2, 2), "real", 4), {}, r"expected latent_dim < 4, .* pixels; got 4"),
        (SPEC, {"initial_scale": 0.0}, r"expected initial_scale > 0; got 0.0"),
        (SPEC, {"initial_scale": float("nan")}, "expected initial_scale > 0, a finite number; got"),
    ],
)
def test_bad_options_are_refused(spec: Spec, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbabilisticPCA(spec, **options)
