"""Show what a trained pair has learned: `python -m ppl_vae.generate RUN WHAT`."""

import re
from collections.abc import Callable
from math import ceil, sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import add_run, parse_with_run, pop_run, run_verb
from ppl_vae.errors import InputError
from ppl_vae.latents.views import (
    Arrays,
    interpolate,
    manifold,
    reconstruct,
    sample,
    traverse,
)
from ppl_vae.latents.views_by_class import analogies, clusters
from ppl_vae.latents.views_by_level import levels
from ppl_vae.machine.files import whole_file
from ppl_vae.machine.notebook import Pictures
from ppl_vae.machine.progress import announced
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pictures import plots
from ppl_vae.pictures.figures import literal, tiled
from ppl_vae.runs.results import writable
from ppl_vae.runs.run import Run, as_run

__all__ = [
    "analogies",
    "clusters",
    "generate",
    "interpolate",
    "levels",
    "manifold",
    "reconstruct",
    "sample",
    "traverse",
]

What = Literal[
    "sample",
    "reconstruct",
    "manifold",
    "traverse",
    "interpolate",
    "levels",
    "analogies",
    "clusters",
]
_CHOICES = "sample, reconstruct, manifold, traverse, interpolate, levels, analogies or clusters"


@called_anywhere
def generate(
    run: Run | Path | str,
    what: What,
    count: int | None = None,
    images: list[int] | None = None,
    rows: int = 20,
    steps: int = 11,
    latents: int = 10,
    label: int | str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
) -> Pictures:
    """Shows what a trained pair has learned, as a picture and as arrays in RUN/generated/.

    Of a run on a table there are the arrays alone.

    Args:
        run: A trained run, or its path.
        what: `sample` draws from the prior; `reconstruct` encodes and decodes test images;
            `manifold` decodes a grid over a two-dimensional z; `traverse` moves one latent at a
            time over its range in the data, those with the largest effect first; `interpolate`
            goes from one test image to another; `levels` holds the upper latents of a test image
            and draws those below, under a model of several latent sites; `analogies` decodes the
            style of a test image with every class, under a model of labelled images; `clusters`
            draws from each cluster of a `Mixture`.
        count: How many: 64 samples, 16 reconstructions, 1 image to traverse from or to hold the
            levels of, 8 pairs to interpolate between, 10 styles or 10 images of each cluster
            unless given. The picture shows at most 1,024 samples.
        images: Which test images, counted from 0, instead of the first `count`; for
            `interpolate` in pairs.
        rows: Images from bottom to top and from left to right of the manifold.
        steps: Positions of a latent in `traverse`, images on the line in `interpolate`, draws at
            each level in `levels`.
        latents: How many latents `traverse` shows.
        label: Of which class, by its number or name, `sample` draws, under a model that has
            classes; of all unless given.
        seed: The seed of all draws.
        out: The folder to write to; RUN/generated/ unless given.

    Returns:
        The files written: WHAT.png, WHAT.npz and, for `traverse`, traverse.gif; WHAT is
        sample-label-Y for samples of the class Y. It is a list, which a notebook shows as pictures.

    Raises:
        InputError: If something given is wrong; nothing is written then.
        OSError: If the files cannot be written.
    """
    if label is not None and what != "sample":
        raise InputError(f"--label is for sample; leave it out of {what}")
    run = as_run(run)
    # Counts above the number of test images are refused only where they were asked for.
    size = len(run.data.test)
    usual = {"sample": 64, "reconstruct": min(16, size), "traverse": 1, "levels": 1,
             "interpolate": max(1, min(8, size // 2)), "analogies": min(10, size)}  # fmt: skip
    number = usual.get(what, 10) if count is None else count
    views: dict[str, Callable[[], Arrays]] = {
        "sample": lambda: sample(run, number, seed, label),
        "reconstruct": lambda: reconstruct(run, images, number, seed),
        "manifold": lambda: manifold(run, rows, seed),
        "traverse": lambda: traverse(run, images, number, steps, latents, seed),
        "interpolate": lambda: interpolate(run, images, number, steps, seed),
        "levels": lambda: levels(run, images, number, steps, seed),
        "analogies": lambda: analogies(run, images, number, seed),
        "clusters": lambda: clusters(run, number, seed),
    }
    if what not in views:
        raise InputError(f"expected {_CHOICES}; got {what!r}")
    with announced(f"generate {what}: decoding"):
        arrays = views[what]()
    folder = writable(out or run.path / "generated")
    name = what if label is None else f"{what}-label-{label}"
    with announced(f"generate {what}: writing the picture and the arrays"):
        written = Pictures()
        if not run.data.table:
            written += _draw(run, what, arrays, folder / f"{name}.png", label)
        written.append(folder / f"{name}.npz")
        with whole_file(written[-1]) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    return written


_SHOWN = 1024  # samples in the picture; of more one would see none
_UNITS = {
    "binary": "a probability",
    "unit": "of grey levels from 0 to 1",
    "bytes": "of grey levels from 0 to 255",
    "real": "in units of $x$",
}


def _draw(run: Run, what: What, arrays: Arrays, path: Path, label: int | str | None) -> list[Path]:
    limits = run.data.in_units(run.data.test[slice(0, 256)]).cpu().numpy()

    def display(name: str) -> NDArray[np.float64]:
        return plots.to_display(arrays[name], run.spec.domain, like=limits)

    mean = display("mean")
    expectation = plots.sample_titles(run.model)[0].partition(",  ")[0]
    if what == "sample":
        shown = min(len(mean), _SHOWN)
        columns = ceil(sqrt(shown))
        halves = [tiled(images[:shown], columns) for images in (mean, display("draw"))]
        plots.image_grid(
            np.concatenate(halves, axis=1),
            path,
            blocks=(len(halves[0]), columns),
            block_titles=plots.sample_titles(run.model, label),
        )
    elif what == "reconstruct":
        plots.reconstructions(display("original"), mean, path)
    elif what == "manifold":
        ticks = arrays["z"]
        plots.image_grid(
            mean,
            path,
            row_labels=_numbers(ticks[:, 0, 1]),
            column_labels=_numbers(ticks[0, :, 0]),
            axis_labels=("$z_0$", "$z_1$"),
        )
    elif what == "traverse":
        change = f"root mean square change of {expectation} per pixel ({_UNITS[run.spec.domain]})"
        names = [run.model.latent_name(latent) for latent in arrays["order"][: len(mean)]]
        return _draw_traversal(mean, display("original"), names, arrays, path, change)
    elif what == "levels":
        tiles = np.concatenate([np.full_like(mean[:, :, :1], np.nan), mean], axis=2)
        tiles[0, :, 0] = display("original")
        plots.image_grid(
            tiles.swapaxes(0, 1).reshape(-1, *tiles.shape[2:]),
            path,
            title=f"{expectation}, drawn from $p$ from one site on, given a draw of those above",
            row_labels=[literal(f"from {site} on") for site in run.model.latents] * mean.shape[1],
            blocks=(len(tiles), tiles.shape[2]),
        )
    elif what == "analogies":
        tiles = np.concatenate([display("original")[:, None], mean], axis=1)
        names = [*map(literal, run.data.class_names or map(str, range(mean.shape[1])))]
        title = "$E[x|z, y]$: in a row one style $z$, in a column one class $y$"
        plots.image_grid(tiles, path, title=title, column_labels=["image", *names])
    elif what == "clusters":
        shares = zip(arrays["order"], arrays["probabilities"], strict=True)
        labels = [f"$y = {y}$,  $p(y) = {share:.2f}$" for y, share in shares]
        title = "$E[x|z]$,  $z \\sim p(z|y)$"
        plots.image_grid(mean, path, title=title, row_labels=labels)
    else:
        original = display("original")
        tiles = np.concatenate([original[:, :1], mean, original[:, 1:]], axis=1)
        labels = ["image", *_numbers(arrays["t"]), "image"]
        title = f"{expectation} along $z = (1 - t)\\,z_a + t\\,z_b$"
        plots.image_grid(tiles, path, title=title, column_labels=labels)
    return [path]


def _draw_traversal(
    mean: NDArray, original: NDArray, names: list[str], arrays: Arrays, path: Path, change: str
) -> list[Path]:
    latents, images = mean.shape[:2]
    first = np.full((latents, images, 1, *original.shape[1:]), np.nan)
    first[: None if images > 1 else 1, :, 0] = original
    tiles = np.concatenate([first, mean], axis=2)
    effects = arrays["effects"][arrays["order"][:latents]]
    labels = [
        f"{name}  effect {effect:#.2g}".rstrip(".") if image == 0 else ""
        for name, effect in zip(names, effects, strict=True)
        for image in range(images)
    ]
    quantiles = [f"{100 * value:.0f} %" for value in arrays["probabilities"]]
    paths = [path, path.with_suffix(".gif")]
    plots.image_grid(
        tiles.reshape(-1, *tiles.shape[2:]),
        paths[0],
        title=f"One latent at a time over its quantiles under $q(z)$; effect: {change}",
        row_labels=labels,
        column_labels=["image", *quantiles],
        blocks=(images if images > 1 else latents, tiles.shape[2]),
    )
    plots.animation(
        mean.transpose(2, 1, 0, 3, 4, 5),
        paths[1],
        titles=[f"quantile {value}" for value in quantiles],
        column_labels=names,
    )
    return paths


def _numbers(values: NDArray) -> list[str]:
    return [f"{value:.2f}".replace("-", "\u2212") for value in values]


def main(arguments: list[str] | None = None) -> None:
    """The command line of `generate`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("generate", "Show what a trained pair has learned.")
    add_run(parser)
    parser.add_function_arguments(generate, skip={"run"}, as_group=False, as_positional=True)
    try:
        options = parse_with_run(parser, arguments)
    except InputError as error:
        # To the parser `what` is an option like any other.
        refused = re.fullmatch(r"(?:--what: .*?|expected what); got (.*)", str(error))
        if refused is None:
            raise
        got = "none" if str(error).startswith("expected what") else repr(refused[1])
        raise InputError(f"expected {_CHOICES} after the run; got {got}") from error
    run = pop_run(options)
    for path in generate(run, **options):
        print(path)


if __name__ == "__main__":
    main()
