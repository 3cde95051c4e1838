"""The archive file: a header, the model where it is embedded, and blocks that stand alone.

    magic (8) | version (2) | length of the header (4) | header | digest (16) of all before
    model, where it is embedded
    words of each block

Numbers are little-endian. The header is JSON, packed by zlib. It has the length and the digest of
every part that follows, so that none can stand in another's place, or in another archive.
"""

import json
import lzma
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np

from ppl_vae.coding.ans import Words
from ppl_vae.coding.serialized import DAMAGED
from ppl_vae.errors import InputError, kind

__all__ = [
    "Archive",
    "Block",
    "Header",
    "block_of",
    "block_size",
    "embedded",
    "pack",
    "pack_model",
]

MAGIC = b"\x89PVZ\r\n\x1a\n"  # as of PNG: transfers that change the ends of lines change it
VERSION = 1

_DIGEST = 16
_START = len(MAGIC) + 6
_MOST_IMAGES = 2**12  # in a block
_MOST_PIXELS = 2**22  # in a block
_MOST_HEADER = 2**27  # bytes, unpacked
_MEMORY = 2**26  # bytes, to unpack a model
_PACKED = 2**8  # how many times smaller a packed header or model may be


@dataclass(frozen=True)
class Block:
    """A block in the header.

    Args:
        images: How many it has.
        batches: How many were coded together, as `bits_back.encode` gives it.
        size: Bytes of its words.
        digest: Of its words.
    """

    images: int
    batches: list[int]
    size: int
    digest: str


@dataclass(frozen=True)
class Header:
    """What an archive says of itself.

    Args:
        model: The digest of the `IntegerPair`.
        image_shape: (C, H, W).
        batch: How many images were coded together, at most.
        originals: What the images were: see `ppl_vae.coding.originals`.
        embedded: Bytes of the embedded model, packed and unpacked, and its digest where it is
            packed; (0, 0, "") where there is none.
        blocks: In the order of the images.
    """

    model: str
    image_shape: tuple[int, ...]
    batch: int
    originals: dict[str, Any]
    embedded: tuple[int, int, str]
    blocks: tuple[Block, ...]

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(block.images for block in self.blocks)


def block_size(image_shape: Sequence[int]) -> int:
    """How many images a block has, at most: memory does not grow with their number."""
    return min(_MOST_IMAGES, max(1, _MOST_PIXELS // prod(image_shape)))


def pack(header: Header, model: bytes, blocks: Sequence[bytes]) -> bytes:
    """The file of a header, the packed model or nothing, and the words of the blocks."""
    packed = zlib.compress(json.dumps(asdict(header), separators=(",", ":")).encode(), 9)
    start = MAGIC + VERSION.to_bytes(2, "little") + len(packed).to_bytes(4, "little") + packed
    return b"".join([start, _digest(start), model, *blocks])


def block_of(words: Words, images: int, batches: list[int]) -> tuple[Block, bytes]:
    """A block for the header, and its bytes."""
    data = words.astype("<u4").tobytes()
    return Block(images, batches, len(data), _digest(data).hex()), data


def embedded(model: bytes) -> tuple[tuple[int, int, str], bytes]:
    """`IntegerPair.data` for the header, and its bytes."""
    packed = pack_model(model)
    return (len(packed), len(model), _digest(packed).hex()), packed


def pack_model(data: bytes) -> bytes:
    """`IntegerPair.data`, packed."""
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, preset=6)


class Archive:
    """An archive that was read: its header is whole, its parts are looked at when asked for.

    Args:
        data: All of the file.
        salvage: Whether the end may be missing.

    Attributes:
        header: What it says of itself.

    Raises:
        InputError: If it is none, of another version, damaged in its header, or of another length.
    """

    def __init__(self, data: bytes, salvage: bool = False) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InputError(
                f"expected the bytes of an archive, as Path(...).read_bytes() gives them; got "
                f"{kind(data)}"
            )
        if data[: len(MAGIC)] != MAGIC:
            raise InputError("expected an archive of ppl-vae (.pvz); this is none, or is damaged")
        version = int.from_bytes(data[len(MAGIC) : _START - 4], "little")
        if version != VERSION:
            raise InputError(
                f"expected an archive of version {VERSION}; got version {version}; decompress it "
                "with the release of ppl-vae that wrote it"
            )
        end = _START + int.from_bytes(data[_START - 4 : _START], "little")
        self._data = data
        if data[end : end + _DIGEST] != _digest(data[:end]):
            raise InputError("the header of the archive is damaged; nothing of it can be read")
        self.header = _header(data[_START:end])
        sizes = [self.header.embedded[0], *(block.size for block in self.header.blocks)]
        ends = [*accumulate(sizes, initial=end + _DIGEST)]
        self._places = [slice(*ends) for ends in pairwise(ends)]
        if len(data) != ends[-1] and not salvage:
            raise InputError(
                f"expected an archive of {ends[-1]:,} bytes, as its header says; got "
                f"{len(data):,}; it is damaged: --salvage true writes the images that are whole"
            )

    def model(self) -> bytes | None:
        """The embedded model, unpacked; None where there is none.

        Raises:
            InputError: If it is damaged.
        """
        size, digest = self.header.embedded[1:]
        if not size:
            return None
        packed = self._data[self._places[0]]
        if _digest(packed).hex() != digest:
            raise InputError(DAMAGED)
        if size > _PACKED * len(packed):
            raise InputError("the model in the archive is larger than any that compress writes")
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        try:
            return reader.decompress(packed, size)
        except lzma.LZMAError as error:
            raise InputError(DAMAGED) from error

    def words(self, number: int) -> Words:
        """The words of a block, counted from 0.

        Raises:
            InputError: If they are damaged.
        """
        part = self._data[self._places[number + 1]]
        if _digest(part).hex() != self.header.blocks[number].digest:
            raise InputError("the words are not those that compress wrote")
        return np.frombuffer(part, "<u4").astype(np.uint32)


def _header(packed: bytes) -> Header:
    """The header from its bytes, whose digest was right: only those of a forger are none."""
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(packed, min(_MOST_HEADER, _PACKED * len(packed)))
        if not reader.eof:
            raise ValueError("longer than any that compress writes")
        fields = json.loads(text)
        blocks = tuple(Block(**block) for block in fields.pop("blocks"))
        shape, embedded = tuple(fields.pop("image_shape")), tuple(fields.pop("embedded"))
        header = Header(**fields, image_shape=shape, embedded=embedded, blocks=blocks)
        numbers = [*shape, *embedded[:2], header.batch, len(header.model)]
        for block in blocks:
            numbers += [block.images, block.size, *block.batches]
            if not 0 < block.images <= block_size(shape) or block.size % 4 or not block.size:
                raise ValueError("a block that is too large, or empty")
            if 0 in block.batches or sum(block.batches) > block.images:
                raise ValueError("batches that are not of the block")
        whole = all(type(number) is int and number >= 0 for number in numbers)
        if len(shape) != 3 or len(embedded) != 3 or not whole or header.batch < 1:
            raise ValueError("numbers out of range")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise InputError("the header of the archive is not one that compress writes") from error
    return header


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST).digest()
