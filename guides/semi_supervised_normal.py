"""The classifier and the encoder of images of which some have a label."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.conditional_normal import ConditionalNormal
from models.labelled import point_mass
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.spec import Spec

__all__ = ["SemiSupervisedNormal"]


class SemiSupervisedNormal(ConditionalNormal):
    """q(y, z|x) = q(y|x) q(z|x, y), a classifier and the encoder of `ConditionalNormal`.

    Kingma, Rezende, Mohamed and Welling (2014), section 3.1.2. A label is a posterior that is
    certain: where there is one, q(y|x) is a point mass on it. The class is not drawn, but takes
    all its values, each with its probability.

    Args:
        spec: The data's shape and domain, and D; the number of classes is `spec.classes`.
        network: Builds the classifier and f from their input and output shapes.
        features: How many h has, and units the hidden layer.
    """

    def __init__(self, spec: Spec, network: NetworkFactory = MLP, features: int = 200) -> None:
        super().__init__(spec, network, features)
        self.classifier = network(spec.encoder_shape, (self.classes,))

    def classify(self, x: Tensor) -> TorchDistribution:
        """q(y|x), batch shape (B,), for images (B, C, H, W) whose label is not looked at."""
        return dist.Categorical(logits=self.classifier(self.spec.network_input(x)))

    def posterior(self, x: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """q(z|x, y), as in `ConditionalNormal`, or without y q(z|x) = sum_y q(y|x) q(z|x, y)."""
        if y is not None:
            return super().posterior(x, y)
        self.check_range(x)
        every = torch.arange(self.classes, device=x.device)
        return dist.MixtureSameFamily(
            self.classify(x), self._normal(self._features(x).unsqueeze(-2), every)
        )

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The Pyro program.

        Args:
            x: Images (B, C, H, W).
            label: Their labels (B,), -1 where there is none; None where there are none at all.
        """
        log_classes = self.classify(x).logits
        if label is not None:
            certain = point_mass(label.clamp(min=0), self.classes, log_classes.dtype)
            log_classes = torch.where((label >= 0).unsqueeze(-1), certain, log_classes)
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample(
                "y", dist.Categorical(logits=log_classes), infer={"enumerate": "parallel"}
            )
            return pyro.sample("z", self.posterior(x, y))
