"""A generative model of images of which some have a label."""

from typing import ClassVar

import pyro
from torch import Tensor

from models.labelled import Labelled, draw_class

__all__ = ["SemiSupervised"]


class SemiSupervised(Labelled):
    """p(x, y, z) = p(y) p(z) p(x|z, y), y the class and z the rest, p(y) uniform.

    Model M2 of Kingma, Rezende, Mohamed and Welling (2014), equation (2). The class is a latent
    site that is summed out exactly. A label is an observation of it without error,
    p(label|y) = [label = y], and is missing for most images: one program is that of labelled and
    of unlabelled images, equations (6) and (7).
    """

    enumerated: ClassVar[tuple[str, ...]] = ("y",)

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
            y = draw_class(self.log_classes, label)
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observed(self.decode(z, y)), obs=x)
