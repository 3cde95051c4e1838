"""Small colour photographs: 32 x 32 pixels, three channels of 256 levels."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.source import Images, Source
from ppl_vae.data.split import Data
from ppl_vae.data.torchvision_files import TorchvisionFiles, hold_out, open_torchvision

__all__ = ["CIFAR10", "SVHN"]


@dataclass(frozen=True)
class CIFAR10(TorchvisionFiles):
    """Photographs of ten kinds of things. Krizhevsky (2009).

    45,000 to train on; the last 5,000 of the original training images for validation; the original
    10,000 test images.
    """

    default_domain: ClassVar[Domain] = "real"

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        training = open_torchvision("CIFAR10", self.root, self.download, train=True)
        test = open_torchvision("CIFAR10", self.root, self.download, train=False)
        images, test_images = (
            _images(opened.data.transpose(0, 3, 1, 2), opened.targets)
            for opened in (training, test)
        )
        train, validation = hold_out(images, len(images) // 10)
        return conversion(Source(train, validation, test_images, tuple(training.classes)), seed)


@dataclass(frozen=True)
class SVHN(TorchvisionFiles):
    """House numbers in the street, cropped to one digit. Netzer et al. (2011).

    The last tenth of the original training images is for validation (the order is that of the
    houses, so that a house is not in both), the rest to train on; the original 26,032 test images.
    """

    default_domain: ClassVar[Domain] = "real"

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        images, test = (
            _images(opened.data, opened.labels)
            for opened in (
                open_torchvision("SVHN", self.root, self.download, split=split)
                for split in ("train", "test")
            )
        )
        train, validation = hold_out(images, len(images) // 10)
        names = tuple(str(digit) for digit in range(10))
        return conversion(Source(train, validation, test, names), seed)


def _images(pixels: np.ndarray, labels: np.ndarray | list[int]) -> Images:
    """Images from (N, C, H, W) bytes in any memory layout."""
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8)),
        torch.as_tensor(labels, dtype=torch.int64),
    )
