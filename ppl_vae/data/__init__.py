"""Data sets: where images come from, how they are split, and how they become data for a likelihood.

The command line takes every subclass of `DataSet`, those here and your own.
Importing this package reads no file and loads no library for one.
"""

from ppl_vae.data.arrays import Arrays
from ppl_vae.data.celeba import CelebA
from ppl_vae.data.classes import class_number
from ppl_vae.data.colour import CIFAR10, SVHN
from ppl_vae.data.conversion import Conversion, standardised
from ppl_vae.data.data_set import Binarize, DataSet, Dequantize
from ppl_vae.data.digits import Digits
from ppl_vae.data.fingerprint import check_same_data, fingerprint_in
from ppl_vae.data.frey_face import FreyFace
from ppl_vae.data.image_folder import ImageFolder
from ppl_vae.data.mnist import EMNIST, KMNIST, MNIST, FashionMNIST
from ppl_vae.data.new_images import new_split
from ppl_vae.data.omniglot import Omniglot
from ppl_vae.data.source import Images, Source, split_tenths
from ppl_vae.data.split import Data, Facts, Split, sizes_phrase
from ppl_vae.data.stored import Stored

__all__ = [
    "CIFAR10",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "SVHN",
    "Arrays",
    "Binarize",
    "CelebA",
    "Conversion",
    "Data",
    "DataSet",
    "Dequantize",
    "Digits",
    "Facts",
    "FashionMNIST",
    "FreyFace",
    "ImageFolder",
    "Images",
    "Omniglot",
    "Source",
    "Split",
    "Stored",
    "check_same_data",
    "class_number",
    "fingerprint_in",
    "new_split",
    "sizes_phrase",
    "split_tenths",
    "standardised",
]
