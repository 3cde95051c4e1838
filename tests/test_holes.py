"""Images with missing pixels: the likelihood of what is observed, exactly, in every pair."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

from guides import (
    IAF,
    BottomUp,
    ConditionalNormal,
    DiagonalNormal,
    FullRankNormal,
    Guide,
    Ladder,
    SemiAmortized,
    SemiSupervisedNormal,
)
from models import (
    MLP,
    VAE,
    Bernoulli,
    BetaBinomial,
    Conditional,
    ContinuousBernoulli,
    Convolutional,
    DiscretizedLogistic,
    Gaussian,
    Hierarchical,
    Likelihood,
    Mixture,
    ProbabilisticPCA,
    SemiSupervised,
    Spec,
    VampPrior,
)
from models.observed import observed_pixels
from ppl_vae.compiler.compiling import trace_programs
from ppl_vae.densities import log_weights
from ppl_vae.objectives import ELBO, IWAE, Beta, Objective, WakeSleep
from ppl_vae.objectives.objective import PairLoss

SHAPE = (2, 4, 3)
TINY = partial(MLP, hidden=(6,))


def holed(x: Tensor, share: float = 0.5) -> Tensor:
    """Images of which some pixels, but not the first, are missing."""
    missing = torch.rand(x.shape) < share
    missing[:, 0, 0, 0] = False
    return x.masked_fill(missing, torch.nan)


class ObservedPosterior(Guide):
    """p(z|x_o) of a probabilistic PCA: its posterior from the rows of W that were observed."""

    def __init__(self, model: ProbabilisticPCA, variance: float = 1.0) -> None:
        super().__init__(model.spec)
        self.w, self.mean = model.loadings, model.mean
        self.noise, self.variance = (2 * model.log_scale).exp(), variance

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        x = x.flatten(1)
        w = self.w * (~x.isnan()).unsqueeze(-1) / self.noise.sqrt()  # (B, P, D)
        precision = torch.eye(self.spec.latent_dim).to(x) + w.mT @ w
        centred = ((x - self.mean) / self.noise.sqrt()).nan_to_num().unsqueeze(-1)
        loc = torch.linalg.solve(precision, w.mT @ centred).squeeze(-1)
        return dist.MultivariateNormal(loc, self.variance * torch.linalg.inv(precision))

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


@pytest.fixture
def ppca() -> ProbabilisticPCA:
    model = ProbabilisticPCA(Spec(SHAPE, "real", 3, holes=True), initial_scale=0.7).double()
    model.mean.data = torch.randn_like(model.mean)
    return model.requires_grad_(False)


def marginal(model: ProbabilisticPCA, x: Tensor) -> np.ndarray:
    """log N(x_o; mu_o, (W W^T + sigma^2 I)_oo) by SciPy, (B,)."""
    w, mean = model.loadings.numpy(), model.mean.numpy()
    covariance = w @ w.T + float((2 * model.log_scale).exp()) * np.eye(len(mean))
    values = []
    for row in x.flatten(1).numpy():
        o = ~np.isnan(row)
        normal = scipy.stats.multivariate_normal(mean[o], covariance[np.ix_(o, o)])
        values.append(normal.logpdf(row[o]))
    return np.array(values)


def test_every_weight_under_the_exact_posterior_is_the_marginal_of_the_observed(ppca):
    x = holed(torch.randn(8, *SHAPE, dtype=torch.float64))
    weights = log_weights(ppca, ObservedPosterior(ppca), x, particles=3)
    np.testing.assert_allclose(weights, np.tile(marginal(ppca, x), (3, 1)), rtol=1e-10)


def test_the_bound_rises_with_the_particles_to_the_marginal_of_the_observed(ppca):
    x = holed(ppca(size=300))
    with torch.no_grad():
        weights = log_weights(ppca, ObservedPosterior(ppca, variance=2.5), x, particles=800)
    gaps = [
        marginal(ppca, x) - (weights.unflatten(0, (-1, k)).logsumexp(1) - np.log(k)).mean(0).numpy()
        for k in (1, 4, 20, 800)
    ]
    for looser, tighter in pairwise(gaps):
        rise = looser - tighter
        assert rise.mean() > 3 * rise.std() / len(rise) ** 0.5
    assert abs(gaps[-1].mean()) < 0.01


@pytest.mark.parametrize(
    "likelihood", [Bernoulli, BetaBinomial, ContinuousBernoulli, DiscretizedLogistic, Gaussian]
)
def test_a_likelihood_of_the_observed_is_the_sum_over_them_and_finite_in_its_gradient(
    likelihood: type[Likelihood],
) -> None:
    piece = likelihood(Spec(SHAPE, likelihood.domain, 3, holes=True))
    features = torch.randn(5, *piece.features, requires_grad=True)
    whole = piece(features)
    x = holed(whole.sample())
    own = observed_pixels(whole).log_prob(x)
    pixelwise: Any = whole
    per_pixel = pixelwise.base_dist.log_prob(x.nan_to_num(0))
    expected = torch.stack([p[~v.isnan()].sum() for p, v in zip(per_pixel, x, strict=True)])
    torch.testing.assert_close(own, expected)
    (gradient,) = torch.autograd.grad(own.sum(), features, retain_graph=True)
    (other,) = torch.autograd.grad(expected.sum(), features)
    torch.testing.assert_close(gradient, other)


def test_pixels_that_depend_on_each_other_are_refused():
    cholesky = torch.eye(4).expand(2, 3, 4, 4)
    rows = dist.MultivariateNormal(torch.zeros(2, 3, 4), scale_tril=cholesky).to_event(2)
    with pytest.raises(ValueError, match=r"independent given z.*got MultivariateNormal"):
        observed_pixels(rows)


def test_the_encoder_sees_zeros_and_the_mask():
    x = torch.tensor([[[255.0, torch.nan], [0.0, 255.0]]])
    seen = Spec((1, 2, 2), "bytes", 2, holes=True).network_input(x)
    assert seen.tolist() == [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]]


def test_data_without_holes_have_no_mask_and_the_same_likelihood():
    spec = Spec(SHAPE, "binary", 3)
    model, x = VAE(spec), torch.ones(2, *SHAPE)
    whole = model.decode(torch.zeros(2, 3))
    assert spec.encoder_shape == SHAPE
    assert spec.network_input(x) is x
    assert model.observed(whole) is whole


def test_on_whole_images_a_pair_with_masks_is_one_without():
    """The masks are ones there: a constant, which the bias of the first layer takes in."""
    pairs = []
    for holes in (False, True):
        spec = Spec(SHAPE, "binary", 3, holes=holes)
        pairs.append((VAE(spec, network=TINY).double(), DiagonalNormal(spec, TINY).double()))
    (model, guide), (masked_model, masked_guide) = pairs
    masked_model.load_state_dict(model.state_dict())
    first, masked = (each.encoder.layers[0] for each in (guide, masked_guide))
    guide.encoder.layers[2].load_state_dict(masked_guide.encoder.layers[2].state_dict())
    with torch.no_grad():
        first.weight.copy_(masked.weight[:, : spec.pixels])
        first.bias.copy_(masked.bias + masked.weight[:, spec.pixels :].sum(1))
    x = torch.ones(6, *SHAPE, dtype=torch.float64)
    losses = []
    for pair in pairs:
        torch.manual_seed(1)
        losses.append(ELBO().loss(*pair, x))
    torch.testing.assert_close(*losses)


PAIRS: dict[str, tuple[Any, Any, Objective, str]] = {
    "full rank": (VAE, FullRankNormal, IWAE(particles=3), "bytes"),
    "iaf": (VAE, partial(IAF, hidden=(8,), context=3), Beta(beta=2.0), "real"),
    "semi-amortized": (VAE, partial(SemiAmortized, steps=2), ELBO(), "binary"),
    "bottom up": (Hierarchical, BottomUp, IWAE(particles=3), "binary"),
    "ladder": (Hierarchical, Ladder, ELBO(), "unit"),
    "classes": (SemiSupervised, SemiSupervisedNormal, ELBO(), "binary"),
    "given class": (Conditional, ConditionalNormal, ELBO(), "binary"),
    "clusters": (Mixture, DiagonalNormal, IWAE(particles=3), "binary"),
    "wake-sleep": (VAE, DiagonalNormal, WakeSleep(), "binary"),
    "vamp": (VAE, DiagonalNormal, ELBO(), "real"),
    "ppca": (ProbabilisticPCA, DiagonalNormal, ELBO(), "real"),
    "convolutional": (partial(VAE, network=Convolutional), DiagonalNormal, ELBO(), "real"),
}
LIKELIHOODS = {
    "binary": Bernoulli,
    "bytes": DiscretizedLogistic,
    "real": Gaussian,
    "unit": ContinuousBernoulli,
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_traced_step_with_holes_is_that_of_the_programs_for_other_holes_too(name: str) -> None:
    kind, guide_kind, objective, domain = PAIRS[name]
    spec = Spec(SHAPE, domain, 3, classes=3, holes=True)
    options = {} if kind is ProbabilisticPCA else {"likelihood": LIKELIHOODS[domain](spec)}
    prior = VampPrior(spec, components=4) if name == "vamp" else None
    model = kind(spec, **options, **({"prior": prior} if prior else {}))
    takes = {"model": model} if guide_kind in (BottomUp, Ladder) or name[:4] == "semi" else {}
    guide = guide_kind(spec, **takes)
    model.connect(guide.amortized_posterior)
    whole = [LIKELIHOODS[domain](spec)(torch.randn(6, *_features(domain, spec))).sample()]
    model.initialise(lambda count: holed(whole[0])[torch.arange(count) % 6])
    labels = (torch.tensor([0, 1, 2, 0, 1, 2]),) if model.labelled else ()
    pair = PairLoss(model, guide, objective)
    graph = trace_programs(pair, (holed(whole[0]), *labels))
    batch = (holed(whole[0], share=0.3), *labels)
    torch.manual_seed(0)
    loss, gradients = graph(*batch)
    torch.manual_seed(0)
    expected = pair(*batch)
    expected.backward()
    assert torch.equal(loss, expected)
    assert loss.isfinite()
    for parameter, own in pair.named_parameters():
        assert own.grad is None or torch.equal(gradients[parameter], own.grad)
        assert own.grad is None or own.grad.isfinite().all()


def _features(domain: str, spec: Spec) -> tuple[int, ...]:
    return LIKELIHOODS[domain](spec).features


def test_the_decoder_begins_at_the_mean_of_what_is_observed():
    spec = Spec(SHAPE, "real", 3, holes=True)
    model, x = VAE(spec), holed(torch.randn(50, *SHAPE))
    x[:, 1, 2, 2] = torch.nan  # a pixel that nobody saw begins at the mean of all
    model.initialise(lambda count: x)
    mean = np.nanmean(x[:, 0].numpy(), axis=0)
    bias = model.decoder.layers[-1].bias.detach().reshape(SHAPE)
    np.testing.assert_allclose(bias[0], mean, rtol=1e-4)
    np.testing.assert_allclose(bias[1, 2, 2], np.nanmean(x.numpy()), rtol=1e-4)


def test_the_images_of_the_sleep_phase_have_the_holes_of_the_data(monkeypatch):
    spec = Spec(SHAPE, "binary", 3, holes=True)
    model, guide = VAE(spec), DiagonalNormal(spec)
    x, seen = holed(torch.ones(5, *SHAPE)), []
    monkeypatch.setattr(guide, "encode", lambda x: seen.append(x) or torch.zeros(len(x), 6))
    WakeSleep().loss(model, guide, x)
    for each in seen:
        assert torch.equal(each.isnan(), x.isnan())
    assert len(seen) == 2
