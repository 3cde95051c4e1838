"""Compare what runs learned with PCA and k-means: `python -m ppl_vae.features RUN [RUN ...]`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import add_run, parse_with_run, pop_runs, run_verb
from ppl_vae.data import Split
from ppl_vae.errors import InputError, check_within
from ppl_vae.latents.codes import Code, TwoSplits, codes_of, flat_input, scores_of
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.files import whole_file
from ppl_vae.machine.progress import Progress
from ppl_vae.machine.randomness import seeded
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pictures import plots
from ppl_vae.pictures.figures import literal
from ppl_vae.runs.directory import PICTURES
from ppl_vae.runs.results import plain, writable, write_numbers
from ppl_vae.runs.run import Run, as_run

__all__ = ["FEATURES", "features", "main"]

FEATURES = "features.json"
ARRAYS = "features.npz"
SCORES_PICTURE = "features.png"
RECONSTRUCTIONS_PICTURE = "features_reconstructions.png"

_CLUSTERS = 10  # where the data have no labels
_SHOWN = 12  # test images in the picture of reconstructions
_BATCH = 1000
_SCORES = {
    "reconstruction_squared_error_per_pixel": "squared error per pixel",
    "clustering_accuracy": "clustering accuracy",
    "normalized_mutual_information": "mutual information",
    "adjusted_rand_index": "adjusted Rand index",
    "linear_probe_accuracy": "linear probe",
}


@called_anywhere
def features(
    *runs: Run | Path | str,
    train_points: int = 10_000,
    data_points: int | None = None,
    clusters: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Compares the features E[z|x] of runs with those of PCA and k-means, on the same images.

    For the pixels, k-means on them, PCA of as many dimensions as each run has, and each run:

    - reconstruction_squared_error_per_pixel: of the test images, from D numbers each (from the
      nearest centroid for k-means; E[x|z] at the posterior mean of z for a run), in squares of the
      units that networks see;
    - clustering_accuracy, normalized_mutual_information, adjusted_rand_index: of k-means on the
      features against the labels;
    - linear_probe_accuracy: of logistic regression on the features.

    All are fitted to training images and measured on test images, each with its standard error
    over the test images. Images whose label is not known, -1, are left out of the scores that need
    labels; where no label is known only the first score is there. Written are features.json and two
    pictures in the first run's directory (one of runs on a table), and each run's features with
    their labels as RUN/features.npz.

    Args:
        *runs: Trained runs on the same data, or their paths.
        train_points: Fit to at most the first so many training images.
        data_points: Measure on the first so many test images only; all unless given.
        clusters: How many for k-means; as many as there are labels, or else 10, unless given.
        seed: The seed of binarisation, k-means and the bootstrap.
        out: The folder to write everything to; features.npz of further runs is named
            features-2.npz, ... there.

    Returns:
        The content of `features.json`.

    Raises:
        InputError: If there is no run, one needs the class to encode an image, the runs' images
            differ, a number is out of range, or a folder cannot be written to; this is found out
            before anything is computed.
        OSError: If a file cannot be written at the end; the scores are printed then.
    """
    check_within("train_points", train_points, 2)
    check_seed(seed)
    if any(isinstance(run, (list, tuple)) for run in runs):
        raise InputError("expected each run by itself, as in features(run, other); got a list")
    loaded = tuple(map(as_run, runs))
    _check_encoders(loaded)
    _check_same_data(loaded)
    first = loaded[0]
    train, test, classes = first.data.train, first.data.test, first.data.classes
    if min(len(train), len(test)) < 2:
        raise InputError(
            "expected at least 2 training images and 2 test images; the data set has "
            f"{len(train):,} and {len(test):,}"
        )
    train_points = min(train_points, len(train))
    data_points = len(test) if data_points is None else data_points
    count = (classes or _CLUSTERS) if clusters is None else clusters
    for name, number, most in (
        ("data_points", data_points, len(test)),
        ("clusters", count, train_points),
    ):
        check_within(name, number, 2, most)
    train, test = train.first(train_points), test.first(data_points)
    places = _places(loaded, None if out is None else writable(out))
    for place in places:
        writable(place.parent)
    began = time.monotonic()
    labels, skipped = _labels(train, test)
    dimensions = sorted({run.model.code_dim for run in loaded})
    steps = 2 + len(dimensions) + len(loaded)
    codes, rows = [], []
    with Progress("comparing", steps, "representations") as progress, seeded(first.device, seed):
        x = _images(train), _images(test)
        flat = flat_input(first, x[0]), flat_input(first, x[1])
        for code in codes_of(loaded, x, flat, dimensions, count, seed):
            codes.append(code)
            rows.append(scores_of(code, flat[1], labels, count, seed))
            progress.advance(1, code.name)
    result: dict[str, Any] = {
        "data": first.data.name,
        "domain": first.data.domain,
        "split": "test",
        "representations": rows,
        "without_labels": skipped,
        "classes": classes,
        "clusters": count,
        "train_points": len(train),
        "data_points": len(test),
        "seconds": time.monotonic() - began,
        "seed": seed,
        "device": str(first.device),
    }
    result = plain(result)
    numbers, *pictures = places[: -len(loaded)]
    write_numbers(numbers, result)
    for path, code in zip(places[-len(loaded) :], codes[-len(loaded) :], strict=True):
        _save(path, code, labels)
    _draw(first, result, codes, x[1], labels, pictures)
    return result


def _places(runs: Sequence[Run], out: Path | None) -> list[Path]:
    """The scores, the two pictures, and the features of each run."""
    folder = out or runs[0].path / PICTURES
    pictures = [folder / SCORES_PICTURE]
    pictures += [] if runs[0].facts.table else [folder / RECONSTRUCTIONS_PICTURE]
    if out is None:
        return [runs[0].path / FEATURES, *pictures, *(run.path / ARRAYS for run in runs)]
    names = [ARRAYS, *(f"features-{number}.npz" for number in range(2, len(runs) + 1))]
    return [out / FEATURES, *pictures, *(out / name for name in names)]


def _check_encoders(runs: tuple[Run, ...]) -> None:
    for run in runs:
        if run.spec.holes:
            raise InputError(
                "expected runs of images without missing pixels, which PCA and k-means do not "
                f"take; {run.path} was trained on images with some; Run.encode has its features"
            )
        if run.model.given_class:
            raise InputError(
                f"expected runs that encode images alone; {type(run.model).__name__} of {run.path} "
                "is given the class, which is what the features are scored by; choose a run of "
                "another model"
            )


def _check_same_data(runs: tuple[Run, ...]) -> None:
    if not runs:
        raise InputError("expected at least one run; got none")
    first = runs[0].data
    for run in runs[1:]:
        other = run.data
        if first.domain != other.domain or not _same_images(first.test, other.test):
            raise InputError(
                f"expected runs on the same images; {runs[0].path} has {first.domain} "
                f"{first.name}, {run.path} has {other.domain} {other.name}"
            )


def _same_images(one: Split, other: Split) -> bool:
    return one.raw.shape == other.raw.shape and all(
        torch.equal(one[piece].cpu(), other[piece].cpu())
        for piece in (slice(start, start + _BATCH) for start in range(0, len(one), _BATCH))
    )


def _labels(train: Split, test: Split) -> tuple[TwoSplits | None, str | None]:
    """The labels, or the reason why they are of no use."""
    reason = "no clustering scores and no linear probe"
    if train.labels is None or test.labels is None:
        return None, f"{reason}: the data have no labels"
    labels = train.labels.cpu().numpy(), test.labels.cpu().numpy()
    known = min(len(np.unique(part[part >= 0])) for part in labels)
    if known < 2:
        why = "the images have one label only" if known else "no label is known"
        return None, f"{reason}: {why}"
    return labels, None


def _images(split: Split) -> Tensor:
    """The images as a run sees them, one binarisation or dequantisation for all."""
    return torch.cat(
        [split[start : start + _BATCH].cpu() for start in range(0, len(split), _BATCH)]
    )


def _save(path: Path, code: Code, labels: TwoSplits | None) -> None:
    arrays: dict[str, Any] = {"train": code.train, "test": code.test}
    if labels is not None:
        arrays |= {"train_labels": labels[0], "test_labels": labels[1]}
    with whole_file(path) as file:
        np.savez(file, **arrays)


def _draw(
    run: Run,
    result: dict[str, Any],
    codes: list[Code],
    x: Tensor,
    labels: TwoSplits | None,
    pictures: Sequence[Path],
) -> None:
    rows = result["representations"]
    note = f"{_images_of(result)}; bars are two standard errors either way"
    plots.score_chart(rows, _scores_in(rows), pictures[0], note)
    if run.facts.table:
        return
    if labels is None:
        chosen = list(range(min(_SHOWN, len(x))))
    else:  # one image of each known label, in their order
        there, places = np.unique(labels[1], return_index=True)
        chosen = list(places[there >= 0][:_SHOWN])
    originals = run.spec.network_input(x[chosen]).numpy()
    rebuilt = {
        code.name: code.reconstruction[chosen].reshape(originals.shape)
        for code in codes
        if code.reconstruction is not None
    }
    domain = "unit" if run.spec.domain == "bytes" else run.spec.domain
    plots.image_grid(
        [plots.to_display(images, domain, like=originals)
         for images in (originals, *rebuilt.values())],
        pictures[1],
        title="Images of the test split and what is left of them",
        row_labels=["original", *map(literal, rebuilt)],
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """The command line of `features`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb(
        "features", "Compare the features of runs with PCA and k-means, on the same images."
    )
    add_run(parser, several=True)
    parser.add_function_arguments(features, skip={"runs"}, as_group=False)
    options = parse_with_run(parser, arguments)
    runs = pop_runs(options)
    result = features(*runs, **options)
    print(f"{_images_of(result)}, in {result['seconds']:.1f} seconds")
    print(_table(result["representations"]))
    if result["without_labels"]:
        print(f"  {result['without_labels']}")
    out = options["out"]
    for path in _places(runs, None if out is None else Path(out)):
        print(f"  written  {path}")


def _images_of(result: dict[str, Any]) -> str:
    return (
        f"{result['data']}, {result['data_points']:,} test images, fitted to "
        f"{result['train_points']:,} training images"
    )


def _scores_in(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The scores that any of the rows has, with their titles."""
    return {name: title for name, title in _SCORES.items() if any(name in row for row in rows)}


def _table(rows: list[dict[str, Any]]) -> str:
    shown = _scores_in(rows)
    lines = [["", "dimension", *shown.values()]]
    for row in rows:
        cells = [row["name"], "" if row["dimension"] is None else f"{row['dimension']:,}"]
        for name in shown:
            value, error = row.get(name), row.get(f"{name}_standard_error")
            cells.append("" if value is None else f"{value:.4f} +- {error:.1g}")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  " + "  ".join(cells).rstrip() for cells in padded)


if __name__ == "__main__":
    main()
