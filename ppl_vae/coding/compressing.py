"""Images to an archive and back, block by block."""

from collections.abc import Iterator

import numpy as np

from ppl_vae.coding.archive import Archive, Header, block_of, block_size, embedded, pack
from ppl_vae.coding.bits_back import BATCH, Advance, decode, encode
from ppl_vae.coding.conversion import restored
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.coding.originals import Codes, Originals
from ppl_vae.coding.serialized import DAMAGED
from ppl_vae.errors import InputError

__all__ = ["archived", "blocks_of", "pair_in"]


def archived(
    pair: IntegerPair,
    originals: Originals,
    embed_model: bool = False,
    batch: int = BATCH,
    advance: Advance = lambda images: None,
) -> bytes:
    """The archive of some images.

    Args:
        pair: The model.
        originals: The images.
        embed_model: Whether the archive has the model too.
        batch: How many images are coded together, at most.
        advance: Is called with the number of images coded.

    Raises:
        InputError: If an image cannot be read, or is none that the model can code.
    """
    step = block_size(pair.image_shape)
    blocks, parts = [], []
    for start in range(0, len(originals), step):
        images = originals.read(start, min(start + step, len(originals)))
        words, batches = encode(pair, images, batch, advance)
        block, part = block_of(words, len(images), batches)
        blocks.append(block)
        parts.append(part)
    inside, model = embedded(pair.data) if embed_model else ((0, 0, ""), b"")
    described = originals.description()
    header = Header(pair.digest, pair.image_shape, batch, described, inside, tuple(blocks))
    return pack(header, model, parts)


def pair_in(archive: Archive, pair: IntegerPair | None) -> IntegerPair:
    """The model of an archive: that of a run where one was named, else the embedded one.

    Args:
        archive: The archive.
        pair: That of a run; None where no run was named.

    Raises:
        InputError: If there is none, it is damaged, or not the one of the archive.
    """
    if pair is None:
        data = archive.model()
        if data is None:
            raise InputError(
                "the archive has no model in it; name the run that it was compressed with: "
                "--run RUN"
            )
        pair = restored(data)
        _try_out(pair)
    if pair.digest != archive.header.model or pair.image_shape != archive.header.image_shape:
        raise InputError(
            f"expected the model {archive.header.model[:16]} of the archive; got "
            f"{pair.digest[:16]}; name the run that it was compressed with, or use the "
            "release that made it"
        )
    return pair


def _try_out(pair: IntegerPair) -> None:
    """Refuses a model that was read if it cannot code a black image: only a forger's cannot."""
    try:
        words, batches = encode(pair, np.zeros((1, *pair.image_shape), np.uint8))
        decode(pair, words, 1, batches)
    except (AttributeError, IndexError, MemoryError, TypeError, ValueError) as error:
        raise InputError(DAMAGED) from error


def blocks_of(
    archive: Archive,
    pair: IntegerPair,
    advance: Advance = lambda images: None,
    lost: list[str] | None = None,
) -> Iterator[tuple[int, Codes]]:
    """The number of the first image of each block, and its images.

    Args:
        archive: The archive.
        pair: Its model.
        advance: Is called with the number of images decoded.
        lost: Where the names of damaged blocks go, which are left out then.

    Raises:
        InputError: If a block is damaged, and `lost` is None.
    """
    start = 0
    for number, block in enumerate(archive.header.blocks):
        stop = start + block.images
        try:
            words, batch = archive.words(number), archive.header.batch
            images = decode(pair, words, block.images, block.batches, batch, advance)
        except InputError as error:
            name = f"block {number + 1}, images {start:,} to {stop - 1:,},"
            if lost is None:
                others = len(archive.header.blocks) > 1
                remedy = "; --salvage true writes the others" if others else ""
                raise InputError(f"{name} of the archive is damaged{remedy}") from error
            lost.append(name)
            advance(block.images)
        else:
            yield start, images
        start = stop
