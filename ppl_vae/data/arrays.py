"""A user's own arrays."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.own_files import OwnFiles
from ppl_vae.data.source import Images, split_tenths
from ppl_vae.data.split import Data
from ppl_vae.data.stored import Stored
from ppl_vae.errors import InputError, unreadable

__all__ = ["Arrays"]

_RESAVE = "save it again with numpy.save or numpy.savez, as plain numbers"
_SURVEYED = 2**22  # pixels looked at together


@dataclass(frozen=True)
class Arrays(OwnFiles):
    """The images in a NumPy file: `.npy`, or `.npz` with `images` and, optionally, `labels`.

    Of shape (N, H, W) or (N, C, H, W), and of type bool (binary images), uint8 (256 grey levels) or
    float16, float32 or float64 (finite). In a fixed order, eight tenths are to train on, one for
    validation and one for the test. Files of any size are mapped into memory piece by piece, except
    a `.npz` that is compressed.

    Args:
        path: The file.
    """

    path: Path

    @property
    def default_domain(self) -> Domain:
        return "binary" if self._read()[0].dtype == np.bool_ else "real"

    def load(self, domain: Domain, seed: int) -> Data:
        array, labels = self._read()
        _check(array, self._file)
        real = array.dtype.kind == "f"
        levels = None if real else 2 if array.dtype == np.bool_ else 256
        pixels = self._pixels(array)
        unit = _within_unit(pixels, self._file) if real else True
        conversion = Conversion.choose(self, domain, levels, unit)
        images = Images(pixels, None if labels is None else _labels(labels, self._file))
        return conversion(self._hold(split_tenths(images), pixels.dtype.itemsize), seed)

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()

    def _read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The images, mapped where that can be, and labels; nothing pickled is ever read."""
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
                    return npy.open_memmap(path, mode="r"), None
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
        return images, labels

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
        """(N, C, H, W) uint8 or float32."""
        real = array.dtype.kind == "f"
        dtype = np.dtype(np.float32 if real else np.uint8)
        count, *shape = array.shape if array.ndim == 4 else (len(array), 1, *array.shape[1:])
        if isinstance(array, np.memmap) and array.flags.c_contiguous:
            read = _Mapped(self._file, array.dtype, array.offset, array.shape, dtype)
            image_shape = (shape[0], shape[1], shape[2])
            kind = torch.float32 if real else torch.uint8
            return Stored(read, torch.arange(count), image_shape, kind, self._workers())
        if not self._fits(array.size * dtype.itemsize):
            raise InputError(
                f"the images of {self._file} are more than is held in memory, and lie in it column "
                "by column; save them again with numpy.save(FILE, numpy.ascontiguousarray(images))"
            )
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.array(array.reshape(count, *shape), dtype, order="C"))


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
        with np.errstate(over="ignore"):
            images = array[rows].astype(self.dtype)
        return np.asarray(images if images.ndim == 4 else images[:, None])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index runs fastest, and type of the array that begins here."""
    if npy.read_magic(file) == (1, 0):
        return npy.read_array_header_1_0(file)
    return npy.read_array_header_2_0(file)


def _within_unit(pixels: Tensor | Stored, path: Path) -> bool:
    """Whether all values are in [0, 1]; all have to be finite."""
    size = max(1, _SURVEYED // pixels.shape[1:].numel())
    unit, finite = True, 0
    for start in range(0, len(pixels), size):
        piece = pixels[start : start + size]
        finite += int(piece.isfinite().sum())
        unit = unit and bool((piece >= 0).all() and (piece <= 1).all())
    values = pixels.shape.numel()
    if finite < values:
        raise InputError(
            f"expected finite images; got {values - finite:,} of {values:,} values NaN or infinite "
            f"(as float32) in {path}; remove or replace them"
        )
    return unit


def _check(array: np.ndarray, path: Path) -> None:
    """Raises the line for a wrong shape or type."""
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(
            f"expected images of shape (N, H, W) or (N, C, H, W), N >= 1; got {array.shape} in "
            f"{path}; reshape them"
        )
    if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] in (1, 3, 4):
        raise InputError(
            f"expected images of shape (N, C, H, W); got {array.shape} in {path}, channels last; "
            "transpose them with images.transpose(0, 3, 1, 2)"
        )
    if array.ndim == 4 and array.shape[1] not in (1, 3):
        raise InputError(
            f"expected one channel (grey) or three (colour); got {array.shape[1]} in {path}, of "
            f"shape {array.shape}; choose some with images[:, :3]"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return
    if array.dtype not in (np.bool_, np.uint8):
        raise InputError(
            f"expected images of type bool, uint8, float16, float32 or float64; got {array.dtype} "
            f"in {path}; convert to uint8 grey levels 0 to 255 with images.astype('uint8')"
        )


def _labels(labels: np.ndarray, path: Path) -> Tensor:
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
    return torch.from_numpy(labels.astype(np.int64))
