"""Images that are not of the data set of a run, converted by the rules of that data set.

Each becomes what it would be as a test image. Whole numbers are grey levels 0, ..., L - 1 of the
run's data, truth values are 0 and 1, and pictures have 256 levels, or 65,536 where they have 16
bits. Of pictures the intensity counts where the domain is `binary` or `unit`; elsewhere their
levels have to be those of the run. Floating-point numbers are values in the domain, or where the
run's data are floating-point numbers, values such as those. Where the run's data are grey levels
with missing pixels, which are stored as floating-point numbers, whole ones of these are grey levels
if one is above 1.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ppl_vae.data.classes import class_number
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.in_memory import part_of
from ppl_vae.data.levels import DEEPEST, as_int32
from ppl_vae.data.new_values import (
    are_grey_levels,
    check_floats,
    check_shape,
    fitting,
    grey_levels,
)
from ppl_vae.data.pictures import read_header, read_pixels
from ppl_vae.data.resizing import Resizing
from ppl_vae.data.source import Images
from ppl_vae.data.split import Facts, Split
from ppl_vae.errors import InputError, kind

__all__ = ["image_tensor", "new_split"]

_BYTES = 256


def new_split(images: Any, facts: Facts, labels: Any = None) -> Split:
    """Images as a split in the domain of a run; their noise is drawn once, and always alike.

    Args:
        images: A `Split` of that domain; an array or a tensor, (N, C, H, W), (N, H, W) of one
            channel, or one image without N; of a run on a table its rows (N, D), or one (D,), of
            any type of number; a picture that Pillow has opened or the path of one;
            a list of these; any of them with labels, as a pair (images, labels); or a map-style
            torch `Dataset`. Pictures are read as `ImageFolder` reads them, and become grey, and of
            another size, where the run's data did.
        facts: Of the run's data.
        labels: For each image the number of its class or its name, -1 where it is not known.

    Raises:
        InputError: If the images, or the labels, are none that the run's data could have.
    """
    if _is_pair(images):
        if labels is not None:
            raise InputError("expected labels once; got a pair (images, labels) and labels")
        images, labels = images
    elif isinstance(images, Dataset | DataLoader):
        part = part_of(images, "images")
        images, labels = part.images, part.labels if labels is None else labels
    split = _converted(images, facts)
    return split if labels is None else replace(split, labels=_labels(labels, facts, len(split)))


def _is_pair(images: Any) -> bool:
    """Whether it is images with their labels, and not two images."""
    if not isinstance(images, tuple) or len(images) != 2:
        return False
    first, second = images
    if not isinstance(first, np.ndarray | Tensor | list):
        return False
    return second is None or (not _is_picture(second) and np.ndim(second) <= 1)


def _converted(images: Any, facts: Facts) -> Split:
    """The images without labels, but for those that a split has."""
    if isinstance(images, Split):
        check_shape(images.raw.shape, facts)
        return images
    if isinstance(images, str | Path) or _is_picture(images):
        images = [images]
    if isinstance(images, Sequence) and not len(images):
        raise InputError("expected at least one image; got none")
    if isinstance(images, Sequence) and (
        isinstance(images[0], str | Path) or _is_picture(images[0])
    ):
        pixels, levels = _of_pictures(images, facts)
        paths = [os.fsencode(each) for each in images if isinstance(each, str | Path)]
        names = np.array(paths) if len(paths) == len(images) else None
        return _conversion(facts, levels).once(Images(pixels, names=names))
    pixels = image_tensor(images, facts.image_shape[0], facts.table)
    check_shape(pixels.shape, facts)
    if pixels.dtype == torch.bool:
        if facts.domain != "binary":
            raise InputError(
                f"truth values are binary images, and the run's are {facts.domain} images; give "
                f"{fitting(facts)}"
            )
        return _conversion(facts, 2).once(Images(pixels.to(torch.uint8)))
    if are_grey_levels(pixels, facts):
        return _conversion(facts, facts.levels).once(Images(grey_levels(pixels, facts)))
    check_floats(pixels, facts)
    if facts.levels is None:
        return _conversion(facts, None).once(Images(pixels), facts.moments)
    return Split(pixels, None, torch.Tensor.float)


def _conversion(facts: Facts, levels: int | None) -> Conversion:
    """The run's, for images of so many levels; those of two values are not binarised."""
    binarize = "none" if levels == 2 else facts.binarize
    return Conversion(facts.name, facts.domain, levels, binarize, facts.dequantize, facts.scale)


def _is_picture(image: Any) -> bool:
    if isinstance(image, np.ndarray | Tensor):
        return False
    from PIL import Image

    return isinstance(image, Image.Image)


def image_tensor(images: Any, channels: int, table: bool = False) -> Tensor:
    """An array, a tensor or a list of these as (N, C, H, W) on the CPU: bool, int32 or float32.

    Args:
        images: Images of so many channels, the rows (N, D) of a table, or one of them.
        channels: C.
        table: Whether they are rows, which become float32.
    """
    pixels = _tensor(images, table)
    if table and pixels.dim() in (1, 2):
        return pixels.reshape(-1, 1, 1, pixels.shape[-1])
    if pixels.dim() == 2 and channels == 1:
        return pixels[None, None]
    if pixels.dim() == 3:
        return pixels[:, None] if channels == 1 else pixels[None]
    return pixels


def _tensor(images: Any, table: bool) -> Tensor:
    if isinstance(images, Sequence):
        images = [each.cpu() if isinstance(each, Tensor) else each for each in images]
        if len({np.shape(each) for each in images}) > 1:
            raise InputError("expected images of one shape; got several; crop or resize them")
    if isinstance(images, Tensor) and images.is_floating_point():
        return images.detach().float().cpu()
    array = np.asarray(images.cpu() if isinstance(images, Tensor) else images)
    if array.dtype.kind not in "biuf":
        of = "" if images is None else f" of {array.dtype}"
        raise InputError(
            "expected an array or a tensor of numbers, pictures, or paths of picture files; got "
            f"{kind(images)}{of}"
        )
    if array.dtype.kind in "iu" and not table:
        return torch.from_numpy(as_int32(array))
    truths = array.dtype.kind == "b" and not table
    return torch.from_numpy(np.array(array, bool if truths else np.float32))


def _of_pictures(pictures: Sequence[Any], facts: Facts) -> tuple[Tensor, int]:
    """The pixels of pictures, (N, C, H, W), and how many grey levels they have."""
    if facts.table:
        raise InputError("expected rows of a table, as the run's data are; got pictures")
    channels, height, width = facts.image_shape
    resizing = None if facts.crop is None else Resizing((height, width), facts.crop == "center")
    pixels: list[NDArray[Any]] = []
    depths = set()
    for number, each in enumerate(pictures):
        opened = _is_picture(each)
        if not opened and not isinstance(each, str | Path):
            raise InputError(
                f"expected pictures and paths of picture files; got {type(each).__name__} among "
                "them"
            )
        picture = each if opened else Path(each).expanduser()
        name = f"picture {number}" if opened else str(picture)
        if not opened and not picture.is_file():
            remedy = "name a file, or give ImageFolder(path=...) for all images in a folder"
            found = "a folder" if picture.is_dir() else "none"
            raise InputError(f"expected a picture file at {picture}; there is {found}; {remedy}")
        header = read_header(picture)
        if resizing is None and header.size != (width, height):
            raise InputError(
                f"expected pictures of {width} x {height} pixels, as the run's are; {name} has "
                f"{header.size[0]} x {header.size[1]}; crop or resize it"
            )
        # Of 16-bit colours that were opened before, Pillow has the high bytes alone.
        deep = header.deep and (not opened or each.mode[0] == "I")
        depths.add(deep)
        read = read_pixels(picture, channels, deep)
        pixels.append(read if resizing is None else resizing(read))
    if len(depths) > 1:
        raise InputError("expected pictures all of 8 bits or all of 16; got both; save them alike")
    raw = torch.from_numpy(np.stack(pixels))
    levels = DEEPEST if depths.pop() else _BYTES
    if levels == DEEPEST and (facts.levels or 0) > _BYTES:
        levels = facts.levels or levels  # the bits in use
    return _as_the_run(raw, levels, facts)


def _as_the_run(raw: Tensor, levels: int, facts: Facts) -> tuple[Tensor, int]:
    """The grey levels of pictures, and how many there are, once they are known to fit."""
    least, most = int(raw.min()), int(raw.max())
    if not 0 <= least <= most < levels:
        raise InputError(f"expected grey levels of 0 to {levels - 1:,}; got {least} to {most:,}")
    by_intensity = facts.domain in ("binary", "unit") and facts.levels != 2
    if by_intensity or levels == facts.levels:
        return raw, levels
    if facts.levels == 2:
        if not ((raw == 0) | (raw == levels - 1)).all():
            raise InputError(
                "expected pictures of black and white alone, as the run's data are; got greys; "
                "choose a threshold, as with picture.point(lambda value: 255 * (value > 127))"
            )
        return (raw > 0).to(torch.uint8), 2
    raise InputError(
        f"a picture has {levels:,} grey levels and the run's data "
        f"{f'{facts.levels:,}' if facts.levels else 'none'}; give an array of {fitting(facts)}"
    )


def _labels(labels: Any, facts: Facts, count: int) -> Tensor:
    """The numbers of the classes of so many images."""
    if isinstance(labels, Tensor):
        labels = labels.cpu().numpy()
    array = np.atleast_1d(np.asarray(labels))
    if array.shape != (count,) or array.dtype.kind not in "iuU":
        raise InputError(
            f"expected one label for each of {count:,} images, the number of its class or its "
            f"name; got labels of {array.dtype} and of shape {array.shape}"
        )
    if array.dtype.kind != "U" and array.min() < -1:
        raise InputError(f"expected labels of 0, 1, ..., or -1 for none; got {array.min()}")
    numbers = {
        each: -1 if each == -1 else class_number("labels", each, facts.class_names or ())
        for each in set(array.tolist())
    }
    return torch.tensor([numbers[each] for each in array.tolist()], dtype=torch.int64)
