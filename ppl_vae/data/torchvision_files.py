"""Reading the files that torchvision knows."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, Source
from ppl_vae.data.split import Data
from ppl_vae.errors import InputError, reason, unreadable

__all__ = ["TorchvisionFiles", "hold_out", "open_torchvision", "read_image"]


@dataclass(frozen=True)
class TorchvisionFiles(DataSet):
    """A data set in files that torchvision knows.

    Args:
        root: The folder that holds `MNIST/raw`, `cifar-10-batches-py`, `train_32x32.mat`,
            `omniglot-py`, `celeba` and the like, as torchvision lays them out.
        download: Whether to download the files when they are missing.
    """

    root: Path = Path("data")
    download: bool = False

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        return conversion(self._source(), seed)

    @abstractmethod
    def _source(self) -> Source:
        """The images, which are bytes."""


def open_torchvision(name: str, root: Path, download: bool, **options: Any) -> Any:
    """One of torchvision's data sets, opened.

    torchvision is imported here and nowhere else. Of the files that it reads, only CIFAR10's are
    pickles, and it reads those only if their MD5 sums are those of the originals.

    Args:
        name: The class in `torchvision.datasets`.
        root: The folder with the files.
        download: Whether to fetch missing files.
        **options: Further arguments of that class.

    Raises:
        InputError: If torchvision cannot be imported, or files are missing or damaged.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"{name} is read by torchvision, which cannot be imported here ({reason(error)}); "
            f"install the torchvision that belongs to torch {torch.__version__}, or choose "
            "another --data"
        ) from error
    root = Path(root).expanduser()
    try:
        return getattr(datasets, name)(root, download=download, **options)
    except Exception as error:
        if not download and "not found" in str(error):
            raise InputError(
                f"expected the files of {name} in {root.absolute()}, as torchvision lays them out; "
                "they are missing, incomplete or altered; name their folder with --data.root DIR, "
                "or add --data.download true"
            ) from error
        remedy = (
            "check the connection and the folder, or name one that has the files with --data.root"
            if download
            else "delete the damaged files and add --data.download true, or name others with "
            "--data.root DIR"
        )
        raise unreadable(f"{name} in {root.absolute()}", error, remedy) from error


def read_image(opened: Any, index: int) -> Any:
    """One item of a data set that reads its image files one by one.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        return opened[index]
    except Exception as error:
        what = f"image {index:,} of {type(opened).__name__} in {opened.root}"
        raise unreadable(what, error, "restore the file, or unpack the archive again") from error


def hold_out(images: Images, count: int, test: Images, class_names: Iterable[str]) -> Source:
    """A source of all but the last `count` images to train on, and those for validation."""
    if not 1 <= count < len(images):
        raise InputError(
            f"expected more than {max(count, 1):,} training images, to hold out that many for "
            f"validation; got {len(images):,}; complete the files"
        )
    return Source(images[:-count], images[-count:], test, tuple(class_names))
