"""Pictures: arrays in, one file out. Matplotlib and Pillow are imported where they draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models import Domain, Model
from ppl_vae.machine.files import whole_file
from ppl_vae.pictures.figures import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    literal,
    new_figure,
    pixels_of,
    save,
    sheet,
    tiled,
)

__all__ = [
    "animation",
    "image_grid",
    "learning_curves",
    "reconstructions",
    "sample_titles",
    "score_chart",
    "to_display",
]


_SECONDS = 3.0  # that an animation takes there and back
_FAR_OFF = 20  # interquartile ranges from the median


def to_display(images: ArrayLike, domain: Domain, like: ArrayLike) -> NDArray[np.float64]:
    """Images of a domain as grey or colour values in [0, 1].

    Bytes are divided by 255. Other data are clamped to [0, 1], except real data that leave it,
    which are scaled by (x - min) / (max - min) first. Missing pixels stay NaN.

    Args:
        images: Images of any shape, in units of the domain.
        domain: The domain of the pixels.
        like: The images that min and max are taken from, so that several pictures share one
            scale.

    Returns:
        An array of the same shape in [0, 1].
    """
    values = np.asarray(images, dtype=np.float64)
    if domain == "bytes":
        values = values / 255
    elif domain == "real":
        reference = np.asarray(like, dtype=np.float64)
        reference = reference[~np.isnan(reference)]
        low, high = (reference.min(), reference.max()) if reference.size else (0.0, 1.0)
        if low < 0 or high > 1:
            values = (values - low) / (high - low if high > low else 1.0)
    return np.clip(values, 0, 1)


def image_grid(images: ArrayLike, path: Path, columns: int | None = None, **layout: Any) -> None:
    """Draws images in rows and columns, each pixel a square of the same whole size.

    Args:
        images: (N, C, H, W), filled into rows, or (rows, columns, C, H, W); values in [0, 1],
            C of 1 (grey) or 3 (colour).
        path: The PNG to write.
        columns: How many in a row, where `images` has four dimensions; about the square root of
            N unless given.
        **layout: Titles, labels and gaps, as for `ppl_vae.pictures.figures.sheet`.

    Raises:
        ValueError: If the shape is another.
    """
    save(sheet(tiled(images, columns), **layout), path)


def sample_titles(model: Model, label: int | str | None = None) -> tuple[str, str]:
    """The distributions that the means and the draws of samples are from.

    Args:
        model: The model that was sampled.
        label: The class, by its number or name, where one was chosen.
    """
    y = "y" if label is None else f"y={label}"
    if isinstance(label, str) and not label.isdecimal():
        y = f"y=${literal(label)}$"  # a name stands outside of the mathematics
    given = f", {y}" if model.decodes_class else ""
    within = f"|{y}" if label is not None and not model.decodes_class else ""
    first = f"$E[x|z{given}]$,  $z \\sim p(z{within})$"
    return first, f"$x \\sim p(x|z{given})$,  the same $z$"


def reconstructions(
    originals: ArrayLike, reconstructions: ArrayLike, path: Path, split: str = "test"
) -> None:
    """Draws each original with its reconstruction below it.

    Args:
        originals: (N, C, H, W) in [0, 1].
        reconstructions: The same shape.
        path: The PNG to write.
        split: Where the originals are from, for the title.
    """
    count = len(np.asarray(originals))
    columns = min(count, 8 if count <= 16 else 16)
    pairs = np.stack([tiled(part, columns) for part in (originals, reconstructions)], axis=1)
    rows = pairs.reshape(-1, *pairs.shape[2:])
    labels = ["original", "reconstruction"] * len(pairs)
    title = f"Images of the {split} split above their reconstructions"
    save(sheet(rows, title, row_labels=labels, blocks=(2, columns)), path)


def animation(
    frames: NDArray, path: Path, titles: Sequence[str], column_labels: Sequence[str]
) -> None:
    """Writes a GIF that runs there and back for ever.

    Args:
        frames: (T, rows, columns, C, H, W), values in [0, 1]. Frames 0, ..., T-1, T-2, ..., 1 are
            shown.
        path: The GIF to write.
        titles: One for each frame.
        column_labels: One for each column of images.
    """
    from PIL import Image

    pictures = []
    for title, frame in zip(titles, frames, strict=True):
        pixels = pixels_of(sheet(frame, title, column_labels=column_labels))
        grey = bool((pixels == pixels[..., :1]).all())
        picture = Image.fromarray(pixels[..., 0] if grey else pixels)
        pictures.append(picture if grey else picture.quantize(dither=Image.Dither.NONE))
    order = [*pictures, *pictures[-2:0:-1]]
    with whole_file(path) as file:
        order[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=order[1:],
            duration=max(20, round(1000 * _SECONDS / len(order))),
            loop=0,
        )


def learning_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    data_note: str = "",
    point: bool = False,
    given_class: bool = False,
    objective: str = "ELBO",
) -> None:
    """Draws the bound during training, and its two terms on the validation data.

    The vertical axes leave out what would flatten the rest: of the steep beginning at most the
    first tenth of the epochs, and single epochs that are far off, as by a step that was left out.

    Args:
        rows: One for each epoch, with the columns of `metrics.csv`: `epoch`,
            `loss_nats_per_datum`, `validation_elbo_nats_per_datum`,
            `validation_rate_nats_per_datum`, `validation_distortion_nats_per_datum`, and
            `validation_iwae_nats_per_datum` where the run began with it. Empty or missing values
            are left out.
        path: The PNG to write.
        data_note: The training data, printed small below.
        point: Whether q(z|x) is a point, so that the bound is log p(x, z) there and no ELBO.
        given_class: Whether the programs take the class y as given.
        objective: The name of what was minimised. On the training data the curve is of that: it is
            the bound only if this is the ELBO, or IWAE where the rows have its bound.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9, 4.2)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), wspace=0.3, hspace=0.3)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.91, bottom=0.145)
    epochs = _column(rows, "epoch")
    weighted = len(rows) > 0 and "validation_iwae_nats_per_datum" in rows[0]
    validation = _column(rows, f"validation_{'iwae' if weighted else 'elbo'}_nats_per_datum")
    bound = figure.add_subplot(grid[:, 0])
    curves = [-_column(rows, "loss_nats_per_datum"), validation]
    same = objective == ("IWAE" if weighted else "ELBO")
    training = "training" if same else f"training: minus the loss, {objective}"
    for values, colour, label in zip(curves, (BLUE, ORANGE), (training, "validation"), strict=True):
        _line(bound, epochs, values, colour, label)
    y = ", y" if given_class else ""
    whole = "$\\log\\,p(x, z|y)$" if given_class else "$\\log\\,p(x, z)$"
    name = "IWAE bound" if weighted else "ELBO"
    lower = f"{name} of $\\log\\,p(x|y)$" if given_class else name
    bound.set_title(whole if point else lower, loc="left", fontsize=10)
    if bound.get_legend_handles_labels()[0]:
        bound.legend(frameon=False, loc="best", fontsize=9)
    _robust_limits(bound, curves)
    terms = (
        ("distortion", f"distortion  $-E_q\\,\\log p(x|z{y})$"),
        ("rate", "$-\\log p(z)$" if point else f"rate  $\\mathrm{{KL}}(q(z|x{y})\\,||\\,p(z))$"),
    )
    axes = [bound]
    for place, (name, title) in enumerate(terms):
        panel = figure.add_subplot(grid[place, 1], sharex=bound)
        values = _column(rows, f"validation_{name}_nats_per_datum")
        _line(panel, epochs, values, ORANGE)
        panel.set_title(f"{title}, validation", loc="left", fontsize=10)
        _robust_limits(panel, [values])
        axes.append(panel)
    axes[1].tick_params(labelbottom=False)
    if len(rows) == 1 and np.isfinite(epochs[0]):
        bound.set_xlim(0.5, epochs[0] + 0.5)
    for panel in axes:
        panel.set_ylabel("nats per datum", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.tick_params(labelsize=8.5, colors=INK)
        panel.xaxis.set_major_locator(
            MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
        )
    for panel in (axes[0], axes[2]):
        panel.set_xlabel("epoch", fontsize=9)
    figure.align_ylabels()
    if data_note:
        size = min(8, 8 * 140 / len(data_note))  # about as many letters as fit
        figure.text(0.012, 0.012, literal(data_note), fontsize=size, color=FAINT)
    save(figure, path)


def score_chart(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, str], path: Path, note: str = ""
) -> None:
    """Draws scores as points with bars of two standard errors, one panel for each score.

    Args:
        rows: The methods: each has `name` and, for each score that it has, the value under
            the score's name and its error under `..._standard_error`.
        scores: The titles of the panels, by score.
        path: The PNG to write.
        note: Printed small below.
    """
    names = [literal(str(row["name"])) for row in rows]
    height = 1.25 + 0.3 * len(rows)
    left = min(3.6, 0.15 + 0.082 * max(map(len, names)))  # inches
    width = max(5.0, 2.2 * len(scores) + 1, left + 2.2)
    figure = new_figure(width, height)
    figure.subplots_adjust(
        left=left / width, right=0.985, top=1 - 0.42 / height, bottom=0.62 / height, wspace=0.12
    )
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (score, title) in zip(panels, scores.items(), strict=True):
        for place, row in enumerate(rows):
            if score in row:
                error = 2 * row[f"{score}_standard_error"]
                axes.errorbar(row[score], place, xerr=error, fmt="o", color=BLUE, markersize=5,
                              linewidth=1.6)  # fmt: skip
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=4)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8.5, colors=INK)
        axes.tick_params(axis="y", length=0)
    figure.text(0.012, 0.1 / height, literal(note), fontsize=7.5, color=FAINT)
    save(figure, path)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    values = [row.get(name) for row in rows]
    return np.array([np.nan if value in (None, "") else float(value) for value in values])


def _line(
    axes: Any, epochs: NDArray, values: NDArray, colour: str, label: str | None = None
) -> None:
    known = np.isfinite(epochs) & np.isfinite(values)
    if known.any():
        marker = "o" if known.sum() < 12 else None
        axes.plot(epochs[known], values[known], color=colour, label=label, linewidth=1.6,
                  marker=marker, markersize=3.5)  # fmt: skip


def _robust_limits(axes: Any, curves: Sequence[NDArray[np.float64]]) -> None:
    """Fits the axis to the epochs after the first tenth, without those that are far off."""
    tails = [values[max(1, len(values) // 10) if len(values) >= 10 else 0 :] for values in curves]
    tail = np.concatenate(tails)
    tail = tail[np.isfinite(tail)]
    if len(tail):
        quarter, middle, last = np.quantile(tail, (0.25, 0.5, 0.75))
        near = tail[abs(tail - middle) <= _FAR_OFF * (last - quarter)]
        low, high = near.min(), near.max()
        margin = 0.06 * (high - low) or max(1e-3, 0.01 * abs(high))
        axes.set_ylim(low - margin, high + margin)
