"""Small colour photographs: 32 x 32 pixels, three channels of 256 levels."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from models.spec import Domain
from ppl_vae.data.source import Images, Source
from ppl_vae.data.torchvision_files import TorchvisionFiles, hold_out, open_torchvision

__all__ = ["CIFAR10", "SVHN"]


@dataclass(frozen=True)
class CIFAR10(TorchvisionFiles):
    """Photographs of ten kinds of things. Krizhevsky (2009).

    45,000 to train on; the last 5,000 of the original training images for validation; the original
    10,000 test images.
    """

    default_domain: ClassVar[Domain] = "real"

    def _source(self) -> Source:
        training = open_torchvision("CIFAR10", self.root, self.download, train=True)
        test = open_torchvision("CIFAR10", self.root, self.download, train=False)
        images, test_images = (
            _images(opened.data.transpose(0, 3, 1, 2), opened.targets)
            for opened in (training, test)
        )
        return hold_out(images, len(images) // 10, test_images, training.classes)


@dataclass(frozen=True)
class SVHN(TorchvisionFiles):
    """House numbers in the street, cropped to one digit. Netzer et al. (2011).

    The last tenth of the original training images is for validation (the order is that of the
    houses, so that a house is not in both), the rest to train on; the original 26,032 test images.
    """

    default_domain: ClassVar[Domain] = "real"

    def _source(self) -> Source:
        images, test = (
            _images(opened.data, opened.labels)
            for opened in (
                open_torchvision("SVHN", self.root, self.download, split=split)
                for split in ("train", "test")
            )
        )
        return hold_out(images, len(images) // 10, test, map(str, range(10)))


def _images(pixels: np.ndarray, labels: np.ndarray | list[int]) -> Images:
    """Images from (N, C, H, W) bytes in any memory layout."""
    return Images(
        torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8)),
        torch.as_tensor(labels, dtype=torch.int64),
    )
