"""The data set that needs no file."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.spec import Domain
from ppl_vae.data.conversion import Conversion
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.source import Images, Source, fixed_order
from ppl_vae.data.split import Data

__all__ = ["Digits"]

_LEVELS = 17
_SIZES = (1_297, 200, 300)


@dataclass(frozen=True)
class Digits(DataSet):
    """1,797 scanned digits of 8 x 8 pixels and 17 grey levels, part of scikit-learn.

    Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits. 1,297 to train on, 200
    for validation and 300 for the test, by a fixed permutation.
    """

    default_domain: ClassVar[Domain] = "binary"

    def load(self, domain: Domain, seed: int) -> Data:
        conversion = Conversion.choose(self, domain, _LEVELS)
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = Images(
            torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1),
            torch.from_numpy(digits.target).long(),
        )
        train, validation, test = fixed_order(len(images)).split(_SIZES)
        names = tuple(str(name) for name in digits.target_names)
        return conversion(Source(images[train], images[validation], images[test], names), seed)
