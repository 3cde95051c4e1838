"""Decompress an archive of images: `python -m ppl_vae.decompress ARCHIVE -o DIR`."""

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.archive import Archive
from ppl_vae.coding.compressing import blocks_of, pair_in
from ppl_vae.coding.conversion import integer_pair
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.coding.written import writer
from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.pieces import ALLOW_CODE_HELP
from ppl_vae.command_line.verbs import run_verb
from ppl_vae.errors import InputError, as_path
from ppl_vae.machine.files import check_writable, unfinished_folder
from ppl_vae.machine.progress import Progress
from ppl_vae.runs.run import Run, as_run, load

__all__ = ["decompress", "decompress_to", "main"]


def decompress(data: bytes, run: Run | Path | str | None = None) -> NDArray[np.uint8]:
    """The images of an archive that `compress` made.

    Args:
        data: The archive.
        run: The run that it was compressed with, or its path; without one the archive has to have
            its model.

    Returns:
        (N, C, H, W), of 0 and 1 or of bytes.

    Raises:
        InputError: If it is no archive, or is damaged, or was compressed with another run.
    """
    archive = Archive(data)
    pair = _pair(archive, run)
    with Progress("decompressing", archive.header.count, "images") as progress:
        blocks = [images for _, images in blocks_of(archive, pair, progress.advance)]
    return np.concatenate([np.empty((0, *pair.image_shape), np.uint8), *blocks])


def _pair(archive: Archive, run: Run | Path | str | None) -> IntegerPair:
    if run is None:
        return pair_in(archive, None)
    run = as_run(run)
    return pair_in(archive, integer_pair(run.model, run.guide))


def decompress_to(
    data: bytes, out: Path | str, run: Run | Path | str | None = None, salvage: bool = False
) -> tuple[int, list[str]]:
    """Writes the images of an archive as files, as they were, into a folder that is there then.

    Pictures become PNG files of the same name, pixels and mode; an array becomes a `.npy` file.

    Args:
        data: The archive.
        out: The folder, which must not exist.
        run: As for `decompress`.
        salvage: Whether to write the blocks that are whole where others are damaged. Of an array,
            images that are lost are 0.

    Returns:
        How many images were written, and of each damaged block a phrase that says which images
        were in it.

    Raises:
        InputError: As for `decompress`, or if the folder exists or cannot be written.
    """
    out = as_path("out", out)
    if out.exists():
        raise InputError(f"{out} exists already; name another folder with --out")
    archive = Archive(data, salvage)
    pair = _pair(archive, run)
    count = archive.header.count
    check_writable(out.parent, "name another place with --out")
    written, lost = 0, list[str]()
    with unfinished_folder(out) as unfinished:
        write = writer(archive.header.originals, count, pair.pixels.levels, unfinished)
        with Progress("decompressing", count, "images") as progress:
            leave_out = lost if salvage else None
            for start, images in blocks_of(archive, pair, progress.advance, leave_out):
                write(start, images)
                written += len(images)
        if lost and not written:
            raise InputError("every block of the archive is damaged; nothing of it can be read")
        os.replace(unfinished, out)
    return written, lost


def main(arguments: list[str] | None = None) -> None:
    """The command line of `decompress`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("decompress", "Write the images of an archive again, as they were.")
    parser.add_argument("archive", type=Path, help="The archive, as compress wrote it.")
    parser.add_argument("-o", "--out", type=Path, help="The folder to write.")
    parser.add_argument("--run", type=Path, help="The run it was compressed with.")
    parser.add_argument("--allow_code", type=bool, default=False, help=ALLOW_CODE_HELP)
    help_of_salvage = "Write the images that are whole where others are damaged."
    parser.add_argument("--salvage", type=bool, default=False, help=help_of_salvage)
    options = parser.parse_args(arguments)
    if options.out is None:
        raise InputError("expected --out with the folder to write, as -o images; got none")
    try:
        data = options.archive.read_bytes()
    except OSError as error:
        raise InputError(
            f"expected an archive at {options.archive} ({error.strerror}); name a file that "
            "compress wrote"
        ) from error
    run = load(options.run, "cpu", options.allow_code) if options.run else None
    written, lost = decompress_to(data, options.out, run, options.salvage)
    header = Archive(data, options.salvage).header
    fate = "; they are black" if header.originals["kind"] == "array" else " and not written"
    for each in lost:
        print(f"note: {each} is damaged{fate}", file=sys.stderr)
    count = f"{written:,} of {header.count:,}" if lost else f"{written:,}"
    print(f"{options.out}: {count} images")


if __name__ == "__main__":
    main()
