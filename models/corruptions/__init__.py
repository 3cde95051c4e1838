"""Corruptions p(y|x), one a file: what was done to an image x, as a likelihood of what is left."""

from models.corruptions.corruption import Corruption
from models.corruptions.downsampled import Downsampled
from models.corruptions.gaussian_noise import GaussianNoise
from models.corruptions.masked import Masked
from models.corruptions.pixels import Pixels, white
from models.corruptions.replacing import Replacing
from models.corruptions.salt_and_pepper import SaltAndPepper

__all__ = [
    "Corruption",
    "Downsampled",
    "GaussianNoise",
    "Masked",
    "Pixels",
    "Replacing",
    "SaltAndPepper",
    "white",
]
