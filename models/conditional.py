"""A generative model of images given their labels."""

import pyro
import torch
from torch import Tensor

from models.labelled import Labelled

__all__ = ["Conditional"]


class Conditional(Labelled):
    """p(x, z|y) = p(z) p(x|z, y), the class y an input that every image has to have.

    The conditional variational autoencoder of Sohn, Lee and Yan (2015), equation (4), with a prior
    that does not depend on y. The bound and all measures are of log p(x|y).
    """

    def forward(  # type: ignore[override]
        self, x: Tensor | None = None, y: Tensor | None = None, size: int = 1
    ) -> Tensor:
        """The Pyro program.

        Args:
            x: Observed images (B, C, H, W); None draws images.
            y: Their classes (B,); where x is None, the classes of the images to draw, or None to
                draw `size` images of classes taken evenly at random.
            size: How many to draw where both are None.

        Raises:
            ValueError: If there are images without classes.
        """
        if y is None:
            if x is not None:
                raise ValueError("expected the class y of each image; got images alone")
            y = torch.randint(self.spec.classes, (size,), device=self.log_classes.device)
        with pyro.plate("data", len(y), dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observed(self.decode(z, y)), obs=x)
