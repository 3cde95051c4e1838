"""The bound of images with and without labels, with the loss of a classifier."""

from dataclasses import dataclass

from torch import Tensor

from guides import Guide
from models import Model
from models.ranges import check_count, check_number
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.objective import Objective

__all__ = ["SemiSupervisedELBO"]


@dataclass(frozen=True)
class SemiSupervisedELBO(Objective):
    """-ELBO - alpha log q(y|x) of the images with a label, averaged over a batch.

    Kingma, Rezende, Mohamed and Welling (2014), equation (9). The bound alone does not train the
    classifier on a label, because there the guide knows the class; the second term does. Where N_l
    of N images have a label, the paper's weight is alpha = 0.1 N / N_l: 50 for 100 of 50,000.

    Args:
        particles: Draws of z for each datum and class.
        alpha: The weight of the classifier's log-probability of a label, for each label.

    Raises:
        ValueError: If particles < 1, or alpha is negative or not finite.
    """

    particles: int = 1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_count("particles", self.particles)
        check_number("alpha", self.alpha, least=0)

    def loss(self, model: Model, guide: Guide, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise NotImplementedError(
                f"{type(model).__name__} takes no labels; choose --model SemiSupervised --guide "
                "SemiSupervisedNormal, or --objective ELBO"
            )
        loss = ELBO(self.particles).loss(model, guide, x, labels)
        log_class = guide.classify(x).log_prob(labels.clamp(min=0))
        return loss - self.alpha * ((labels >= 0) * log_class).mean()
