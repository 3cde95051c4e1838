"""Which of the pictures in a folder can be read."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.pictures import read_header, read_pixels
from ppl_vae.errors import InputError
from ppl_vae.machine.progress import Progress

__all__ = ["readable_files"]

_NAMED = 20  # files in a remark


def readable_files(folder: Path, names: NDArray[np.bytes_]) -> tuple[NDArray[np.bytes_], str]:
    """The files whose pixels can be read, and a remark on the others.

    Args:
        folder: The folder.
        names: Of the files, as seen from it.

    Raises:
        InputError: If none can be read.
    """
    kept, unread = [], []
    with Progress(f"reading {folder}", len(names), "images") as progress:
        for name in names:
            file = folder / os.fsdecode(name)
            try:
                header = read_header(file)
                read_pixels(file, 3 if header.colour else 1, header.deep)
                kept.append(name)
            except InputError as error:
                unread.append((os.fsdecode(name), error))
            progress.advance(1)
    if not kept:
        raise InputError(f"none of the {len(names):,} images can be read: {unread[0][1]}")
    shown = ", ".join(name for name, _ in unread[:_NAMED])
    more = f" and {len(unread) - _NAMED:,} more" if len(unread) > _NAMED else ""
    remark = f"left out {len(unread):,} that cannot be read ({shown}{more})" if unread else ""
    return np.array(kept), remark
