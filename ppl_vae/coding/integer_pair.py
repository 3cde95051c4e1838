"""A trained pair in whole numbers: what coding asks of it, and its digest."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np

from ppl_vae.coding.ans import Stack
from ppl_vae.coding.pixels import Images, Pixels
from ppl_vae.coding.serialized import to_bytes
from ppl_vae.coding.tables import FRACTION, Floats

__all__ = ["MOST_LATENTS", "IntegerPair"]

MOST_LATENTS = 2**16  # of an image: what is read makes no arrays without end


@dataclass(frozen=True, eq=False)
class IntegerPair(ABC):
    """p(x, z) and q(z|x) in whole numbers, by which a stack takes images.

    Args:
        image_shape: (C, H, W).
        pixels: p(x|z), from its features.
    """

    image_shape: tuple[int, ...]
    pixels: Pixels

    @property
    @abstractmethod
    def bits(self) -> int:
        """How many bits of the stack choose the latents of an image, at most."""

    @property
    @abstractmethod
    def first_bits(self) -> int:
        """How many bits the stack has to have for the first image."""

    @abstractmethod
    def push(self, stack: Stack, images: Images) -> None:
        """Puts images (N, C, H, W) on the stack together."""

    @abstractmethod
    def pop(self, stack: Stack, count: int) -> Images:
        """Takes so many images off the stack, which were put on it together."""

    @abstractmethod
    def at_means(self, images: Images) -> tuple[Floats, Floats]:
        """Latents (N, D) at the means of q(z|x), and the features of p(x|z) there."""

    @abstractmethod
    def check(self) -> None:
        """Looks at what was read, before it is used.

        Raises:
            ValueError: If its parts do not fit together, or are larger than any.
        """

    def input_of(self, images: Images) -> Floats:
        """Images of bytes (N, C, H, W) as activations, in units of 2^-12."""
        return images.astype(np.float64) * (2.0**FRACTION if self.pixels.levels == 2 else 16.0)

    @cached_property
    def data(self) -> bytes:
        """All integers of the pair, as `restored` reads them."""
        return to_bytes(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `data`."""
        return sha256(self.data).hexdigest()
