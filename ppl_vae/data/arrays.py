"""A user's own arrays."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from models.ranges import check_choice
from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.levels import DEEPEST, grey_levels, two_values
from ppl_vae.data.own_files import OwnFiles
from ppl_vae.data.source import Images, classes_remark, split_tenths
from ppl_vae.data.split import Data
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError, unreadable

__all__ = ["Arrays"]

_RESAVE = "save it again with numpy.save or numpy.savez, as plain numbers"


@dataclass(frozen=True)
class Arrays(OwnFiles):
    """The images in a NumPy file: `.npy`, or `.npz` with `images` and, optionally, `labels`.

    Of shape (N, H, W) or (N, C, H, W), and of one of these types: bool; whole numbers of 0 to
    65,535, which are grey levels of as many bits (8, 10, 12, 14 or 16) as the largest needs; or
    finite floating-point numbers. Images of two values are binary. In a fixed order, eight tenths
    are to train on, one for validation and one for the test. Files of any size are mapped into
    memory piece by piece, except a `.npz` that is compressed.

    Labels are whole numbers, -1 where one is unknown; where they skip some, each that there is
    names a class.

    Args:
        path: The file.
        scale: `standard` takes the mean of all values of the training images from each
            floating-point value, and divides by their standard deviation.
    """

    path: Path
    scale: Literal["none", "standard"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--data.scale", self.scale, ("none", "standard"))

    @property
    def default_domain(self) -> Domain:
        array = self._read()[0]
        if self.rules == 1 or array.dtype == np.bool_:
            return "binary" if array.dtype == np.bool_ else "real"
        _check(array, self._file)
        return "binary" if two_values(self._pixels(array)) else "real"

    def load(self, domain: Domain, seed: int) -> Data:
        array, given, left_out = self._read()
        _check(array, self._file)
        labels, names = (None, None) if given is None else _labels(given, self._file, self.rules)
        pixels, levels, remark = self._held(self._pixels(array)), None, ""
        if self.rules == 1 or array.dtype == np.bool_:
            levels = {"b": 2, "u": 256}.get(array.dtype.kind)
        elif not pixels.dtype.is_floating_point or (domain == "binary" and two_values(pixels)):
            pixels, levels, remark = grey_levels(pixels, str(self._file))
        conversion = Conversion.choose(self, domain, levels)
        source = split_tenths(Images(pixels, labels), names)
        remarks = remark, classes_remark(labels, names), left_out
        return conversion(replace(source, remarks=remarks), seed)

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()

    def _read(self) -> tuple[np.ndarray, np.ndarray | None, str]:
        """The images, mapped where that can be, labels, and a remark on what else there is.

        Nothing pickled is ever read.
        """
        path = self._file
        if path.suffix not in (".npy", ".npz"):
            raise InputError(
                f"expected a .npy or .npz file; got {path}; save the images with numpy.save"
            )
        if not path.is_file():
            raise InputError(
                f"expected a file at {path}; there is none; name one with --data.path FILE"
            )
        try:
            with open(path, "rb") as file:
                if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                    return npy.open_memmap(path, mode="r"), None, ""
                file.seek(0)
                stored = np.load(file, allow_pickle=False)
                names = stored.files
                images = self._member(stored) if "images" in names else None
                labels = stored["labels"] if "labels" in names else None
        except InputError:
            raise
        except Exception as error:
            if "allow_pickle" in str(error):  # numpy's advice would let a file run code
                error = ValueError("it is no array of numbers")
            raise unreadable(path, error, _RESAVE) from error
        if images is None:
            raise InputError(
                f"expected an array named images in {path}; got {', '.join(names) or 'none'}; "
                "save it with numpy.savez(FILE, images=...)"
            )
        others = [name for name in names if name not in ("images", "labels")]
        return images, labels, f"left out {', '.join(others)}" if others else ""

    def _member(self, stored: Any) -> np.ndarray:
        """The images of an archive, held where they fit (their sum is checked), or mapped."""
        entry = stored.zip.getinfo("images.npy")
        if self._fits(entry.file_size):
            return stored["images"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"the images of {self._file} take {entry.file_size / 2**30:.3g} GiB, more than is "
                "held in memory, and a compressed archive cannot be read in pieces; save them with "
                "numpy.save or numpy.savez"
            )
        with open(self._file, "rb") as file:
            file.seek(entry.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(entry.header_offset + 30 + name + extra)
            shape, columns_first, dtype = _header(file)
            at = file.tell()
        return np.memmap(self._file, dtype, "r", at, shape, "F" if columns_first else "C")

    def _pixels(self, array: np.ndarray) -> Tensor | Stored:
        """(N, C, H, W) uint8, int32 or float32."""
        dtype = np.dtype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, np.int32))
        dtype = np.dtype(np.uint8) if array.dtype == np.uint8 else dtype
        count, *shape = array.shape if array.ndim == 4 else (len(array), 1, *array.shape[1:])
        if isinstance(array, np.memmap) and array.flags.c_contiguous:
            read = _Mapped(self._file, array.dtype, array.offset, array.shape, dtype)
            image_shape = (shape[0], shape[1], shape[2])
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return Stored(read, torch.arange(count), image_shape, kind, self._workers())
        if not self._fits(array.size * dtype.itemsize):
            raise InputError(
                f"the images of {self._file} are more than is held in memory, and lie in it column "
                "by column; save them again with numpy.save(FILE, numpy.ascontiguousarray(images))"
            )
        images = _cast(array.reshape(count, *shape), dtype)
        return torch.from_numpy(np.array(images, order="C"))


def _cast(array: np.ndarray, dtype: np.dtype) -> NDArray[Any]:
    """As the type; whole numbers beyond all grey levels stay beyond them."""
    if dtype == np.int32:
        array = array.clip(
            max(-1, np.iinfo(array.dtype).min), min(DEEPEST, np.iinfo(array.dtype).max)
        )
    with np.errstate(over="ignore"):
        return array.astype(dtype)


@dataclass(frozen=True)
class _Mapped:
    """Reads images from an array in a file. It is opened each time, so that no page of it stays."""

    path: Path
    stored: np.dtype
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        try:
            array = np.memmap(self.path, self.stored, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise unreadable(self.path, error, "restore the file as it was") from error
        images = _cast(array[rows], self.dtype)
        return np.asarray(images if images.ndim == 4 else images[:, None])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of the array that begins here."""
    if npy.read_magic(file) == (1, 0):
        return npy.read_array_header_1_0(file)
    return npy.read_array_header_2_0(file)


def _check(array: np.ndarray, path: Path) -> None:
    """Raises the line for a wrong shape or type."""
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(
            f"expected images of shape (N, H, W) or (N, C, H, W), N >= 1; got {array.shape} in "
            f"{path}; reshape them"
        )
    few = 1 if array.ndim == 4 and 2 in (array.shape[1], array.shape[3]) else 3
    if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 2, 3, 4):
        some = "" if array.shape[3] in (1, 3) else f"[:, :{few}]"
        raise InputError(
            f"expected images of shape (N, C, H, W); got {array.shape} in {path}, channels last; "
            f"transpose them with images.transpose(0, 3, 1, 2){some}"
        )
    if array.ndim == 4 and array.shape[1] not in (1, 3):
        raise InputError(
            f"expected one channel (grey) or three (colour); got {array.shape[1]} in {path}, of "
            f"shape {array.shape}; choose some with images[:, :{few}]"
        )
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise InputError(
            f"expected images of type bool, integer, float16, float32 or float64; got "
            f"{array.dtype} in {path}; save them as one of these"
        )


def _labels(labels: np.ndarray, path: Path, rules: int) -> tuple[Tensor, tuple[str, ...] | None]:
    """The labels, and the names of the classes where their numbers are not 0, 1, ..."""
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise InputError(
            f"expected labels of shape (N,) and an integer type; got {labels.dtype} of shape "
            f"{labels.shape} in {path}; number the classes 0, 1, ..."
        )
    if labels.size and not -1 <= labels.min() <= labels.max() < max(len(labels), 2):
        raise InputError(
            f"expected labels of 0, 1, ..., or -1 where one is unknown; got {labels.min()} to "
            f"{labels.max()} for {len(labels):,} images in {path}; number the classes 0, 1, ..."
        )
    labels = labels.astype(np.int64)
    there = np.unique(labels[labels >= 0])
    if rules == 1 or np.array_equal(there, np.arange(len(there))):
        return torch.from_numpy(labels), None
    numbered = np.where(labels < 0, -1, there.searchsorted(labels))
    return torch.from_numpy(numbered), tuple(map(str, there.tolist()))
