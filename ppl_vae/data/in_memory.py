"""Images that a script has in memory: arrays, tensors, torch's data sets, and their labels."""

from collections.abc import Sequence
from contextlib import nullcontext
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ppl_vae.data.array_part import Part
from ppl_vae.data.pictures import read_header, read_pixels
from ppl_vae.errors import InputError
from ppl_vae.machine.progress import Progress

__all__ = ["part_of"]

_MANY = 5_000  # items of a data set that take long enough to say so
_KINDS = (
    "an array or a tensor of shape (N, H, W), (N, C, H, W) or (N, D), a pair (images, labels) of "
    "these, or a map-style torch Dataset"
)


def part_of(value: Any, where: str) -> Part:
    """Images in memory, with their labels where they have some.

    Args:
        value: An array, a tensor, a pair of images and labels, or a map-style torch `Dataset`.
        where: What to call it in errors.

    Raises:
        InputError: If it is none of these, or an item of the data set is no image.
    """
    if isinstance(value, DataLoader):
        raise InputError(f"{where}: expected {_KINDS}; got a DataLoader; give its .dataset")
    if isinstance(value, IterableDataset):
        raise InputError(
            f"{where}: expected {_KINDS}; got an IterableDataset, which has no length; give a "
            "Dataset with __len__ and __getitem__"
        )
    if isinstance(value, Dataset):
        return _of_items(value, where)
    images, labels = value, None
    if isinstance(value, tuple) and len(value) == 2:
        images, labels = value
    if not isinstance(images, np.ndarray | Tensor):
        raise InputError(f"{where}: expected {_KINDS}; got {_kind(value)}")
    return Part(_array(images), None if labels is None else _labels(labels, where), where)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value!r}; a data set is given as in data=MNIST(root='data')"
    if isinstance(value, Sequence):
        return f"a {type(value).__name__} of {len(value)}; stack images with numpy.stack"
    if hasattr(value, "to_numpy"):
        return f"a {type(value).__name__}; give its .to_numpy()"
    return type(value).__name__


def _array(images: np.ndarray | Tensor) -> np.ndarray:
    if not isinstance(images, Tensor):
        return images
    images = images.detach().cpu()
    return (images.float() if images.dtype == torch.bfloat16 else images).numpy()


def _labels(labels: Any, where: str) -> np.ndarray:
    try:
        return _array(labels) if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError as error:
        raise InputError(f"{where}: expected labels of shape (N,); got a list of lists") from error


def _of_items(data_set: Dataset, where: str) -> Part:
    """The items of a map-style data set, read in their order."""
    try:
        count = len(data_set)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"{where}: expected a Dataset with __len__; {_kind(data_set)} has none"
        ) from error
    if count == 0:
        raise InputError(f"{where}: expected images; the {_kind(data_set)} is empty")
    progress = Progress(f"reading {where}", count, "images") if count >= _MANY else None
    images: list[NDArray[Any]] = []
    labels: list[int] = []
    with progress or nullcontext():
        for index in range(count):
            image, label = _item(data_set[index], f"{where}[{index}]")
            images.append(image)
            labels += [] if label is None else [label]
            if len(labels) not in (0, len(images)) or (labels and label is None):
                raise InputError(f"{where}[{index}]: expected labels of all images or of none")
            if progress:
                progress.advance(1)
    return Part(_stacked(images, where), np.array(labels) if labels else None, where)


def _item(item: Any, where: str) -> tuple[NDArray[Any], int | None]:
    """An image, (H, W) or (C, H, W), and its label."""
    image, *labels = item if isinstance(item, tuple | list) and len(item) in (1, 2) else [item]
    for label in labels:
        scalar = label.item() if isinstance(label, Tensor) and label.numel() == 1 else label
        if not isinstance(scalar, Integral):
            raise InputError(f"{where}: expected a whole number as label; got {label!r}")
        labels = [int(scalar)]
    if not isinstance(image, np.ndarray | Tensor):
        from PIL import Image

        if not isinstance(image, Image.Image):
            raise InputError(
                f"{where}: expected an array, a tensor or a picture, or a pair of one and its "
                f"label; got {_kind(image)}"
            )
        header = read_header(image)
        image = read_pixels(image, 3 if header.colour else 1, header.deep)
    return _array(image), labels[0] if labels else None


def _stacked(images: list[NDArray[Any]], where: str) -> NDArray[Any]:
    """All images as one array; among pictures in colour, grey ones become colour."""
    shapes = {image.shape[-3:] for image in images}
    if {shape[0] for shape in shapes if len(shape) == 3} == {1, 3}:
        images = [image if len(image) == 3 else image.repeat(3, axis=0) for image in images]
    first = images[0]
    for index, image in enumerate(images):
        if (image.shape, image.dtype) != (first.shape, first.dtype):
            kinds = " and ".join(f"{each.dtype} of shape {each.shape}" for each in (first, image))
            raise InputError(
                f"expected images of one shape and type; got {kinds} in {where}[0] and "
                f"{where}[{index}]; resize or convert them"
            )
    return np.stack(images)
