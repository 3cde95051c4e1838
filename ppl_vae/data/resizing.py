"""Pictures at another size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Resizing"]


@dataclass(frozen=True)
class Resizing:
    """Brings pictures to a size, by Pillow's bilinear filter.

    Where a picture is made smaller, the filter covers all pixels that a new one stands for: there
    is no aliasing.

    Args:
        size: Height and width.
        crop: Whether the middle part of these proportions is taken before; a picture of other
            proportions is stretched otherwise.
    """

    size: tuple[int, int]
    crop: bool

    def __call__(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """A picture (C, H, W), uint8 or int32, at that size."""
        from PIL import Image, ImageOps

        width_and_height, bilinear = self.size[::-1], Image.Resampling.BILINEAR
        new = np.empty((len(pixels), *self.size), pixels.dtype)
        for place, channel in enumerate(pixels):
            # Whole numbers of 16 bits are exact as floating-point ones.
            floats = channel if channel.dtype == np.uint8 else channel.astype(np.float32)
            picture = Image.fromarray(floats)
            if self.crop:
                picture = ImageOps.fit(picture, width_and_height, bilinear)
            else:
                picture = picture.resize(width_and_height, bilinear)
            new[place] = np.asarray(picture).round()
        return new
