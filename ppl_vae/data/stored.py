"""Images that stay in their files: read when they are indexed, or ahead by other processes."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from ppl_vae.errors import InputError, reason

__all__ = ["DrawnOnce", "Index", "Stored", "joined", "pieces"]

Index = Tensor | slice | list[int]
Reader = Callable[[NDArray[np.int64]], NDArray[Any]]

_PIECE = 2**20  # pixels that are drawn at a time
_READ = 2**16  # pixels that are read at a time where all are wanted
_CPU = torch.device("cpu")
_AHEAD = 4  # batches that each process reads ahead


@dataclass(frozen=True, eq=False)
class Stored:
    """Images in files, which are indexed as the tensor (N, C, H, W) that they would be in memory.

    Args:
        read: From the numbers of images in the files, (B,), to the images (B, C, H, W), uint8 or
            float32. Other processes call it: it has to be picklable, and to keep nothing open.
        rows: (N,) int64, the numbers of these images in the files.
        image_shape: (C, H, W).
        dtype: Of the images that `read` gives.
        workers: How many processes read ahead; with 0 this one reads.
        finish: Applied in this process to images that were read, with their places.
        places: (N,) int64, the places that `finish` takes.
        device: The device that images go to.
    """

    read: Reader
    rows: Tensor
    image_shape: tuple[int, int, int]
    dtype: torch.dtype
    workers: int
    finish: "DrawnOnce | None" = None
    places: Tensor | None = None
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self), *self.image_shape))

    def to(self, device: torch.device | str) -> "Stored":
        """The same images, which go to a device once they are read."""
        return replace(self, device=torch.device(device))

    def select(self, index: Index) -> "Stored":
        """Some of the images; nothing is read."""
        index = index.cpu() if isinstance(index, Tensor) else index
        places = None if self.places is None else self.places[index]
        return replace(self, rows=self.rows[index], places=places)

    def drawn_once(self, convert: Callable[..., Tensor], seed: int) -> "Stored":
        """The same images, converted with noise that is always the same for each."""
        finish = DrawnOnce(convert, self.image_shape, seed)
        return replace(self, finish=finish, places=torch.arange(len(self)))

    def held(self) -> Tensor:
        """All images in memory."""
        images = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        start = 0
        for piece in pieces(self):
            images[start : start + len(piece)] = piece
            start += len(piece)
        return images

    def __getitem__(self, index: Index) -> Tensor:
        chosen = self.select(index)
        return chosen._finished(torch.from_numpy(self.read(chosen.rows.numpy())))

    def batches(self, indices: Sequence[Index]) -> Iterator[Tensor]:
        """The images of each index in turn, read ahead by `workers` processes.

        The noise of `finish`, and all that is random elsewhere, is drawn in this process.

        Raises:
            InputError: If a file cannot be read, or a process that reads is lost.
        """
        chosen = [self.select(index) for index in indices]
        loader = DataLoader(
            _Batches(self.read),
            batch_size=None,
            sampler=[each.rows.numpy() for each in chosen],
            num_workers=min(self.workers, len(chosen)),
            prefetch_factor=_AHEAD if min(self.workers, len(chosen)) else None,
            collate_fn=_as_it_is,
            worker_init_fn=_end_with_parent,
            generator=Generator(),  # or it would draw a seed from the run's random numbers
        )
        try:
            for each, images in zip(chosen, _quiet_iterator(loader), strict=True):
                if isinstance(images, InputError):
                    raise images
                yield each._finished(torch.from_numpy(images))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                f"a process that reads images was lost ({reason(error)}); go on with --resume, "
                "with fewer --data.workers where memory is short"
            ) from error

    def _finished(self, images: Tensor) -> Tensor:
        if self.finish is not None and self.places is not None:
            images = self.finish(images, self.places)
        if self.device.type == "cuda":  # a copy from pinned memory does not block
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True)


def pieces(images: Tensor | Stored, step: int = 1) -> Iterator[Tensor]:
    """All images in turn, or one of every `step`, as many at a time as are read together."""
    size = step * max(1, _READ // prod(images.shape[1:]))
    for start in range(0, len(images), size):
        yield images[start : start + size : step]


def joined(parts: Sequence[Tensor | Stored]) -> Tensor | Stored:
    """The images of several parts as one; where all are of the same files, they stay there."""
    stored = [part for part in parts if isinstance(part, Stored)]
    if len(stored) == len(parts) and len({id(part.read) for part in stored}) == 1:
        return replace(stored[0], rows=torch.cat([part.rows for part in stored]))
    return torch.cat([part.held() if isinstance(part, Stored) else part for part in parts])


def _quiet_iterator(loader: DataLoader) -> Iterator[Any]:
    """Starts the processes, without torch's handler that would raise in mid-step if one is lost.

    The loader raises where the batch of a lost process is due.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return iterator


def _end_with_parent(worker: int) -> None:
    """Ends a reading process when its parent ends, however that ends.

    Otherwise a process that is handing over a batch would wait forever.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(images: Any) -> Any:
    # Tensors would travel through shared memory, of which containers have little.
    return images


class _Batches(Dataset):
    """The data set that reading processes run."""

    def __init__(self, read: Reader) -> None:
        self.read = read

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any] | InputError:
        try:
            return self.read(rows)
        except InputError as error:  # as a value: raised here it would come with a traceback
            return error


class DrawnOnce:
    """Converts images with noise that is the same whenever it is asked for.

    The noise is that of one generator in one pass over all images. Its states along the way are
    kept, one for a million pixels, and the noise is drawn again from the nearest.

    Args:
        convert: From stored images and noise, both (B, C, H, W), to images; the noise is a keyword.
        image_shape: (C, H, W).
        seed: Of the generator.
    """

    def __init__(
        self, convert: Callable[..., Tensor], image_shape: tuple[int, int, int], seed: int
    ) -> None:
        self.convert = convert
        self.image_shape = image_shape
        self.size = max(1, _PIECE // prod(image_shape))
        self._states = [Generator().manual_seed(seed).get_state()]
        self._latest = (-1, torch.empty(0))

    def __call__(self, images: Tensor, places: Tensor) -> Tensor:
        """Converts images whose places in the pass are given, (B,)."""
        noise = torch.empty(images.shape)
        pieces = places // self.size
        for number in pieces.unique().tolist():
            here = pieces == number
            noise[here] = self._piece(number)[places[here] % self.size]
        return self.convert(images, noise=noise)

    def _piece(self, number: int) -> Tensor:
        """The noise of the images from `number` times `size` on."""
        if number != self._latest[0]:
            generator = Generator()
            noise, self._latest = self._latest[1], (-1, torch.empty(0))
            for each in range(min(number, len(self._states) - 1), number + 1):
                generator.set_state(self._states[each])
                noise = torch.rand((self.size, *self.image_shape), generator=generator)
                if each + 1 == len(self._states):
                    self._states.append(generator.get_state())
            self._latest = number, noise
        return self._latest[1]
