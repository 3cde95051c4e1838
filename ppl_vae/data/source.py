"""Images as they are stored, and how they are cut into splits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError

__all__ = ["Images", "Source", "fixed_order", "split_tenths"]

_ORDER_SEED = 20131220


@dataclass(frozen=True, eq=False)
class Images:
    """Images as they are stored.

    Args:
        pixels: (N, C, H, W), uint8 grey levels (0 and 1 where the images are binary) or float32;
            `Stored` where they stay in their files.
        labels: (N,) int64, or None.

    Raises:
        InputError: If there are none, or not one label for each.
    """

    pixels: Tensor | Stored
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or 0 in shape:
            raise InputError(f"expected images of shape (N, C, H, W), N >= 1; got {shape}")
        if self.labels is not None and self.labels.shape != shape[:1]:
            raise InputError(
                f"expected one label for each of {shape[0]:,} images; got labels of shape "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> "Images":
        labels = None if self.labels is None else self.labels[index]
        if isinstance(self.pixels, Stored):
            return Images(self.pixels.select(index), labels)
        return Images(self.pixels[index], labels)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it is stored, cut into splits.

    Args:
        train: The training images.
        validation: The validation images.
        test: The test images.
        class_names: What the labels 0, 1, ... mean, where it is known.
    """

    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...] | None = None


def fixed_order(count: int) -> Tensor:
    """A permutation of 0, ..., count - 1 that is the same in every run."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_ORDER_SEED))


def split_tenths(images: Images, class_names: tuple[str, ...] | None = None) -> Source:
    """Cuts images in the fixed order: a tenth each for validation and test, the rest to train on.

    Raises:
        InputError: If there are fewer than three images.
    """
    if len(images) < 3:
        raise InputError(
            f"expected at least 3 images, one for each of training, validation and test; got "
            f"{len(images)}; add images"
        )
    tenth = max(1, len(images) // 10)
    test, validation, train = fixed_order(len(images)).tensor_split([tenth, 2 * tenth])
    return Source(images[train], images[validation], images[test], class_names)
