"""Classes that are summed out: by hand, by Pyro's TraceEnum_ELBO, and in closed form."""

from math import log, sqrt

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from class_pairs import (
    CLASSES,
    LABELS,
    SPEC,
    images,
    mixture,
    semi_supervised,
    tiny,
)
from comparing import loss_and_gradients, seeded
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from guides import DiagonalNormal, FullRankNormal, Guide, SemiSupervisedNormal
from models import (
    VAE,
    Gaussian,
    Linear,
    Mixture,
    MixtureOfNormals,
    SemiSupervised,
    Spec,
)
from ppl_vae.data import Split
from ppl_vae.densities.weights import log_terms, log_weights
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import ELBO, IWAE, SemiSupervisedELBO

PARTICLES = 4


def by_hand(model: SemiSupervised, guide: SemiSupervisedNormal, x: Tensor, labels: Tensor):
    """-L(x, y) where there is a label and -U(x) where not, one class and one datum at a time.

    Kingma, Rezende, Mohamed and Welling (2014), equations (6) and (7).
    """
    # The classes' draws in the order in which the program takes them from the generator.
    noise = torch.randn(CLASSES, 1, len(x), SPEC.latent_dim, dtype=torch.float64)
    bounds = []
    for n in range(len(x)):
        image = x[n : n + 1]
        log_q = torch.log_softmax(guide.classifier(image), -1)[0]
        labelled_bounds = []
        for y in range(CLASSES):
            h = torch.cat(
                [torch.tanh(guide.encoder(image))[0], torch.eye(CLASSES, dtype=torch.float64)[y]]
            )
            mean, log_variance = guide.head(h[None])[0].chunk(2)
            q = torch.distributions.Normal(mean, (log_variance / 2).exp())
            z = q.mean + q.stddev * noise[y, 0, n]
            inputs = torch.cat([z, torch.eye(CLASSES, dtype=torch.float64)[y]])
            p = torch.sigmoid(model.decoder(inputs[None])[0])
            log_p = (image[0] * p.log() + (1 - image[0]) * (1 - p).log()).sum()
            log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum() - log(CLASSES)
            labelled_bounds.append(log_p + log_prior - q.log_prob(z).sum())
        stacked = torch.stack(labelled_bounds)
        label = int(labels[n])
        unlabelled = (log_q.exp() * (stacked - log_q)).sum()
        bounds.append(stacked[label] if label >= 0 else unlabelled)
    return -torch.stack(bounds).mean()


def test_semi_supervised_elbo_is_that_of_the_equations_and_of_pyro() -> None:
    model, guide = semi_supervised()
    x = images()
    stock = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss
    expected, *losses = (
        loss_and_gradients(loss, (model, guide), model, guide, x, LABELS)
        for loss in (by_hand, ELBO().loss, lambda *batch: stock(*batch) / len(x))
    )
    for found in losses:
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
    names = ["loss", *(name for each in (model, guide) for name, _ in each.named_parameters())]
    assert expected[names.index("classifier.layers.0.weight")].abs().max() > 1e-4


@pytest.mark.parametrize("guide", [DiagonalNormal, FullRankNormal])
@pytest.mark.parametrize("full_rank", [False, True])
@pytest.mark.parametrize("particles", [1, PARTICLES])
def test_mixture_elbo_is_pyros(guide: type[Guide], full_rank: bool, particles: int) -> None:
    model, q = mixture(guide, full_rank)
    x = images()
    stock = TraceEnum_ELBO(
        num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1
    ).differentiable_loss
    ours, expected = (
        loss_and_gradients(loss, (model, q), model, q, x)
        for loss in (ELBO(particles).loss, lambda *batch: stock(*batch) / len(x))
    )
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-10, atol=1e-10)


def marginal(model: Mixture) -> VAE:
    """The same p(x, z), with the classes in the prior."""
    other = VAE(SPEC, prior=MixtureOfNormals(SPEC, CLASSES), network=tiny).double()
    other.decoder.load_state_dict(model.decoder.state_dict())
    for name in ("logits", "loc", "log_scale"):
        getattr(other.prior, name).data = getattr(model, name).data
    return other


def test_mixture_is_a_vae_with_a_mixture_of_normals_as_prior() -> None:
    """Term by term."""
    model, guide = mixture()
    x = images()
    terms, expected = (
        seeded(log_terms, each, guide, x, PARTICLES) for each in (model, marginal(model))
    )
    for name in ("log_prior", "log_likelihood", "log_guide"):
        a, b = getattr(terms, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("full_rank", [False, True])
def test_clusters_are_normals(full_rank: bool) -> None:
    """The marginal of z and the clusters given z, by SciPy."""
    model, guide = mixture(full_rank=full_rank)
    terms = log_terms(model, guide, images(), PARTICLES)
    z = terms.latents["z"].detach().numpy()
    values = {name: p.detach().numpy() for name, p in model.named_parameters()}
    weights = scipy.special.softmax(values["logits"])
    triangles = [np.diag(np.exp(log_scale)) for log_scale in values["log_scale"]]
    if full_rank:
        triangles = [a + np.tril(b, -1) for a, b in zip(triangles, values["below"], strict=True)]
    densities = np.stack(
        [
            scipy.stats.multivariate_normal(loc, triangle @ triangle.T).pdf(z)
            for loc, triangle in zip(values["loc"], triangles, strict=True)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(
        terms.log_prior.detach(), np.log(densities @ weights), rtol=1e-10, atol=1e-10
    )
    posterior = densities * weights / (densities @ weights)[..., None]
    responsibilities = model.responsibilities(terms.latents["z"]).detach().numpy()
    np.testing.assert_allclose(responsibilities, posterior, rtol=1e-10)


class Coupled(Mixture):
    """Its image depends on the class given z."""

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            categorical = dist.Categorical(logits=self.logits)
            y = pyro.sample("y", categorical, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.component(y))
            return pyro.sample("x", self.decode(z + self.loc[y]), obs=x)


def test_the_terms_are_marginal_where_the_image_depends_on_the_class() -> None:
    model = Coupled(SPEC, network=tiny, components=CLASSES).double()
    guide, x = DiagonalNormal(SPEC, network=tiny).double(), images()
    terms = log_terms(model, guide, x, PARTICLES)
    z = terms.latents["z"]
    prior, joint = [], []
    for y in range(CLASSES):
        log_prior = model.component(torch.tensor(y)).log_prob(z) - log(CLASSES)
        prior.append(log_prior)
        joint.append(log_prior + model.decode(z + model.loc[y]).log_prob(x))
    log_p_z = torch.stack(prior).logsumexp(0)
    torch.testing.assert_close(terms.log_prior, log_p_z)
    conditional = torch.stack(joint).logsumexp(0) - log_p_z
    torch.testing.assert_close(terms.log_likelihood, conditional)


def linear_gaussian() -> tuple[SemiSupervised, SemiSupervisedNormal, Spec]:
    """p(x|y) is a normal for each class: both y and z can be integrated."""
    spec = Spec((1, 1, 4), "real", 2, CLASSES)
    likelihood = Gaussian(spec, initial_scale=0.6)
    model = SemiSupervised(spec, likelihood=likelihood, network=Linear).double()
    model.decoder.linear.weight.data.normal_()
    guide = SemiSupervisedNormal(spec, Linear, features=6).double()
    return model, guide, spec


def exact_log_likelihood(model: SemiSupervised, x: Tensor) -> np.ndarray:
    """log p(x|y) for each y, (B, classes), by SciPy."""
    linear = model.decoder.linear
    loadings, offsets = linear.weight.detach().numpy()[:, :2], linear.weight.detach().numpy()[:, 2:]
    scale = 1e-3 + model.likelihood.log_scale.exp().item()
    covariance = loadings @ loadings.T + scale**2 * np.eye(4)
    bias = linear.bias.detach().numpy()
    return np.stack(
        [
            scipy.stats.multivariate_normal(bias + offsets[:, y], covariance).logpdf(
                x.flatten(1).numpy()
            )
            for y in range(CLASSES)
        ],
        axis=-1,
    )


def test_the_estimate_converges_to_log_p_with_both_y_and_z_integrated() -> None:
    model, guide, spec = linear_gaussian()
    x = torch.randn(4, *spec.image_shape, dtype=torch.float64)
    by_class = exact_log_likelihood(model, x)
    exact = scipy.special.logsumexp(by_class, axis=-1) - log(CLASSES)
    particles = 40_000
    split = Split(x, torch.tensor([0, 1, 2, 0]), lambda raw: raw)
    estimates = estimate(model, guide, split, particles, memory_bytes=2**22)
    torch.manual_seed(1)
    with torch.no_grad():
        weights = (log_weights(model, guide, x, particles) - torch.from_numpy(exact)).exp()
    errors = (weights.std(0) / sqrt(particles)).numpy()
    assert (errors < 0.05).all()
    # The labels of the split are not looked at: this is log p(x).
    assert (np.abs(estimates.log_likelihood.numpy() - exact) < 4.5 * errors).all()
    assert (estimates.elbo.numpy() < exact).all()
    torch.testing.assert_close(estimates.elbo, -(estimates.rate + estimates.distortion))

    # With labels it is log p(x, y).
    labels = torch.tensor([0, 1, 2, -1])
    with torch.no_grad():
        terms = log_terms(model, guide, x, particles, labels=labels)
        known = terms.log_sum_exp(terms.log_weights) - log(particles)
        elbo = terms.sum(terms.log_weights) / particles
    joint = by_class[np.arange(3), labels[:3].numpy()] - log(CLASSES)
    assert terms.log_share.exp().unique().numel() > 2
    assert (np.abs(known[:3].numpy() - joint) < 0.1).all()
    assert (np.abs(known[3].numpy() - exact[3]) < 0.1).all()
    assert (elbo < known).all()


def test_the_shares_of_a_draw_add_up_to_one() -> None:
    model, guide = semi_supervised()
    terms = log_terms(model, guide, images(), PARTICLES, labels=LABELS)
    assert terms.log_weights.shape == (CLASSES * PARTICLES, 5)
    assert terms.latents["z"].shape == (CLASSES * PARTICLES, 5, 2)
    torch.testing.assert_close(
        terms.sum(torch.ones(())), torch.full((5,), float(PARTICLES), dtype=torch.float64)
    )
    shares = terms.log_share.exp().unflatten(0, (CLASSES, PARTICLES))
    assert (shares[:, :, 0] == torch.eye(CLASSES)[0][:, None]).all()  # exactly, not nearly
    weights = log_weights(model, guide, images(), PARTICLES, LABELS)
    assert weights.shape == (PARTICLES, 5)


def test_a_label_outweighs_a_classifier_that_is_sure_of_another() -> None:
    model, guide = semi_supervised()
    guide.classifier.layers[-1].bias.data = torch.tensor([0.0, 0.0, 5_000.0]).double()
    x, labels = images(2), torch.tensor([0, -1])
    found = loss_and_gradients(ELBO().loss, (model, guide), model, guide, x, labels)
    assert all(value.isfinite().all() for value in found)


def test_the_classification_loss_is_that_of_equation_9() -> None:
    model, guide = semi_supervised()
    x = images()
    objectives = ELBO(2), SemiSupervisedELBO(2, alpha=7.0)
    plain, loss = (seeded(objective.loss, model, guide, x, LABELS) for objective in objectives)
    logits = guide.classifier(x[[0, 2, 4]])
    cross_entropy = torch.nn.functional.cross_entropy(logits, LABELS[[0, 2, 4]], reduction="sum")
    torch.testing.assert_close(loss, plain + 7 * cross_entropy / 5)


def test_the_marginals_over_classes_are_densities() -> None:
    model, guide = semi_supervised()
    z, x = torch.randn(6, 2).double(), images(1)
    by_class = [model.decode(z, torch.tensor(y)).log_prob(x) for y in range(CLASSES)]
    expected = torch.stack(by_class).logsumexp(0) - log(CLASSES)
    torch.testing.assert_close(model.decode(z).log_prob(x), expected)
    x = images()
    weights = guide.classify(x).probs
    means = torch.stack([guide.posterior(x, torch.full((5,), y)).mean for y in range(CLASSES)], 1)
    torch.testing.assert_close(guide.posterior(x).mean, (weights[..., None] * means).sum(1))


@pytest.mark.parametrize("gradient", ["plain", "stl", "dreg"])
def test_the_weighted_bound_of_a_mixture_is_that_of_its_marginal(gradient: str) -> None:
    model, guide = mixture()
    x = images()
    found, expected = (
        loss_and_gradients(IWAE(5, gradient).loss, [guide], each, guide, x)
        for each in (model, marginal(model))
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_drawn_classes_are_as_frequent_as_the_model_says() -> None:
    model, _ = mixture()
    drawn = poutine.trace(model).get_trace(size=20_000).nodes["y"]["value"]
    frequency = torch.bincount(drawn, minlength=CLASSES) / 20_000
    expected = model.logits.softmax(-1)
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((frequency - expected).abs() < 4.5 * error).all()
