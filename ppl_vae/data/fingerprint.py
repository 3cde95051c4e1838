"""The fingerprint of a data set: for each split the number of its images and a digest.

A digest is of the images, in their order, and of their labels: data with equal fingerprints have
the same images in the same splits.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from math import ceil
from os import SEEK_END
from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_vae.data.source import Images
from ppl_vae.data.split import Data
from ppl_vae.data.stored import pieces
from ppl_vae.errors import InputError

__all__ = ["check_same_data", "fingerprint_in", "images_fingerprint", "mark_of"]

_DIGESTED = 2**28  # bytes of a split; of a larger one every second image, or every third, ...
_PART = 4096  # bytes of a file that are read together
_PARTS = 16  # of a file that is larger than that many


def images_fingerprint(images: Images) -> str:
    """The fingerprint of a split, as COUNT-DIGEST.

    The digest is of the marks of the images where they have some, else of their pixels, as they
    are stored.
    """
    digest = hashlib.sha256()
    if images.marks is None:
        size = images.pixels.shape.numel() * images.pixels.dtype.itemsize
        for piece in pieces(images.pixels, max(1, ceil(size / _DIGESTED))):
            digest.update(_bytes(piece))
    else:
        digest.update(_bytes(images.marks))
    if images.labels is not None:
        digest.update(_bytes(images.labels))
    return f"{len(images)}-{digest.hexdigest()[:32]}"


def _bytes(tensor: Tensor) -> Any:
    return tensor.cpu().contiguous().numpy()


def mark_of(name: bytes, path: Path) -> int:
    """A 64-bit number for a file: of its name, its size, and its bytes.

    Those are all of a file of up to 64 KiB, and else 16 times 4 KiB, evenly from its start to its
    end: nearly any change of a compressed file is seen in them.
    """
    with open(path, "rb") as file:
        size = file.seek(0, SEEK_END)
        digest = hashlib.sha256(b"%s\0%d\0" % (name, size))
        whole = size <= _PART * _PARTS
        for start in [0] if whole else [(size - _PART) * n // (_PARTS - 1) for n in range(_PARTS)]:
            file.seek(start)
            digest.update(file.read(size if whole else _PART))
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def fingerprint_in(state: Mapping[str, Any]) -> Sequence[str]:
    """The fingerprint in the state of a checkpoint; older ones have the sizes alone, or nothing."""
    return state.get("fingerprint") or [str(size) for size in state.get("sizes") or ()]


def check_same_data(data: Data, expected: Sequence[str]) -> None:
    """Raises if the data of a run have changed.

    Of a run without digests a note says so, and only the numbers of images are compared.

    Args:
        data: The data as they are now.
        expected: The fingerprint of the run's data, empty where it is not known.

    Raises:
        InputError: If the two differ.
    """
    now, before = (
        [each.partition("-")[::2] for each in prints] for prints in (data.fingerprint, expected)
    )
    total = sum(int(count) for count, _ in before)
    known = bool(before) and bool(before[0][1])
    differ = [
        name
        for name, (count, digest), (old_count, old_digest) in zip(
            ("training", "validation", "test"), now, before, strict=False
        )
        if count != old_count or (known and digest != old_digest)
    ]
    remedy = "put the old ones back, or train again"
    if differ and sum(data.sizes) != total:
        raise InputError(
            f"expected the {total:,} images that the run was trained with; {data.name} has "
            f"{sum(data.sizes):,} by now; {remedy}"
        )
    if differ:
        raise InputError(
            f"expected the images that the run was trained with; of {data.name} the "
            f"{' and '.join(differ)} images are others by now (renamed, moved or changed); {remedy}"
        )
    if now[0][1] and not known:
        print(
            "note: the run is of an earlier release and has no fingerprint of its data; whether "
            f"{data.name} is still what it was trained on cannot be checked",
            file=sys.stderr,
        )
