"""A generative model with a cluster for each class, of images of which some have a label."""

from typing import ClassVar

import numpy as np
import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.labelled import check_classes, draw_class
from models.likelihoods.likelihood import Likelihood
from models.mixture import Mixture
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.spec import Spec

__all__ = ["LabelledMixture"]

_NEIGHBOURS = 20
_SPREAD = 0.99  # the weight of the neighbours, against that of the label given; as in the paper
_ROUNDS = 1000


class LabelledMixture(Mixture):
    """p(x, y, z) = p(y) p(z|y) p(x|z), p(z|y) = N(z; mu_y, L_y L_y^T): y is the class.

    The `Mixture` of Jiang et al. (2017), of which y is observed where there is a label,
    p(label|y) = [label = y]. With z = mu_y + L_y u and u ~ N(0, I) the model is M2 of Kingma,
    Rezende, Mohamed and Welling (2014), equation (2), p(y) p(u) p(x|u, y), with a decoder that
    begins with a linear map of its own for each class; the guide `ClassifyingNormal` is another
    than theirs. The classes share a space of z, which the images without labels shape too. Since x
    depends on y through z only, the decoder runs once for all classes.

    Args:
        spec: The data's shape and domain, and D; there are `spec.classes` clusters.
        likelihood: p(x|z); by default Bernoulli for binary and Gaussian for real data.
        network: Builds the decoder from its input and output shapes.
        full_rank: Whether the dimensions of z are correlated within a cluster.

    Raises:
        ValueError: If the data have no labels or one class, or full_rank is not a bool.
    """

    labelled: ClassVar[bool] = True

    def __init__(
        self,
        spec: Spec,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
        full_rank: bool = False,
    ) -> None:
        classes = check_classes(spec, "--model Mixture, which needs none")
        if classes == 1:
            raise ValueError("expected images of several classes; these are all of one")
        super().__init__(spec, likelihood, network, classes, full_rank)

    def fit_codes(self, z: Tensor, labels: Tensor | None, seed: int) -> None:
        """Starts each cluster as the normal of the draws of z to which its label spreads.

        A label spreads from neighbour to neighbour (Zhou, Bousquet, Lal, Weston and Schoelkopf,
        2004), so that the few that there are follow the bent sheets in which classes lie in z.
        Draws that no label reaches are left out.

        Args:
            z: One draw of q(z|x) for each of N images, (N, D).
            labels: Of the images, (N,), -1 where there is none.
            seed: Is not used: nothing is drawn.

        Raises:
            ValueError: If a class has no label.
        """
        from sklearn.semi_supervised import LabelSpreading

        assert labels is not None
        z = z.double().cpu()
        classes = range(len(self.logits))
        if missing := set(classes) - set(labels.tolist()):
            raise ValueError(
                f"expected a label of each class among {len(z):,} training images; class number "
                f"{min(missing)} has none; label some"
            )
        neighbours = min(_NEIGHBOURS, len(z) - 1)
        spreading = LabelSpreading("knn", n_neighbors=neighbours, alpha=_SPREAD, max_iter=_ROUNDS)
        given = labels.cpu().numpy()
        found = spreading.fit(z.numpy(), given).transduction_
        found[spreading.label_distributions_.sum(1) == 0] = -1
        found = np.where(given >= 0, given, found)  # else a class may lose the images that it has
        self.fit_clusters([z[found == y] for y in classes], pooled=z.shape[1])

    def decode(self, z: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """p(x|z), batch shape (...), for z (..., D), whatever the class y."""
        return super().decode(z)

    def forward(  # type: ignore[override]
        self, x: Tensor | None = None, label: Tensor | None = None, size: int = 1
    ) -> Tensor:
        """The Pyro program.

        Args:
            x: Observed images (B, C, H, W); None draws `size` images from p(x).
            label: Their labels (B,), -1 where there is none; None where there are none at all.
            size: How many to draw where x is None.
        """
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            y = draw_class(self.logits, label)
            z = pyro.sample("z", self.component(y))
            return pyro.sample("x", self.observed(self.decode(z)), obs=x)
