"""The images that are to be coded, from memory or from files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.coding.written import check_name
from ppl_vae.data.folders import pictures_below
from ppl_vae.data.pictures import suffixes
from ppl_vae.data.split import Split
from ppl_vae.errors import InputError, reason, unreadable

__all__ = ["Codes", "InMemory", "Originals", "Pictures", "StoredArray", "originals_in"]

Codes = NDArray[np.uint8]  # (N, C, H, W): 0 and 1 of binary images, else bytes

ARRAY = "images.npy"


class Originals(ABC):
    """Images that are to be coded.

    Args:
        image_shape: (C, H, W), of the model.
        levels: How many values a pixel may have: 2 or 256.
    """

    def __init__(self, image_shape: Sequence[int], levels: int) -> None:
        self.image_shape = tuple(image_shape)
        self.levels = levels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, start: int, stop: int) -> Codes:
        """Some of the images.

        Raises:
            InputError: If they cannot be read, or are of another shape or kind.
        """

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What `ppl_vae.coding.written` needs to write them again, once all were read."""

    def _codes(self, pixels: Any, name: str) -> Codes:
        """Whole numbers in range (N, C, H, W), or (N, H, W) of one channel, as bytes.

        The rows of a table are (N, D), images of one channel and one row of pixels.
        """
        array = np.asarray(pixels)
        if array.ndim == 2 and self.image_shape[:2] == (1, 1):
            array = array[:, None]
        if array.ndim == 3 and self.image_shape[0] == 1:
            array = array[:, None]
        if array.ndim != 4 or array.shape[1:] != self.image_shape:
            expected, found = (
                " x ".join(map(str, shape)) for shape in (self.image_shape, array.shape[1:])
            )
            found = found if array.ndim > 2 else f"the shape {array.shape}"
            raise InputError(
                f"expected images of {expected} (channels, height, width), as the model has; "
                f"{name} has {found}; compress it with another run"
            )
        with np.errstate(invalid="ignore"):
            codes = array.astype(np.uint8)
        if array.dtype.kind not in "biuf" or (codes != array).any() or (codes >= self.levels).any():
            raise InputError(
                f"expected {_KINDS[self.levels]}, which the run is a model of; {name} has others; "
                f"{_REMEDIES[self.levels]}"
            )
        return codes


_KINDS = {2: "images of two values, 0 and 1", 256: "bytes"}
_REMEDIES = {
    2: "compress grey levels with a run of --likelihood BetaBinomial",
    256: "convert them to uint8",
}


class InMemory(Originals):
    """An array, a tensor or a split of a data set."""

    name = "the array"

    def __init__(self, images: Any, image_shape: Sequence[int], levels: int) -> None:
        super().__init__(image_shape, levels)
        self.images = images if isinstance(images, Split) else _array(images)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, start: int, stop: int) -> Codes:
        images = self.images[start:stop]
        return self._codes(images.cpu() if isinstance(images, Tensor) else images, self.name)

    def description(self) -> dict[str, Any]:
        shape = [len(self), *self.image_shape]
        return {"kind": "array", "name": ARRAY, "type": "|u1", "shape": shape}


def _array(images: Any) -> NDArray[Any]:
    try:
        array = np.asarray(images.detach().cpu() if isinstance(images, Tensor) else images)
    except ValueError as error:
        raise InputError(f"expected images of one shape ({reason(error)})") from error
    return np.atleast_1d(array)


class StoredArray(InMemory):
    """An array of bytes or truth values in a `.npy` file, which is read piece by piece."""

    def __init__(self, path: Path, image_shape: Sequence[int], levels: int) -> None:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise unreadable(path, error, "name a .npy file that numpy.save wrote") from error
        if array.dtype.str not in ("|u1", "|b1"):
            raise InputError(
                f"expected an array of uint8 or bool, of which every bit can be written again; "
                f"{path} has {array.dtype}; convert it with astype"
            )
        super().__init__(array, image_shape, levels)
        self.name = str(path)
        self.stored = {"type": array.dtype.str, "shape": [*array.shape]}

    def description(self) -> dict[str, Any]:
        return {"kind": "array", "name": Path(self.name).name} | self.stored


class Pictures(Originals):
    """Picture files, of which pixels and mode are kept: 1, L or RGB."""

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], image_shape: Sequence[int], levels: int
    ) -> None:
        super().__init__(image_shape, levels)
        self.paths = paths
        self.names = [f"{os.path.splitext(name)[0]}.png" for name in names]
        self.modes: list[str] = []
        for name in self.names:
            check_name(name)
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(
                f"expected names that differ in more than their suffix; two images would be "
                f"{twice}; rename one"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, start: int, stop: int) -> Codes:
        del self.modes[start:]
        return np.concatenate([self._read(path) for path in self.paths[start:stop]])

    def _read(self, path: Path) -> Codes:
        from PIL import Image

        try:
            with catch_warnings(), Image.open(path) as image:
                simplefilter("ignore")
                mode, pages = image.mode, getattr(image, "n_frames", 1)
                pixels = np.asarray(image)
                clear = image.has_transparency_data
        except Exception as error:
            raise unreadable(path, error, "it is damaged or no image; leave it out") from error
        wanted = (
            ("1", "L") if self.levels == 2 else ("L",) if self.image_shape[0] == 1 else ("RGB",)
        )
        if mode not in wanted or pages > 1 or clear:
            found = f"{pages} pages" if pages > 1 else "transparency" if clear else f"mode {mode}"
            raise InputError(
                f"expected pictures of mode {' or '.join(wanted)}, one page and no transparency, "
                f"of which every bit can be written again; {path} has {found}; convert it"
            )
        if self.levels == 2 and mode == "L":
            if not np.isin(pixels, (0, 255)).all():
                raise InputError(
                    f"expected pictures of two values, 0 and 255; {path} has others; {_REMEDIES[2]}"
                )
            pixels = pixels == 255
        self.modes.append(mode)
        return self._codes(
            pixels.reshape(1, *pixels.shape[:2], -1).transpose(0, 3, 1, 2), str(path)
        )

    def description(self) -> dict[str, Any]:
        modes = sorted(set(self.modes))
        shown = modes[0] if len(modes) == 1 else self.modes
        return {"kind": "pictures", "names": self.names, "modes": shown}


def originals_in(files: Sequence[Path], image_shape: Sequence[int], levels: int) -> Originals:
    """The images in one `.npy` file, or in picture files and folders of these.

    Raises:
        InputError: If there are none, or arrays beside pictures.
    """
    for file in files:
        if not file.exists():
            raise InputError(f"expected pictures, a folder or a .npy file; there is no {file}")
    if len(files) == 1 and files[0].suffix == ".npy" and files[0].is_file():
        return StoredArray(files[0], image_shape, levels)
    paths, names = [], []
    for file in files:
        if file.suffix == ".npy":
            raise InputError(f"expected one .npy file by itself; got {file} among other files")
        if file.is_dir():
            found, _ = pictures_below(file, suffixes(), "compress RUN")
            below = [os.fsdecode(name) for name in found]
            paths += [file / name for name in below]
            names += below
        else:
            paths.append(file)
            names.append(file.name)
    if not paths:
        raise InputError("expected at least one image; got none")
    return Pictures(paths, names, image_shape, levels)
