"""Faces of celebrities."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from models.spec import Domain
from ppl_vae.data.source import Images, Source
from ppl_vae.data.torchvision_files import TorchvisionFiles, open_torchvision, read_image
from ppl_vae.errors import InputError

__all__ = ["CelebA"]

_CROP = 148
_SIZE = 64


@dataclass(frozen=True)
class CelebA(TorchvisionFiles):
    """202,599 faces. Liu, Luo, Wang and Tang (2015).

    The middle 148 x 148 pixels of each aligned photograph, reduced to 64 x 64; the authors' splits.
    Reading takes minutes, and the images 2.5 GB.

    Args:
        attribute: Which of the 40 annotations is the label: 1 where the face has it, else 0.
    """

    attribute: str = "Smiling"
    default_domain: ClassVar[Domain] = "real"

    def _source(self) -> Source:
        train, validation, test = (self._read(split) for split in ("train", "valid", "test"))
        names = (f"not {self.attribute}", self.attribute)
        return Source(train, validation, test, names)

    def _read(self, split: str) -> Images:
        opened = open_torchvision("CelebA", self.root, self.download, split=split, transform=_face)
        attributes = [name for name in opened.attr_names if name]
        if self.attribute not in attributes:
            raise InputError(
                f"expected --data.attribute of {', '.join(attributes)}; got {self.attribute!r}"
            )
        pixels = np.empty((len(opened.filename), 3, _SIZE, _SIZE), dtype=np.uint8)
        for index in range(len(pixels)):
            pixels[index] = read_image(opened, index)[0]
        labels = opened.attr[:, attributes.index(self.attribute)].long()
        return Images(torch.from_numpy(pixels), labels)


def _face(image: Any) -> np.ndarray:
    from PIL import Image

    left, top = ((side - _CROP) // 2 for side in image.size)
    image = image.convert("RGB").crop((left, top, left + _CROP, top + _CROP))
    small = image.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)
