"""Compress images without loss, with a run's own model: `python -m ppl_vae.compress RUN FILES`."""

import time
from math import log, prod
from pathlib import Path
from shlex import join
from typing import Any

import numpy as np

from ppl_vae.coding.archive import Archive, pack_model
from ppl_vae.coding.bits_back import BATCH
from ppl_vae.coding.compressing import archived, blocks_of
from ppl_vae.coding.conversion import integer_pair
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.coding.originals import InMemory, Originals, originals_in
from ppl_vae.coding.others import bits_of_others
from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import add_run, parse_with_run, pop_other_data, pop_run, run_verb
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError, check_within
from ppl_vae.evaluate import Choice, chosen_images
from ppl_vae.machine.files import check_writable, whole_file
from ppl_vae.machine.progress import Progress, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate
from ppl_vae.pairs.pieces import instance
from ppl_vae.runs.results import write_numbers
from ppl_vae.runs.run import Run, as_run

__all__ = ["COMPRESSION", "compress", "main", "measure"]

COMPRESSION = "compression.json"

_PARTICLES = 10  # of the ELBO that stands beside the length


def compress(
    run: Run | Path | str, images: Any, embed_model: bool = False, batch_size: int = BATCH
) -> bytes:
    """Compresses images without loss, in about -ELBO of the run for each.

    Bits-back coding (Townsend, Bird and Barber, 2019) with the run's pair in whole numbers, so that
    every machine decodes the same. A block of up to 4,096 images decodes by itself.

    Args:
        run: A run of binary images or of bytes, or its path. Its pair has to be one that can code,
            as `ppl_vae.coding.integer_pair` says.
        images: An array, a tensor or a `Split`, (N, C, H, W), of 0 and 1 or of bytes as the run has
            them; a `DataSet` or its class, of which all images are taken; the path of a `.npy`
            file, of a picture or a folder, or a list of paths of pictures.
        embed_model: Whether the archive has the model too, so that it decodes without the run.
        batch_size: How many images are coded together, at most.

    Returns:
        The archive, for `decompress`.

    Raises:
        InputError: If the run's pair cannot code, or the images are none that it is a model of.
    """
    check_within("batch_size", batch_size, 1)
    run = as_run(run)
    pair = integer_pair(run.model, run.guide)
    originals = _originals(run, pair, images)
    if not len(originals):
        raise InputError("expected at least one image; got none")
    with Progress("compressing", len(originals), "images") as progress, seeded(run.device, 0):
        return archived(pair, originals, embed_model, batch_size, progress.advance)


def _originals(run: Run, pair: IntegerPair, images: Any) -> Originals:
    levels = pair.pixels.levels
    if isinstance(images, str | Path):
        images = [images]
    images = instance("data", images)
    if isinstance(images, DataSet):
        images = run.other_data(images).all
    if isinstance(images, list | tuple) and all(isinstance(each, str | Path) for each in images):
        return originals_in([Path(each).expanduser() for each in images], pair.image_shape, levels)
    return InMemory(images, pair.image_shape, levels)


def measure(
    run: Run | Path | str, split: Choice = "test", data_points: int | None = None
) -> dict[str, Any]:
    """Measures the length of coded images beside -ELBO, and beside other compressors.

    Args:
        run: As for `compress`.
        split: The images.
        data_points: The first so many of them only; all unless given.

    Returns:
        What RUN/compression.json holds: `bits_per_dim`, the archive's length over N C H W;
        `negative_elbo_bits_per_dim`, -ELBO / (C H W ln 2) of the networks in floating point, with
        its standard error; `wrong_images`, those that did not come back, 0; `model_bytes`, what
        `embed_model` would add; images per second, each way; and under `others` the bits per dim of
        other compressors on the same images.

    Raises:
        InputError: As for `compress`.
    """
    run = as_run(run)
    _, images = chosen_images(run, split, None)
    wanted = len(images) if data_points is None else data_points
    check_within("data_points", wanted, 1, len(images))
    images = images.first(wanted)
    pair = integer_pair(run.model, run.guide)
    codes = _originals(run, pair, images).read(0, wanted)
    began = time.monotonic()
    data = compress(run, codes)
    middle = time.monotonic()
    back = np.concatenate([images for _, images in blocks_of(Archive(data), pair)])
    ended = time.monotonic()
    dims = prod(pair.image_shape)
    with Progress("measuring the ELBO", wanted, "images") as progress, seeded(run.device, 0):
        elbo = estimate(run.model, run.guide, images, _PARTICLES, advance=progress.advance).elbo
    bits = -elbo / (dims * log(2))
    return {
        "data": run.data.name,
        "split": split,
        "data_points": wanted,
        "bits_per_dim": 8 * len(data) / codes.size,
        "negative_elbo_bits_per_dim": float(bits.mean()),
        "negative_elbo_bits_per_dim_standard_error": float(bits.std()) / wanted**0.5,
        "wrong_images": int((back != codes).reshape(wanted, -1).any(1).sum()),
        "others": bits_of_others(codes, pair.pixels.levels),
        "model_bytes": len(pack_model(pair.data)),
        "compressed_images_per_second": wanted / (middle - began),
        "decompressed_images_per_second": wanted / (ended - middle),
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line of `compress`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("compress", "Compress images without loss, with the model of a run.")
    add_run(parser, other_data=True)
    parser.add_argument("files", type=Path, nargs="*", help="Pictures, folders, or one .npy file.")
    parser.add_argument("-o", "--out", type=Path, help="The archive to write.")
    parser.add_argument("--split", type=Choice, help="Take a split of the run's data, no files.")
    parser.add_function_arguments(compress, skip={"run", "images"}, as_group=False)
    help_of_measure = "Write no archive: measure the length, on the test split unless --split says."
    parser.add_argument("--measure", type=bool, default=False, help=help_of_measure)
    parser.add_argument("--data_points", type=int, help="Measure the first so many images only.")
    options = parse_with_run(parser, arguments)
    data_set = pop_other_data(options)
    files, out, split, measuring, data_points = (
        options.pop(name) for name in ("files", "out", "split", "measure", "data_points")
    )
    sources = [each for each in (files, split, data_set) if each]
    if measuring:
        archive_options = {"embed_model": False, "batch_size": BATCH}
        if out or files or data_set or any(options[n] != v for n, v in archive_options.items()):
            raise InputError(
                "--measure writes no archive and takes a split of the run's data; leave files, "
                "--data, --out, --embed_model and --batch_size out"
            )
        run = pop_run(options)
        result = measure(run, split or "test", data_points)
        print(_table(run, result))
        write_numbers(run.path / COMPRESSION, result)
        return
    if data_points is not None:
        raise InputError("--data_points goes with --measure true; leave it out")
    if len(sources) != 1:
        raise InputError(
            "expected either files, a --split of the run's data or other --data to compress; got "
            f"{'more than one of them' if sources else 'none of them'}"
        )
    if out is None:
        raise InputError("expected --out with the archive to write, as -o images.pvz; got none")
    if out.exists():
        raise InputError(f"{out} exists already; name another archive with --out")
    check_writable(out.parent, "name another place with --out")
    run = pop_run(options)
    images = files or data_set or chosen_images(run, split, None)[1]
    data = compress(run, images, **options)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file:
        file.write(data)
    header = Archive(data).header
    dims = header.count * prod(header.image_shape)
    print(f"{out}: {header.count:,} images, {8 * len(data) / dims:.3f} bits per dim")
    named = [] if options["embed_model"] else ["--run", str(run.path)]
    print(f"  next  python -m ppl_vae.decompress {join([str(out), *named])} -o images")


def _table(run: Run, result: dict[str, Any]) -> str:
    rows = {
        "this run": f"{result['bits_per_dim']:.4f} bits per dim",
        "-ELBO": f"{result['negative_elbo_bits_per_dim']:.4f}",
        **{name: f"{bits:.4f}" for name, bits in result["others"].items()},
        "model": f"{result['model_bytes']:,} bytes, with --embed_model true",
        "speed": f"{result['compressed_images_per_second']:,.0f} images per second, and "
        f"{result['decompressed_images_per_second']:,.0f} back",
        "wrong": f"{result['wrong_images']:,} images did not come back",
    }
    return table(f"{run.path}: {result['data']}, {result['data_points']:,} images", rows)


if __name__ == "__main__":
    main()
