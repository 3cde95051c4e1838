"""MNIST and the data sets made in its image: 28 x 28 pixels, 256 grey levels."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from models.ranges import check_choice, check_count
from models.spec import Domain
from ppl_vae.data.source import Images, Source
from ppl_vae.data.torchvision_files import TorchvisionFiles, hold_out, open_torchvision
from ppl_vae.errors import InputError

__all__ = ["EMNIST", "KMNIST", "MNIST", "FashionMNIST"]

EMNISTSplit = Literal["balanced", "letters", "digits", "mnist", "byclass", "bymerge"]


@dataclass(frozen=True)
class _LikeMNIST(TorchvisionFiles):
    """torchvision's test images to test; of its training images the last as many to validate.

    Args:
        held_out: How many of the last training images are for validation, before any class is left
            out; as many as there are test images unless given.
    """

    in_torchvision: ClassVar[str]
    held_out: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out is not None:
            check_count("--data.held_out", self.held_out)

    def _source(self) -> Source:
        training, tested = self._open(train=True), self._open(train=False)
        images, test = self._images(training), self._images(tested)
        if self.held_out is not None and self.held_out >= len(images):
            raise InputError(
                f"expected --data.held_out < {len(images):,}, the number of training images; got "
                f"{self.held_out:,}"
            )
        count = len(test) if self.held_out is None else self.held_out
        return hold_out(images, count, test, self._names(training))

    def _open(self, **options: Any) -> Any:
        return open_torchvision(self.in_torchvision, self.root, self.download, **options)

    def _images(self, opened: Any) -> Images:
        pixels: Tensor = opened.data
        if tuple(pixels.shape[1:]) != (28, 28):
            raise InputError(
                f"expected images of 28 x 28 pixels in {opened.raw_folder}; got "
                f"{tuple(pixels.shape)}; replace the files"
            )
        return Images(pixels.unsqueeze(1), opened.targets.long())

    def _names(self, opened: Any) -> tuple[str, ...]:
        return tuple(opened.classes)


@dataclass(frozen=True)
class MNIST(_LikeMNIST):
    """Handwritten digits. LeCun, Bottou, Bengio and Haffner (1998).

    50,000 to train on; the last 10,000 of the original training images for validation, or
    `held_out`; the original 10,000 test images.
    """

    in_torchvision: ClassVar[str] = "MNIST"
    default_domain: ClassVar[Domain] = "binary"


@dataclass(frozen=True)
class FashionMNIST(_LikeMNIST):
    """Articles of clothing. Xiao, Rasul and Vollgraf (2017). Split as `MNIST` is."""

    in_torchvision: ClassVar[str] = "FashionMNIST"
    default_domain: ClassVar[Domain] = "binary"


@dataclass(frozen=True)
class KMNIST(_LikeMNIST):
    """Cursive Japanese characters (Kuzushiji). Clanuwat et al. (2018). Split as `MNIST` is."""

    in_torchvision: ClassVar[str] = "KMNIST"
    default_domain: ClassVar[Domain] = "binary"


@dataclass(frozen=True)
class EMNIST(_LikeMNIST):
    """Handwritten digits and letters. Cohen, Afshar, Tapson and van Schaik (2017).

    The original test images; as many of the last training images for validation; the rest to train
    on. The files hold each image transposed, which is undone here.

    Args:
        split: Which of the six arrangements of classes.
    """

    in_torchvision: ClassVar[str] = "EMNIST"
    split: EMNISTSplit = "balanced"
    default_domain: ClassVar[Domain] = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--data.split", self.split, get_args(EMNISTSplit))

    @property
    def _first(self) -> int:
        return 1 if self.split == "letters" else 0  # letters are numbered from 1

    def _open(self, **options: Any) -> Any:
        return super()._open(split=self.split, **options)

    def _images(self, opened: Any) -> Images:
        opened.data = opened.data.mT.contiguous()
        opened.targets = opened.targets - self._first
        return super()._images(opened)

    def _names(self, opened: Any) -> tuple[str, ...]:
        return super()._names(opened)[self._first :]
