"""A user's own arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.damage import unreadable
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, split_tenths
from ppl_vae.data.split import Data
from ppl_vae.errors import InputError

__all__ = ["Arrays"]

_RESAVE = "save it again with numpy.save or numpy.savez, as plain numbers"


@dataclass(frozen=True)
class Arrays(DataSet):
    """The images in a NumPy file: `.npy`, or `.npz` with `images` and, optionally, `labels`.

    Of shape (N, H, W) or (N, C, H, W), and of type bool (binary images), uint8 (256 grey levels) or
    float16, float32 or float64 (finite). In a fixed order, eight tenths are to train on, one for
    validation and one for the test.

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
        pixels, levels = _pixels(array, self._file)
        unit = levels is not None or bool((pixels >= 0).all() and (pixels <= 1).all())
        conversion = Conversion.choose(self, domain, levels, unit)
        images = Images(pixels, None if labels is None else _labels(labels, self._file))
        return conversion(split_tenths(images), seed)

    @property
    def _file(self) -> Path:
        return Path(self.path).expanduser()

    def _read(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The images and labels as they are stored; nothing that is pickled is ever read."""
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
                stored = np.load(file, allow_pickle=False)
                if isinstance(stored, np.ndarray):
                    return stored, None
                names = stored.files
                images = stored["images"] if "images" in names else None
                labels = stored["labels"] if "labels" in names else None
        except Exception as error:
            raise unreadable(path, error, _RESAVE) from error
        if images is None:
            raise InputError(
                f"expected an array named images in {path}; got {', '.join(names) or 'none'}; "
                "save it with numpy.savez(FILE, images=...)"
            )
        return images, labels


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


def _pixels(array: np.ndarray, path: Path) -> tuple[Tensor, int | None]:
    """(N, C, H, W) uint8 with its number of levels, or float32 with None."""
    if array.ndim == 3:
        array = array[:, None]
    if array.dtype.kind != "f":
        pixels = torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8))
        return pixels, 2 if array.dtype == np.bool_ else 256
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    finite = int(np.isfinite(array).sum())
    if finite < array.size:
        raise InputError(
            f"expected finite images; got {array.size - finite:,} of {array.size:,} values NaN or "
            f"infinite (as float32) in {path}; remove or replace them"
        )
    return torch.from_numpy(array), None


def _labels(labels: np.ndarray, path: Path) -> Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise InputError(
            f"expected labels of shape (N,) and an integer type; got {labels.dtype} of shape "
            f"{labels.shape} in {path}; number the classes 0, 1, ..."
        )
    return torch.from_numpy(labels.astype(np.int64))
