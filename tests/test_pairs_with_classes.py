"""Which pairs and estimators work with classes, and the conditional pair."""

from math import log, pi

import pyro
import pyro.distributions as dist
import pytest
import torch
from class_pairs import CLASSES, LABELS, SPEC, images, mixture, semi_supervised, tiny
from comparing import seeded
from torch import Tensor

from guides import (
    ClassifyingNormal,
    ConditionalNormal,
    DiagonalNormal,
    FullRankNormal,
    SemiSupervisedNormal,
)
from models import Conditional, LabelledMixture, Mixture, SemiSupervised, Spec
from ppl_vae.data import Split
from ppl_vae.densities.weights import log_terms
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import ELBO, IWAE, Beta, SemiSupervisedELBO
from ppl_vae.pairs.checks import check_pair


def test_conditional_elbo_is_that_of_the_class_alone() -> None:
    """Trained and measured as p(x|y): a VAE whose decoder gets the indicator of y."""
    model = Conditional(SPEC, network=tiny).double()
    guide = ConditionalNormal(SPEC, tiny, features=4).double()
    x, y = images(), torch.tensor([0, 1, 2, 1, 0])
    loss = seeded(ELBO().loss, model, guide, x, y)
    torch.manual_seed(1)
    q = guide.posterior(x, y)
    z = q.mean + q.base_dist.scale * torch.randn(5, 2, dtype=torch.float64)
    inputs = torch.cat([z, torch.eye(CLASSES, dtype=torch.float64)[y]], -1)
    p = torch.sigmoid(model.decoder(inputs))
    log_p = (x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
    log_prior = (-(z**2) / 2 - log(2 * pi) / 2).sum(1)
    torch.testing.assert_close(loss, -(log_p + log_prior - q.log_prob(z)).mean())
    split = Split(x, y, lambda raw: raw)
    terms = seeded(log_terms, model, guide, x, 50, labels=y)
    estimates = seeded(estimate, model, guide, split, 50)
    torch.testing.assert_close(estimates.elbo, terms.log_weights.mean(0).detach())


class Drawing(SemiSupervisedNormal):
    """Draws the class instead of leaving it to be summed out."""

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", self.classify(x))
            return pyro.sample("z", self.posterior(x, y))


class Discrete(DiagonalNormal):
    """Has a z that no gradient comes through."""

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(self.encoder(x)[..., :2].exp()).to_event(1)


@pytest.mark.parametrize(
    ("model", "guide", "said"),
    [
        (SemiSupervised, Drawing, "draws the discrete site 'y'"),
        (SemiSupervised, DiagonalNormal, "choose --guide SemiSupervisedNormal"),
        (Conditional, DiagonalNormal, "choose --guide ConditionalNormal"),
        (LabelledMixture, DiagonalNormal, "choose --guide ClassifyingNormal"),
        (SemiSupervised, ConditionalNormal, "a label that is not known"),
        (Conditional, SemiSupervisedNormal, "the guide's sites have to be"),
        (Mixture, SemiSupervisedNormal, "3 values in the guide and 10 in the model"),
        (Mixture, Discrete, "reparameterised"),
    ],
)
def test_pairs_that_cannot_work_are_refused(model, guide, said) -> None:
    pair = model(SPEC), guide(SPEC)
    labels = (LABELS.clamp(min=0),) if model.labelled else ()
    with pytest.raises(ValueError, match=said) as caught:
        check_pair(*pair, images().float(), *labels)
    assert "\n" not in str(caught.value)


def test_pairs_that_can_work_are_not() -> None:
    x = images().float()
    check_pair(SemiSupervised(SPEC), SemiSupervisedNormal(SPEC), x, LABELS)
    check_pair(Conditional(SPEC), ConditionalNormal(SPEC), x, LABELS.clamp(min=0))
    check_pair(Mixture(SPEC), FullRankNormal(SPEC), x)
    clusters = LabelledMixture(SPEC)
    check_pair(clusters, ClassifyingNormal(SPEC, clusters), x, LABELS)
    with pytest.raises(ValueError, match=r"expected a LabelledMixture, .* got Mixture"):
        ClassifyingNormal(SPEC, Mixture(SPEC))
    with pytest.raises(ValueError, match="of several classes; these are all of one"):
        LabelledMixture(Spec((1, 2, 3), "binary", 2, 1))
    check_pair(Mixture(SPEC, components=CLASSES), SemiSupervisedNormal(SPEC), x)


def test_estimators_without_meaning_are_refused() -> None:
    model, guide = semi_supervised()
    refused = [ELBO(analytic_kl=True), Beta(free_bits=0.1), IWAE(3, "stl"), IWAE(3, "dreg")]
    for objective in refused:
        with pytest.raises(NotImplementedError):
            objective.loss(model, guide, images(), LABELS)
    clusters, plain = mixture()
    with pytest.raises(NotImplementedError, match="no closed form"):
        ELBO(analytic_kl=True).loss(clusters, plain, images())
    with pytest.raises(NotImplementedError, match=r"classifier|labels"):
        SemiSupervisedELBO().loss(clusters, plain, images())


@pytest.mark.parametrize("kind", [SemiSupervised, LabelledMixture, Conditional, ConditionalNormal])
def test_data_without_labels_are_refused_at_construction(kind) -> None:
    with pytest.raises(
        ValueError, match="expected images with labels; these data have none; choose"
    ):
        kind(Spec((1, 2, 3), "binary", 2))
