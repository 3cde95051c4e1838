"""Many alphabets, few examples of each character."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from models.spec import Domain
from ppl_vae.data.source import Images, Source, fixed_order
from ppl_vae.data.torchvision_files import TorchvisionFiles, hold_out, open_torchvision, read_image

__all__ = ["Omniglot"]

_SIZE = 28


@dataclass(frozen=True)
class Omniglot(TorchvisionFiles):
    """Handwritten characters of 50 alphabets. Lake, Salakhutdinov and Tenenbaum (2015).

    The black-on-white scans of 105 x 105 pixels are inverted, so that ink is bright, and reduced to
    28 x 28 grey levels. The background set, in a fixed order, is cut into nine tenths to train on
    and one tenth for validation; the evaluation set, whose alphabets are others, is the test. These
    are not the images that Burda et al. (2016) used, and the numbers are not comparable to theirs.
    """

    default_domain: ClassVar[Domain] = "binary"

    def _source(self) -> Source:
        background, names = self._read(background=True)
        test, test_names = self._read(background=False, first_label=len(names))
        background = background[fixed_order(len(background))]
        return hold_out(background, len(background) // 10, test, names + test_names)

    def _read(self, background: bool, first_label: int = 0) -> tuple[Images, tuple[str, ...]]:
        opened = open_torchvision(
            "Omniglot", self.root, self.download, background=background, transform=_bright_ink
        )
        read = [read_image(opened, index) for index in range(len(opened))]
        pixels = np.array([image for image, _ in read], dtype=np.uint8).reshape(-1, 1, _SIZE, _SIZE)
        labels = torch.tensor([label for _, label in read], dtype=torch.int64) + first_label
        return Images(torch.from_numpy(pixels), labels), tuple(opened._characters)


def _bright_ink(image: Any) -> np.ndarray:
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.invert(image).resize((_SIZE, _SIZE), Image.Resampling.BILINEAR))
