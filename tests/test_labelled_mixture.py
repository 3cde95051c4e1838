"""A cluster for each class, seen where there is a label: by hand, by Pyro and by SciPy."""

from math import log, pi

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from class_pairs import CLASSES, LABELS, SPEC, images, labelled_mixture
from comparing import loss_and_gradients, seeded
from pyro.infer import TraceEnum_ELBO

from ppl_vae.densities.weights import log_terms
from ppl_vae.objectives import ELBO, SemiSupervisedELBO

PARTICLES = 4


@pytest.mark.parametrize("full_rank", [False, True])
def test_clusters_with_labels_are_m2_with_a_linear_map_for_each_class(full_rank: bool) -> None:
    """z = mu_y + L_y u: log p(x, y, z) is log p(y) + log p(u) - log |L_y| + log p(x|u, y)."""
    model, guide = labelled_mixture(full_rank)
    x = images()
    terms = log_terms(model, guide, x, PARTICLES, labels=LABELS)
    z = terms.latents["z"]
    every = []
    for y, log_p_y in enumerate(model.logits.log_softmax(-1)):
        triangle = torch.diag(model.log_scale[y].exp())
        if full_rank:
            triangle = triangle + model.below[y].tril(-1)
        u = torch.linalg.solve_triangular(
            triangle, (z - model.loc[y])[..., None], upper=False
        ).squeeze(-1)
        log_p_u = (-(u**2) / 2 - log(2 * pi) / 2).sum(-1)
        mapped = model.loc[y] + u @ triangle.T
        log_p_x = model.likelihood(model.decoder(mapped)).log_prob(x)
        every.append(log_p_y + log_p_u - triangle.det().log() + log_p_x)
    joint = torch.stack(every)
    known = joint.gather(0, LABELS.clamp(min=0).expand(1, *z.shape[:-1])).squeeze(0)
    expected = torch.where(LABELS >= 0, known, joint.logsumexp(0))
    torch.testing.assert_close(terms.log_prior + terms.log_likelihood, expected)


@pytest.mark.parametrize("full_rank", [False, True])
def test_the_elbo_of_clusters_with_labels_is_pyros(full_rank: bool) -> None:
    pair = labelled_mixture(full_rank)
    x = images()
    stock = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss
    ours, expected = (
        loss_and_gradients(loss, pair, *pair, x, LABELS)
        for loss in (ELBO().loss, lambda *batch: stock(*batch) / len(x))
    )
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)


def test_clusters_learn_from_the_labels() -> None:
    """The gradient of the classifier's loss alone reaches them, and the encoder."""
    model, guide = labelled_mixture(full_rank=True)
    x = images()
    losses = [SemiSupervisedELBO(alpha=alpha) for alpha in (0.0, 2.0)]
    learned = [*model.named_parameters(), *guide.named_parameters()]
    with_gradients = [seeded(loss.loss, model, guide, x, LABELS) for loss in losses]
    names, values = zip(*learned, strict=True)
    without, with_it = (
        torch.autograd.grad(loss, values, retain_graph=True) for loss in with_gradients
    )
    known = LABELS >= 0
    log_class = guide.classify(x).log_prob(LABELS.clamp(min=0))
    expected = torch.autograd.grad(-2 * (log_class * known).mean(), values, allow_unused=True)
    for name, a, b, wanted in zip(names, without, with_it, expected, strict=True):
        torch.testing.assert_close(b - a, torch.zeros_like(a) if wanted is None else wanted)
        reached = name.startswith("encoder") or name in model.of_codes
        assert (wanted is not None and bool(wanted.abs().max() > 1e-6)) == reached, name


@pytest.mark.parametrize("full_rank", [False, True])
def test_images_are_classified_by_the_clusters(full_rank: bool) -> None:
    """By Bayes' rule in SciPy; and an image far from the cluster of its class still learns."""
    model, guide = labelled_mixture(full_rank)
    x = images()
    mean = guide.encoder(x)[:, : SPEC.latent_dim].detach()
    densities = []
    for y in range(CLASSES):
        cluster = model.component(torch.tensor(y))
        p = scipy.stats.multivariate_normal(model.loc[y].detach(), covariance_of(cluster))
        densities.append(p.pdf(mean))
    joint = scipy.special.softmax(model.logits.detach()) * np.stack(densities, axis=-1)
    found = guide.classify(x).probs.detach()
    np.testing.assert_allclose(found, joint / joint.sum(-1, keepdims=True), rtol=1e-9)
    model.loc.data *= 1e4
    far = guide.classify(x).logits.min(-1).values
    assert (far < -1e4).all()
    (gradient,) = torch.autograd.grad(far.sum(), guide.encoder.layers[0].weight)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1


def covariance_of(cluster: dist.TorchDistribution) -> np.ndarray:
    if isinstance(cluster, dist.MultivariateNormal):
        return cluster.covariance_matrix.detach().numpy()
    return np.diag(cluster.variance.detach().numpy())
