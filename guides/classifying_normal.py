"""The encoder of images of which some have a label, classified by the clusters of the model."""

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from guides.diagonal_normal import DiagonalNormal
from models.labelled_mixture import LabelledMixture
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.spec import Spec

__all__ = ["ClassifyingNormal"]


class ClassifyingNormal(DiagonalNormal):
    """q(z|x) of `DiagonalNormal`, with the classifier q(y|x) = p(y|z) at the mean of q(z|x).

    For `LabelledMixture`. The class is summed out in the model, whose p(y|z) is the optimal
    q(y|x, z) (Jiang et al., 2017, equation 16), so that a classifier needs no parameters of its
    own: its loss moves images with a label and the cluster of their class towards each other.
    Labels do not change q(z|x).

    Args:
        spec: The data's shape and domain, and D.
        model: A `LabelledMixture`.
        network: Builds the encoder from its input and output shapes.

    Raises:
        ValueError: If the model is another.
    """

    def __init__(self, spec: Spec, model: Model, network: NetworkFactory = MLP) -> None:
        super().__init__(spec, network)
        if not isinstance(model, LabelledMixture):
            raise ValueError(
                f"expected a LabelledMixture, by whose clusters images are classified; got "
                f"{type(model).__name__}"
            )
        self.log_responsibilities = model.log_responsibilities

    def classify(self, x: Tensor) -> TorchDistribution:
        """q(y|x), batch shape (B,), for images (B, C, H, W)."""
        mean = self.posterior_of(self.encode(x)).mean
        return dist.Categorical(logits=self.log_responsibilities(mean))

    def posterior(self, x: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """q(z|x), batch shape (B,) and event shape (D,), whatever the class y."""
        return super().posterior(x)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """The Pyro program.

        Args:
            x: Images (B, C, H, W).
            label: Their labels, which are not looked at.
        """
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))
