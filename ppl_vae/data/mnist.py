"""MNIST and the data sets made in its image: 28 x 28 pixels, 256 grey levels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

from torch import Tensor

from models.ranges import check_choice
from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, Source
from ppl_vae.data.split import Data
from ppl_vae.data.torchvision_files import hold_out, open_torchvision
from ppl_vae.errors import InputError

__all__ = ["EMNIST", "KMNIST", "MNIST", "FashionMNIST"]

EMNISTSplit = Literal["balanced", "letters", "digits", "mnist", "byclass", "bymerge"]


def _images(opened: Any) -> Images:
    pixels: Tensor = opened.data
    if tuple(pixels.shape[1:]) != (28, 28):
        raise InputError(
            f"expected images of 28 x 28 pixels in {opened.raw_folder}; got {tuple(pixels.shape)}; "
            "replace the files"
        )
    return Images(pixels.unsqueeze(1), opened.targets.long())


def _read(name: str, root: Path, download: bool, **options: Any) -> Source:
    """torchvision's test images to test; of its training images the last as many to validate."""
    opened = open_torchvision(name, root, download, train=True, **options)
    test = _images(open_torchvision(name, root, download, train=False, **options))
    train, validation = hold_out(_images(opened), len(test))
    return Source(train, validation, test, tuple(opened.classes))


@dataclass(frozen=True)
class _LikeMNIST(DataSet):
    """50,000 images to train on; the last 10,000 of torchvision's training images for validation.

    Args:
        root: The folder that holds `NAME/raw`, NAME the data set's, as torchvision lays it out.
        download: Whether to download the files when they are missing.
    """

    root: Path = Path("data")
    download: bool = False

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        return conversion(_read(type(self).__name__, self.root, self.download), seed)


@dataclass(frozen=True)
class MNIST(_LikeMNIST):
    """Handwritten digits. LeCun, Bottou, Bengio and Haffner (1998).

    50,000 to train on; the last 10,000 of the original training images for validation; the
    original 10,000 test images.
    """

    default_domain: ClassVar[Domain] = "binary"


@dataclass(frozen=True)
class FashionMNIST(_LikeMNIST):
    """Articles of clothing. Xiao, Rasul and Vollgraf (2017).

    50,000 to train on; the last 10,000 of the original training images for validation; the
    original 10,000 test images.
    """

    default_domain: ClassVar[Domain] = "binary"


@dataclass(frozen=True)
class KMNIST(_LikeMNIST):
    """Cursive Japanese characters (Kuzushiji). Clanuwat et al. (2018).

    50,000 to train on; the last 10,000 of the original training images for validation; the
    original 10,000 test images.
    """

    default_domain: ClassVar[Domain] = "binary"


@dataclass(frozen=True)
class EMNIST(DataSet):
    """Handwritten digits and letters. Cohen, Afshar, Tapson and van Schaik (2017).

    The original test images; as many of the last training images for validation; the rest to train
    on. The files hold each image transposed, which is undone here.

    Args:
        root: The folder that holds `EMNIST/raw`, as torchvision lays it out.
        download: Whether to download the files when they are missing.
        split: Which of the six arrangements of classes.
    """

    root: Path = Path("data")
    download: bool = False
    split: EMNISTSplit = "balanced"
    default_domain: ClassVar[Domain] = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--data.split", self.split, get_args(EMNISTSplit))

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, 256)
        source = _read("EMNIST", self.root, self.download, split=self.split)
        names = source.class_names or ()
        first = 1 if self.split == "letters" else 0  # letters are numbered from 1
        train, validation, test = (
            Images(
                cast(Tensor, images.pixels).transpose(2, 3).contiguous(),
                None if images.labels is None else images.labels - first,
            )
            for images in (source.train, source.validation, source.test)
        )
        return conversion(Source(train, validation, test, names[first:]), seed)
