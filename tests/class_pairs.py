"""Small pairs with classes, in double precision, and data for them."""

import torch
from torch import Tensor

from guides import ClassifyingNormal, DiagonalNormal, Guide, SemiSupervisedNormal
from models import MLP, LabelledMixture, Mixture, SemiSupervised, Spec

CLASSES = 3
SPEC = Spec((1, 2, 3), "binary", 2, CLASSES)
LABELS = torch.tensor([0, -1, 2, -1, 1])


def tiny(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> MLP:
    return MLP(inputs, outputs, hidden=(5,))


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *SPEC.image_shape, dtype=torch.float64).bernoulli()


def semi_supervised() -> tuple[SemiSupervised, SemiSupervisedNormal]:
    model = SemiSupervised(SPEC, network=tiny)
    return model.double(), SemiSupervisedNormal(SPEC, tiny, features=4).double()


def mixture(guide: type[Guide] = DiagonalNormal, full_rank: bool = False) -> tuple[Mixture, Guide]:
    model = Mixture(SPEC, network=tiny, components=CLASSES, full_rank=full_rank).double()
    scatter(model)
    return model, guide(SPEC, network=tiny).double()


def labelled_mixture(full_rank: bool = False) -> tuple[LabelledMixture, ClassifyingNormal]:
    model = LabelledMixture(SPEC, network=tiny, full_rank=full_rank).double()
    scatter(model)
    return model, ClassifyingNormal(SPEC, model, network=tiny).double()


def scatter(model: Mixture) -> None:
    model.logits.data.normal_()
    model.log_scale.data.normal_(0, 0.3)
    if model.below is not None:
        model.below.data.normal_()
