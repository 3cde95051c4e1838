"""Models of labelled images: their classes y, and a decoder of z and y."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.nn.functional import one_hot

from models.likelihoods.default import default_likelihood
from models.likelihoods.likelihood import Likelihood
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.priors.prior import Prior
from models.priors.standard_normal import StandardNormal
from models.spec import Spec

__all__ = ["Labelled", "check_classes", "draw_class", "point_mass", "with_class"]

# Stands for log 0: its exp is 0 exactly, and 0 times it is 0, where minus infinity gives NaN.
_LOG_ZERO = -1e4


def check_classes(spec: Spec, instead: str) -> int:
    """The number of classes of the data.

    Raises:
        ValueError: If the data have no labels; the message ends with the remedy.
    """
    if spec.classes < 1:
        raise ValueError(
            "expected images with labels; these data have none; choose data that have, or "
            f"{instead}"
        )
    return spec.classes


def with_class(features: Tensor, y: Tensor, classes: int) -> Tensor:
    """Vectors (..., F) and classes (...), broadcast, to vectors (..., F + classes): [f, e_y].

    Raises:
        ValueError: If a class is not known, and Pyro's validation is on.
    """
    if is_validation_enabled() and (y < 0).any():
        raise ValueError(
            "expected the class of every image; got -1, a label that is not known: choose --model "
            "SemiSupervised with --guide SemiSupervisedNormal, which can do without"
        )
    indicator = one_hot(y, classes).to(features)
    shape = torch.broadcast_shapes(features.shape[:-1], y.shape)
    parts = (features.expand(*shape, -1), indicator.expand(*shape, -1))
    return torch.cat(parts, dim=-1)


def point_mass(y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """The log-probabilities (..., C) of a class that is certain to be y, (...)."""
    return _LOG_ZERO * (1 - one_hot(y, classes)).to(dtype)


def draw_class(logits: Tensor, label: Tensor | None) -> Tensor:
    """The site `y` within the plate, summed out, and where there is a label the site `label`.

    p(y) = softmax(logits), and p(label|y) = [label = y]: a label is y, seen without error.

    Args:
        logits: The log-probabilities of the classes (C,), up to a constant.
        label: The labels (B,), -1 where there is none; None where there are none at all.
    """
    y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
    if label is not None:
        same = dist.Categorical(logits=point_mass(y, len(logits), logits.dtype))
        pyro.sample("label", same.mask(label >= 0), obs=label.clamp(min=0))
    return y


class Labelled(Model):
    """A model whose decoder takes the class beside z: p(x|z, y) a likelihood around a network.

    Args:
        spec: The data's shape and domain, and D; the number of classes is `spec.classes`.
        prior: p(z); a standard normal by default.
        likelihood: p(x|z, y); by default Bernoulli for binary and Gaussian for real data.
        network: Builds the decoder from its input and output shapes.

    Raises:
        ValueError: If the data have no labels.
    """

    labelled: ClassVar[bool] = True
    decodes_class: ClassVar[bool] = True
    log_classes: Tensor

    def __init__(
        self,
        spec: Spec,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
    ) -> None:
        super().__init__(spec)
        classes = check_classes(spec, "--model VAE or Mixture, which need none")
        self.prior = StandardNormal(spec) if prior is None else prior
        self.likelihood = default_likelihood(spec) if likelihood is None else likelihood
        self.decoder = network((spec.latent_dim + classes,), self.likelihood.features)
        self.register_buffer("log_classes", torch.zeros(classes), persistent=False)

    def decode(self, z: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """p(x|z, y), batch shape (...), for z (..., D) and y (...), which are broadcast.

        Without y it is p(x|z) = 1/C sum_y p(x|z, y), as if every class were as frequent.
        """
        classes = self.spec.classes
        if y is not None:
            return self.likelihood(self.decoder(with_class(z, y, classes)))
        every = self.decode(z.unsqueeze(-2), torch.arange(classes, device=z.device))
        logits = self.log_classes.expand(*z.shape[:-1], classes)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), every)
