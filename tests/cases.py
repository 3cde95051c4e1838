"""The combinations of pieces that fit, by what the classes declare; few of them always run.

They are made of what `models` and `guides` export: a new class is covered as soon as it is
exported. In the cases that always run any two pieces that fit meet; the others are `slow`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from inspect import isabstract, signature
from itertools import combinations as combinations_of
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import guides
import models
from guides import ClassifyingNormal, Guide, SemiAmortized
from models import (
    MLP,
    Cells,
    Gaussian,
    LabelledMixture,
    Likelihood,
    Linear,
    MaxPooling,
    Model,
    Network,
    Prior,
    Residual,
    Spec,
    TopDown,
    VampPrior,
)
from ppl_vae.objectives import ELBO, Objective, SemiSupervisedELBO

__all__ = [
    "BATCH",
    "CASES",
    "CLASSES",
    "COVERING",
    "LATENT_DIM",
    "TRACED",
    "Case",
    "Piece",
    "concrete",
    "every_case",
    "natural_objective",
    "with_labels",
]

IMAGE_SHAPE = (2, 5, 4)
IMAGE_SHAPES = {MaxPooling: (2, 16, 16)}  # of the networks that not every size fits
LATENT_DIM = 4
BATCH = 4
CLASSES = 10  # as many as `Mixture` has by default

# The networks between feature maps; the others have a vector on one side.
OF_MAPS = (MLP, Linear, Cells)

# Options that change which parameters a class has, beside its defaults.
OPTIONS: dict[type, list[dict[str, Any]]] = {
    Gaussian: [{"scale": "pixel"}, {"scale": "network"}],
}


def concrete(package: Any, base: type) -> list[type]:
    exported = [getattr(package, name) for name in package.__all__]
    classes = [value for value in exported if isinstance(value, type)]
    return [value for value in classes if issubclass(value, base) and not isabstract(value)]


@dataclass(frozen=True)
class Piece:
    """A class with the options to construct it with."""

    kind: type
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.kind.__name__ + "".join(f"-{value}" for value in self.options.values())


def pieces(package: Any, base: type) -> list[Piece]:
    return [
        Piece(kind, options)
        for kind in concrete(package, base)
        for options in [{}, *OPTIONS.get(kind, [])]
    ]


@dataclass(frozen=True, eq=False)
class Case:
    """One combination; None where the model takes no such piece."""

    model: Piece
    guide: Piece
    prior: Piece | None
    likelihood: Piece | None
    network: Piece

    def __str__(self) -> str:
        return "_".join(map(str, self.pieces))

    @property
    def pieces(self) -> list[Piece]:
        parts = (self.model, self.prior, self.likelihood, self.guide, self.network)
        return [part for part in parts if part]

    @property
    def kinds(self) -> set[type]:
        return {piece.kind for piece in self.pieces}

    @property
    def spec(self) -> Spec:
        owner = self.likelihood.kind if self.likelihood else self.model.kind
        return Spec(self.image_shape, owner.domain, LATENT_DIM, CLASSES)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return IMAGE_SHAPES.get(self.network.kind, IMAGE_SHAPE)

    def build(self) -> tuple[Model, Guide]:
        spec = self.spec
        chosen: dict[str, Any] = {"network": self.network.kind}
        if self.prior:
            prior_spec = self.model.kind.prior_spec(spec, **self.model.options)
            chosen["prior"] = self.prior.kind(prior_spec, **self.prior.options)
        if self.likelihood:
            chosen["likelihood"] = self.likelihood.kind(spec, **self.likelihood.options)
        for role, piece in (("model", self.model), ("guide", self.guide)):
            takes = signature(piece.kind).parameters
            wanted = {name: value for name, value in chosen.items() if name in takes}
            chosen[role] = piece.kind(spec, **wanted, **piece.options)
        chosen["model"].connect(chosen["guide"].amortized_posterior)
        return chosen["model"], chosen["guide"]

    def data(self, batch: int = BATCH) -> Tensor:
        shape = (batch, *self.image_shape)
        match self.spec.domain:
            case "binary":
                return torch.bernoulli(torch.full(shape, 0.5))
            case "unit":
                return torch.rand(shape)
            case "bytes":
                return torch.randint(256, shape).float()
            case _:
                return torch.randn(shape)


def combinations() -> Iterator[Case]:
    """Every model with every guide, prior and likelihood, and with every network.

    What a network can do wrong does not depend on the prior or the likelihood, only on its two
    shapes: each model and guide meets all networks once, and the other combinations take turns.
    """
    for model, guide in product(pieces(models, Model), pieces(guides, Guide)):
        takes = signature(model.kind).parameters
        networks = [
            network
            for network in pieces(models, Network)
            if model.kind is not TopDown or network.kind in OF_MAPS
        ]
        priors = pieces(models, Prior) if "prior" in takes else [None]
        likelihoods = pieces(models, Likelihood) if "likelihood" in takes else [None]
        for number, (prior, likelihood) in enumerate(product(priors, likelihoods)):
            if fits(model.kind, guide.kind, prior and prior.kind):
                for network in networks if number == 0 else [networks[number % len(networks)]]:
                    yield Case(model, guide, prior, likelihood, network)


def fits(model: type[Model], guide: type[Guide], prior: type[Prior] | None) -> bool:
    """Whether the three go together, by what they declare."""
    classifies = guide.classify is not Guide.classify
    if set(guide.latents) != set(model.latents) or (guide.has_density and not model.has_prior):
        return False
    if not takes(guide, 2 if model.labelled else 1):
        return False
    if classifies and not model.enumerated:
        return False
    if model.labelled and (not classifies if model.enumerated else wraps_a_model(guide)):
        return False
    if guide is ClassifyingNormal and not issubclass(model, LabelledMixture):
        return False
    made_of_the_guide = prior is not None and prior.connect is not Prior.connect
    return not made_of_the_guide or (guide.has_density and is_one_distribution(guide))


def takes(guide: type[Guide], inputs: int) -> bool:
    try:
        signature(guide.forward).bind(None, *range(inputs))
    except TypeError:
        return False
    return True


def wraps_a_model(guide: type[Guide]) -> bool:
    return "model" in signature(guide).parameters


def is_one_distribution(guide: type[Guide]) -> bool:
    """Whether q(z|x), of images alone, is."""
    made = guide.posterior_of, guide.posterior
    return takes(guide, 1) and made != (Guide.posterior_of, Guide.posterior)


def with_labels(model: Model, x: Tensor) -> tuple[Tensor, ...]:
    """The arguments of the programs: with labels for a model of labelled images.

    If the model can do without, every other image has none.
    """
    if not model.labelled:
        return (x,)
    labels = torch.arange(len(x)) % CLASSES
    if model.enumerated:
        labels[1::2] = -1
    return (x, labels)


def covering(cases: list[Case], parts: Callable[[Case], set[Any]]) -> set[Case]:
    """Few of the cases that together have all parts; the greedy choice."""
    left = set().union(*map(parts, cases))
    chosen = set()
    while left:
        best = max(cases, key=lambda case: len(parts(case) & left))
        left -= parts(best)
        chosen.add(best)
    return chosen


def pairs_of_pieces(case: Case) -> set[Any]:
    return {*combinations_of(map(str, case.pieces), 2)}


def programs_and_pieces(case: Case) -> set[Any]:
    """The model with the guide and the guide with the prior; likelihood and network alone."""
    guide = str(case.guide)
    return {(str(case.model), guide), (guide, str(case.prior)), *map(str, case.pieces)}


def natural_objective(case: Case) -> Objective:
    """That of the pair; with the classifier's loss where there are labels to train it on."""
    supervised = case.guide.kind.classify is not Guide.classify and case.model.kind.labelled
    return SemiSupervisedELBO() if supervised else ELBO()


CASES = list(combinations())
COVERING = covering(CASES, pairs_of_pieces)
# A graph is of one path through the programs. Those through the deepest networks take longest.
DEEP = ({VampPrior, Residual}, {SemiAmortized, Residual}, {SemiAmortized, MaxPooling})
TRACED = covering(
    [case for case in CASES if not any(deep <= case.kinds for deep in DEEP)], programs_and_pieces
)
every_case = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in COVERING else pytest.mark.slow) for case in CASES],
    ids=str,
)
