"""Bits-back coding: images to words and back, in about -ELBO nats an image."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.ans import Stack, Words
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.errors import InputError

__all__ = ["BATCH", "Advance", "decode", "encode"]

BATCH = 64  # images that are coded together, at most

Advance = Callable[[int], None]


def encode(
    pair: IntegerPair,
    images: NDArray[np.uint8],
    batch: int = BATCH,
    advance: Advance = lambda n: None,
) -> tuple[Words, list[int]]:
    """Codes images with the bits that the choice of their latents gives back.

    For each image, z is taken off the stack under q(z|x), so that the bits on it choose z; then x
    is put on it under p(x|z), and z under p(z). Its length grows by
    -log p(x|z) - log p(z) + log q(z|x), on average by -ELBO (Townsend, Bird and Barber, 2019). The
    pair knows in which order several latents are chosen.

    The first image is coded alone, its z chosen by bits that are not of an image, where the pair
    needs some. As the stack fills, more images have enough bits on it to be coded together.

    Args:
        pair: The model.
        images: (N, C, H, W), of 0 and 1 or of bytes.
        batch: How many images are coded together, at most.
        advance: Is called with the number of images coded.

    Returns:
        The words of the stack, and how many images were coded together in turn, without the last
        ones that are `batch`.
    """
    stack = Stack.seeded(pair.first_bits)
    done, batches = 0, []
    while done < len(images):
        room = 32 * len(stack) // pair.bits
        size = min(max(room, 1), batch, len(images) - done)
        pair.push(stack, images[done : done + size])
        done += size
        batches.append(size)
        advance(size)
    if batches:
        del batches[-1]  # which follows from the number of images
    while batches and batches[-1] == batch:
        del batches[-1]
    return stack.words, batches


def decode(
    pair: IntegerPair,
    words: Words,
    count: int,
    batches: Sequence[int],
    batch: int = BATCH,
    advance: Advance = lambda n: None,
) -> NDArray[np.uint8]:
    """The images (count, C, H, W) that `encode` was given.

    Raises:
        InputError: If the words are not those of so many images under this model.
    """
    images = np.empty((count, *pair.image_shape), np.uint8)
    stack = Stack(words)
    for start, stop in reversed(_places(count, batches, batch)):
        images[start:stop] = pair.pop(stack, stop - start)
        advance(stop - start)
    if not stack.holds_seed(pair.first_bits):
        raise InputError("the words are not those of the images")
    return images


def _places(count: int, batches: Sequence[int], batch: int) -> list[tuple[int, int]]:
    places, done = [], 0
    for size in batches:
        places.append((done, done + size))
        done += size
    while done < count:
        places.append((done, min(done + batch, count)))
        done = places[-1][1]
    return places
