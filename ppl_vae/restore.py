"""Restore corrupted images by the model as their prior: `python -m ppl_vae.restore RUN`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.corruptions import Corruption, Downsampled, SaltAndPepper
from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.pieces import piece_arguments, piece_of
from ppl_vae.command_line.verbs import (
    add_run,
    parse_with_run,
    pop_other_data,
    pop_run,
    run_verb,
)
from ppl_vae.data.corrupted_images import listed_images
from ppl_vae.errors import InputError, as_path, check_within, reason
from ppl_vae.inference.noise_level import infer_unknown
from ppl_vae.inference.restoration import Method, check_sampling
from ppl_vae.latents.restoring import Images, Restoration, diagnostics, restored, seen_of
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.files import check_writable, whole_file
from ppl_vae.machine.progress import Progress, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.denoisers import METHODS, SHORT, compare, installed, missing
from ppl_vae.measures.restorations import restoration_scores
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pictures.restorations import draw_restorations, write_images
from ppl_vae.runs.results import plain, writable, write_numbers
from ppl_vae.runs.run import Run, as_run

__all__ = ["RESTORATION", "Restoration", "main", "restore", "write"]

RESTORATION = "restoration.json"

_USUAL = 100  # images of the run's own data


@called_anywhere
def restore(
    run: Run | Path | str,
    images: Any = None,
    *,
    corruption: Corruption,
    corrupt: bool = False,
    labels: Any = None,
    split: Literal["train", "validation", "test"] = "test",
    count: int | None = None,
    method: Method = "auto",
    restorations: int = 8,
    draws: int = 100,
    particles: int = 2000,
    compare_with_others: bool = True,
    seed: int = 0,
) -> Restoration:
    """Draws from p(x|y) of corrupted images y, the run's model being the prior on images x.

    p(x|y) = int p(x|z, y) p(z|y) dz, with p(z|y) proportional to p(z) p(y|z) and
    p(y|z) = prod_i E[p(y_i|x_i)|z], which is exact for a corruption of each pixel by itself. How
    p(z|y) is sampled: `ppl_vae.inference.restoration`.

    Args:
        run: A trained run, or its path; its guide is a density.
        images: The corrupted images, as `Run.split_of` takes them; floating-point arrays are
            intensities, with NaN where a pixel is missing. With `corrupt` the originals; those of
            the run's data unless given. Unless given, those of the run's data too where these have
            missing pixels. Of a run on a table they are its rows (N, columns).
        corruption: p(y|x). A parameter that it leaves out is inferred from all the images.
        corrupt: Whether to corrupt the images first, so that the restorations can be measured.
        labels: Of the images, where the model takes the class as given.
        split: Of the run's data, where its images are taken.
        count: So many of the images, the first ones. All images that are given, or 100 of the
            run's, unless given.
        method: `importance`, `nuts`, `annealing`, or `auto`, which goes on to the next where a
            diagnostic says that it must.
        restorations: K, draws from p(x|y) to keep of each image.
        draws: S, draws that means, deviations and scores are computed from.
        particles: Importance draws, of which S are resampled.
        compare_with_others: Whether to measure scikit-image's methods too, where it is installed.
        seed: The seed of the corruption and of all draws.

    Raises:
        InputError: If the images, the corruption or a number do not fit, or the guide is a point.
    """
    check_within("restorations", restorations, 1)
    check_within("draws", draws, max(20, restorations))
    check_seed(seed)
    run = as_run(run)
    if images is None and not corrupt and not run.spec.holes:
        raise InputError("expected corrupted images (--images), or --corrupt true to make some")
    if run.facts.table:
        compare_with_others = False
        if isinstance(corruption, Downsampled | SaltAndPepper):
            raise InputError(
                f"{type(corruption).__name__} is for images, and the run's data are a table; "
                "choose Masked or GaussianNoise"
            )
    began = time.monotonic()
    with seeded(run.device, seed), _input_errors():
        check_sampling(method, draws, particles)
        run.guide.check_density("a restoration")
        own = images is None
        source = getattr(run.data, split) if own else images
        wanted = min(_USUAL, len(source)) if own and count is None else count
        seen = seen_of(run, source, corruption, corrupt, labels, wanted)
        inferred: dict[str, Any] = {}
        with Progress(f"restoring with {run.path}", len(seen), run.facts.noun) as progress:
            for name in corruption.unknown:
                corruption, error = infer_unknown(
                    run.model, run.guide, corruption, seen.y, seen.labels,
                    lambda note: progress.advance(0, note),
                )  # fmt: skip
                inferred = {name: corruption.value(name), f"{name}_standard_error": error}
            parts = [*restored(run, seen, corruption, draws, particles, method, progress)]
        every, mean, deviation = (
            torch.cat([getattr(part, name) for part in parts], axis)
            for name, axis in (("draws", 1), ("mean", 0), ("standard_deviation", 0))
        )
        others: dict[str, Tensor] = {}
        if compare_with_others and seen.x is not None and installed():
            others = compare(corruption, seen.y, seen.x)
        numbers = {
            "images": len(seen),
            "corruption": _described(corruption),
            "inferred": inferred,
            **diagnostics([part.latents for part in parts]),
        }
        if seen.x is not None:
            hidden = seen.y.isnan() if run.facts.table else None
            numbers["restoration"] = restoration_scores(seen.x, mean, every, hidden)
            numbers["others"] = {
                name: restoration_scores(seen.x, value) for name, value in others.items()
            }
            note = missing(corruption) if compare_with_others else None
            numbers |= {"note": note} if note else {}
    numbers |= {"draws": draws, "particles": particles, "method": method, "seed": seed}
    numbers["seconds"] = time.monotonic() - began
    in_units = run.facts.in_units
    return Restoration(
        _array(in_units(seen.y)),
        _array(in_units(mean)),
        _array(in_units(deviation, spread=True)),
        _array(in_units(every[:restorations].movedim(0, 1))),
        None if seen.x is None else _array(in_units(seen.x)),
        {name: _array(in_units(value)) for name, value in others.items()},
        seen.names,
        plain(numbers),
    )


@contextmanager
def _input_errors() -> Iterator[None]:
    """What does not fit the corruption or the guide, in one line."""
    try:
        yield
    except InputError:
        raise
    except (NotImplementedError, ValueError) as error:
        raise InputError(reason(error)) from error


def _array(values: Tensor) -> Images:
    return values.detach().cpu().numpy().astype(np.float32)


def _described(corruption: Corruption) -> dict[str, Any]:
    """The corruption by name and options; an array by its shape."""
    values = {field.name: getattr(corruption, field.name) for field in fields(corruption)}
    return {"class": type(corruption).__name__} | {
        name: value if isinstance(value, int | float | str | None) else str(
            getattr(value, "shape", value)
        )
        for name, value in values.items()
    }  # fmt: skip


def write(restoration: Restoration, folder: Path | str) -> list[Path]:
    """Writes the numbers, arrays and pictures of a restoration.

    Args:
        restoration: What `restore` returned.
        folder: Where to; it is made if missing.

    Returns:
        restoration.json, restoration.npz, restoration.png, and the folder images/ with the mean of
        each image under its own name; of the rows of a table the first two.

    Raises:
        InputError: If the folder cannot be written to.
        OSError: If a file cannot be written.
    """
    folder = writable(as_path("a folder", folder))
    paths = [folder / RESTORATION, folder / "restoration.npz"]
    write_numbers(paths[0], restoration.numbers)
    with whole_file(paths[1]) as file:
        np.savez(file, **restoration.arrays)  # type: ignore[arg-type]
    if restoration.mean.ndim == 2:
        return paths
    paths.append(folder / "restoration.png")
    scores = restoration.numbers.get("others") or {}
    best = max(scores, key=lambda name: scores[name]["psnr_decibels"], default=None)
    other = {SHORT[best]: restoration.others[best]} if best else {}
    draw_restorations(restoration.arrays, other, paths[-1])
    write_images(restoration.mean, restoration.names, writable(folder / "images"))
    return [*paths, folder / "images"]


def _report(run: Run, numbers: dict[str, Any]) -> str:
    rows = {run.facts.noun: f"{numbers['images']:,}"}
    for name, value in numbers["inferred"].items():
        if not name.endswith("standard_error"):
            error = numbers["inferred"][f"{name}_standard_error"]
            rows[name] = f"{value:.4g} +- {error:.2g}, inferred"
    rows["p(z|y) by"] = ", ".join(f"{n} {c:,}" for n, c in numbers["methods"].items())
    named = {"this model": numbers.get("restoration")} | (numbers.get("others") or {})
    for name, scores in named.items():
        if scores:
            rows[METHODS.get(name, name)] = ", ".join(
                f"{title} {scores[key]:.{digits}f} +- {scores[f'{key}_standard_error'] or 0:.1g}"
                for key, title, digits in _TITLES
                if key in scores
            )
    return table(f"restorations by {run.path}", rows)


_TITLES = (
    ("psnr_decibels", "PSNR", 2),
    ("squared_error_per_value", "squared error", 3),
    ("ssim", "SSIM", 3),
    ("crps", "CRPS", 4),
    ("coverage_of_90_percent", "coverage of 90 %", 3),
)


def main(arguments: list[str] | None = None) -> None:
    """The command line of `restore`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("restore", "Restore corrupted images; the model is the prior on them.")
    add_run(parser, other_data=True)
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        help="The corrupted images: pictures, folders of them, or one .npy or .npz file; the rows "
        "of a table, with NaN where a value is missing.",
    )
    parser.add_argument(
        "--skip_unreadable",
        type=bool,
        default=False,
        help="Whether pictures that cannot be read are left out, with a note.",
    )
    parser.add_argument("--out", type=Path, help="The folder to write to; RUN/restored by default.")
    parser.add_function_arguments(
        restore, skip={"run", "images", "corruption", "labels"}, as_group=False
    )
    parser.epilog += (  # type: ignore[operator]
        " --corruption CLASS is GaussianNoise, SaltAndPepper, Masked, Downsampled or a class of "
        "your own, with its options: --corruption GaussianNoise --corruption.scale 0.3; one that "
        "is left out is inferred."
    )
    own, others = piece_arguments("corruption", arguments)
    options = parse_with_run(parser, others)
    corruption: Corruption | None = piece_of("corruption", own)
    if corruption is None:
        raise InputError(
            "expected --corruption: GaussianNoise, SaltAndPepper, Masked, Downsampled, or a class "
            "of yours; got none"
        )
    out, paths = options.pop("out"), options.pop("images")
    skip = options.pop("skip_unreadable")
    data_set = pop_other_data(options)
    run = pop_run(options)
    images: Any = listed_images(paths, skip) if paths else None
    if data_set is not None:
        if paths:
            raise InputError("expected --images or --data, of which the images are; got both")
        images = run.other_data(data_set).test
    folder = out or run.path / "restored"
    check_writable(folder, "name another folder with --out")
    result = restore(run, images, corruption=corruption, **options)
    print(_report(run, result.numbers))
    if "note" in result.numbers:
        print(f"note: {result.numbers['note']}")
    for path in write(result, folder):
        print(path)


if __name__ == "__main__":
    main()
