"""The facts that data and user fix before anything is constructed."""

from dataclasses import dataclass
from math import inf, prod
from typing import Literal, get_args

import torch
from torch import Tensor

from models.ranges import check_count

__all__ = ["DOMAINS", "Domain", "Shape", "Spec"]

Domain = Literal["binary", "unit", "bytes", "real"]
Shape = tuple[int, ...]

DOMAINS: tuple[Domain, ...] = get_args(Domain)

_BOUNDS = {"binary": (0, 1), "unit": (0, 1), "bytes": (0, 255), "real": (-inf, inf)}
_WHOLE = ("binary", "bytes")


@dataclass(frozen=True)
class Spec:
    """The facts that every swappable piece is built from.

    Args:
        image_shape: (C, H, W) of one image.
        domain: Of the pixels: `binary` {0, 1}, `unit` [0, 1], `bytes` {0, ..., 255} or
            `real`. A likelihood is a mass or density on exactly one domain.
        latent_dim: D, the dimension of z.
        classes: How many labels 0, 1, ... the data have; 0 where they have none.
        holes: Whether images may have missing pixels, which are NaN.

    Raises:
        ValueError: If a size is below 1 or the domain is unknown.
    """

    image_shape: tuple[int, int, int]
    domain: Domain
    latent_dim: int
    classes: int = 0
    holes: bool = False

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3 or min(self.image_shape) < 1:
            raise ValueError(
                f"expected image_shape (C, H, W) of sizes >= 1; got {self.image_shape}"
            )
        if self.domain not in DOMAINS:
            raise ValueError(f"expected a domain of {', '.join(DOMAINS)}; got {self.domain!r}")
        check_count("latent_dim", self.latent_dim)
        check_count("classes", self.classes, least=0)

    @property
    def pixels(self) -> int:
        """C H W, the number of values in one image."""
        return prod(self.image_shape)

    @property
    def encoder_shape(self) -> Shape:
        """The shape of one image in `network_input`; with holes there is a mask of each channel."""
        channels, height, width = self.image_shape
        return (2 * channels if self.holes else channels, height, width)

    def check_images(self, x: Tensor) -> None:
        """Looks whether a tensor is a batch of images, (B, C, H, W), in the domain.

        With holes, NaN is in every domain.

        Raises:
            ValueError: If it is not.
        """
        shape = tuple(x.shape)
        if x.dim() != 4 or shape[1:] != self.image_shape:
            expected = f"expected images of shape (B, {', '.join(map(str, self.image_shape))})"
            channels, *sides = self.image_shape
            last = x.dim() == 4 and shape[1:] == (*sides, channels)
            remedy = "; x.permute(0, 3, 1, 2) puts the channels first" if last else ""
            raise ValueError(f"{expected}; got {shape}{remedy}")
        if not self.holes and x.isnan().any():
            raise ValueError(
                "expected images without missing pixels (NaN), as the pair was built for; build "
                "one with Spec(..., holes=True)"
            )
        x = x[~x.isnan()] if self.holes else x
        least, most = _BOUNDS[self.domain]
        fits = x.isfinite() & (x >= least) & (x <= most)
        if not (fits & (x == x.round()) if self.domain in _WHOLE else fits).all():
            self._refuse(x)

    def check_range(self, x: Tensor) -> None:
        """Looks whether values lie between the bounds of the domain, whole numbers or not.

        Raises:
            ValueError: If some do not.
        """
        x = x[~x.isnan()] if self.holes else x
        least, most = _BOUNDS[self.domain]
        if most < inf and not bool((x >= least).all() & (x <= most).all()):
            self._refuse(x)

    def _refuse(self, x: Tensor) -> None:
        raise ValueError(
            f"expected {self.domain} images, as the pair was built for; got values from "
            f"{x.min():g} to {x.max():g}; convert them as the data set of the pair does"
        )

    def check_labels(self, y: Tensor) -> None:
        """Looks whether labels are classes of the data, or -1.

        Raises:
            ValueError: If they are not.
        """
        if y.dtype != torch.int64:
            raise ValueError(f"expected labels of torch.int64; got {y.dtype}")
        if ((y < -1) | (y >= self.classes)).any():
            raise ValueError(
                f"expected labels of 0 to {self.classes - 1}, or -1 where there is none; got "
                f"{int(y.min())} to {int(y.max())}"
            )

    def network_input(self, x: Tensor) -> Tensor:
        """Images scaled for a network: bytes to [0, 1], the other domains as they are.

        With holes a missing pixel is 0, and the mask follows the image as further channels, 1
        where a pixel is observed. Before an affine layer any other fill would be the same, since
        the layer can add a constant by the mask.
        """
        if not self.holes:
            return x / 255 if self.domain == "bytes" else x
        missing = x.isnan()
        x = x.masked_fill(missing, 0)
        return torch.cat([x / 255 if self.domain == "bytes" else x, (~missing).to(x)], dim=-3)
