"""p(z|y) of corrupted images against closed forms: on probabilistic PCA all of it is normal."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from oracles import Posterior, ppca
from torch import Tensor

from guides import DiagonalNormal, SemiSupervisedNormal
from models import Mixture, ProbabilisticPCA, SemiSupervised, Spec
from models.corruptions import Corruption, GaussianNoise, Masked, SaltAndPepper
from ppl_vae.inference.corrupted import restored_images
from ppl_vae.inference.noise_level import infer_unknown
from ppl_vae.inference.restoration import Method, corrupted_joint, refined, restore_latents

IMAGES = 4
DRAWS = 400


@dataclass
class Exact:
    """What is known of p(z|y) and p(x|y) where y = A x + e, e normal."""

    loc: np.ndarray
    covariance: np.ndarray
    log_likelihood: np.ndarray
    image: np.ndarray
    variance: np.ndarray


def exact(model: ProbabilisticPCA, corruption: Corruption, y: Tensor) -> Exact:
    """Conditions the joint normal of (z, x, y), image by image."""
    w, mean = model.loadings.numpy(), model.mean.numpy()
    pixels, latents = w.shape
    prior = np.block([[np.eye(latents), w.T], [w, w @ w.T]])
    prior[latents:, latents:] += float((2 * model.log_scale).exp()) * np.eye(pixels)
    centre = np.concatenate([np.zeros(latents), mean])
    parts: list[list[np.ndarray]] = []
    for image in y.flatten(1).numpy():
        seen = np.eye(pixels)[~np.isnan(image)]
        noise = np.zeros(len(seen))
        if isinstance(corruption, GaussianNoise):
            noise += corruption.value("scale") ** 2
        across = np.hstack([np.zeros((len(seen), latents)), seen])
        whole = across @ prior @ across.T + np.diag(noise)
        value, expected = image[~np.isnan(image)], across @ centre
        gain = prior @ across.T @ np.linalg.inv(whole)
        after = centre + gain @ (value - expected)
        left = prior - gain @ across @ prior
        parts.append(
            [
                after[:latents],
                left[:latents, :latents],
                np.asarray(scipy.stats.multivariate_normal(expected, whole).logpdf(value)),
                after[latents:],
                np.diag(left)[latents:],
            ]
        )
    return Exact(*(np.stack(column) for column in zip(*parts, strict=True)))


def corrupted(model: ProbabilisticPCA, corruption: Corruption) -> Tensor:
    x = model(size=IMAGES).detach()
    return corruption.observe(corruption.corrupt(x, torch.Generator().manual_seed(1)))


NOISE, FRACTION, HALF = GaussianNoise(0.6), Masked(fraction=0.5), Masked(half="lower")


@pytest.mark.parametrize(
    ("corruption", "method"),
    [
        (NOISE, "importance"),
        (FRACTION, "importance"),
        (HALF, "importance"),
        (NOISE, "nuts"),
        (HALF, "annealing"),
    ],
)
def test_the_posterior_is_the_closed_form(corruption: Corruption, method: Method) -> None:
    model = ppca()
    y = corrupted(model, corruption)
    known = exact(model, corruption, y)
    joint = refined(corrupted_joint(model, Posterior(model), corruption, y))
    found = restore_latents(joint, draws=DRAWS, method=method)
    assert found.method == [method] * IMAGES
    z = found.latents["z"].numpy()
    ess = np.minimum(found.ess.numpy(), DRAWS)[:, None]
    deviation = np.sqrt(np.diagonal(known.covariance, axis1=1, axis2=2))
    # 8 means, and as many variances, at 4 standard errors of the effective draws.
    assert (np.abs(z.mean(0) - known.loc) < 4 * deviation / np.sqrt(ess)).all()
    ratio = z.var(0, ddof=1) / deviation**2
    assert (np.abs(ratio - 1) < 4 * np.sqrt(2 / ess)).all()
    error = found.standard_error.numpy() + 1e-4
    assert (np.abs(found.log_likelihood.numpy() - known.log_likelihood) < 4 * error).all()
    assert (found.k_hat < 0.7).all()

    mean, variance, draw = (
        part.flatten(2).numpy() for part in restored_images(joint, found.latents)
    )
    total = np.sqrt(np.maximum(known.variance, 0))
    explained = np.sqrt(np.maximum(known.variance - variance[0], 0))  # by z
    assert (np.abs(mean.mean(0) - known.image) < 4 * explained / np.sqrt(ess) + 1e-9).all()
    np.testing.assert_allclose(
        variance.mean(0) + mean.var(0, ddof=1),
        known.variance,
        rtol=4 * sqrt(2 / ess.min()),
        atol=1e-12,
    )
    assert (np.abs(draw.mean(0) - known.image) < 4.5 * total / np.sqrt(ess) + 1e-9).all()
    seen = y.flatten(1).isfinite().numpy()
    if isinstance(corruption, Masked):
        np.testing.assert_array_equal(draw[:, seen], np.broadcast_to(y.flatten(1)[seen],
                                      draw[:, seen].shape))  # fmt: skip


@pytest.mark.parametrize("corruption", [GaussianNoise(), SaltAndPepper()])
def test_an_unknown_parameter_is_found_within_its_standard_error(corruption: Corruption) -> None:
    model = ppca()
    (name,) = corruption.unknown
    known = replace(corruption, **{name: 0.4})
    x = model(size=60).detach()
    y = known.corrupt(x, torch.Generator().manual_seed(1))
    found, error = infer_unknown(model, Posterior(model), corruption, y)
    value = getattr(found, name)
    assert abs(value - 0.4) < 3 * error
    assert error < 0.1
    if isinstance(corruption, GaussianNoise):
        # log p(y|scale) is known: its maximum, and the curvature there.
        def log_likelihood(scale: float) -> float:
            return float(exact(model, GaussianNoise(scale), y).log_likelihood.sum())

        best = scipy.optimize.minimize_scalar(
            lambda scale: -log_likelihood(scale), bounds=(0.05, 2)
        ).x
        assert value == pytest.approx(best, abs=0.2 * error)
        step = 0.02 * best
        curvature = (
            2 * log_likelihood(best) - log_likelihood(best - step) - log_likelihood(best + step)
        ) / step**2
        assert error == pytest.approx(1 / sqrt(curvature), rel=0.1)


def test_classes_and_clusters_are_summed_out() -> None:
    spec = Spec((1, 3, 4), "binary", 2, classes=3)
    corruption = SaltAndPepper(0.3)
    for model, guide in (
        (Mixture(spec, components=3), DiagonalNormal(spec)),
        (SemiSupervised(spec), SemiSupervisedNormal(spec)),
    ):
        labels = torch.full((3,), -1) if model.labelled else None
        x = (torch.rand(3, 1, 3, 4) < 0.5).float()
        y = corruption.corrupt(x, torch.Generator().manual_seed(1))
        joint = corrupted_joint(model, guide, corruption, y, labels)
        latents, _ = joint.draw(5)
        log_prior, log_likelihood = joint.log_terms(latents)
        z = latents["z"]
        if isinstance(model, Mixture):
            weights = model.logits.log_softmax(0)
            parts = [weights[k] + model.component(torch.tensor(k)).log_prob(z) for k in range(3)]
            given = by_hand(model, corruption, y, z)
            expected = torch.stack(parts).logsumexp(0), given
        else:
            terms = [by_hand(model, corruption, y, z, k) for k in range(3)]
            whole = torch.stack(terms).logsumexp(0) - np.log(3)
            expected = model.prior().log_prob(z), whole
        torch.testing.assert_close(log_prior, expected[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(log_likelihood, expected[1], rtol=1e-4, atol=1e-4)
        mean, variance, draw = restored_images(joint, latents)
        assert mean.shape == variance.shape == draw.shape == (5, 3, 1, 3, 4)


def by_hand(model, corruption, y, z, label=None) -> Tensor:
    """log p(y|z), or log p(y|z, label), by hand: (1 - r) P(y_i) + r / 2."""
    pixels = model.decode(z) if label is None else model.decode(z, torch.tensor(label))
    mass = pixels.base_dist.log_prob(y).exp()
    rate = corruption.rate
    return ((1 - rate) * mass + rate / 2).log().sum((-3, -2, -1))
