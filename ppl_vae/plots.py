"""Pictures: arrays in, one file out. Matplotlib and Pillow are imported where they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.spec import Domain
from ppl_vae.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "animation",
    "image_grid",
    "learning_curves",
    "new_figure",
    "reconstructions",
    "save",
    "to_display",
]

DPI = 150
INK = "#222222"
FAINT = "#777777"
BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind readers too (Okabe and Ito, 2008)
_SHEET_WIDTH = 1400  # what a sheet of many small images is enlarged to, in pixels
_LARGEST_TILE = 112  # what one image on a sheet is enlarged to, in pixels
_PAD = 16


def to_display(
    images: ArrayLike, domain: Domain, like: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Images of a domain as grey or colour values in [0, 1].

    Bytes are divided by 255. Other data are clamped to [0, 1], except real data that leave it,
    which are scaled by (x - min) / (max - min) first.

    Args:
        images: Images of any shape, in units of the domain.
        domain: What the pixels are.
        like: The images that min and max are taken from, so that several pictures share one
            scale; `images` themselves unless given.

    Returns:
        An array of the same shape in [0, 1].
    """
    values = np.asarray(images, dtype=np.float64)
    if domain == "bytes":
        values = values / 255
    elif domain == "real":
        reference = values if like is None else np.asarray(like, dtype=np.float64)
        low, high = (reference.min(), reference.max()) if reference.size else (0.0, 1.0)
        if low < 0 or high > 1:
            values = (values - low) / (high - low if high > low else 1.0)
    return np.clip(values, 0, 1)


def image_grid(
    images: ArrayLike,
    path: Path,
    columns: int | None = None,
    title: str | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    *,
    blocks: tuple[int, int] | None = None,
    block_titles: Sequence[str] = (),
    axis_labels: tuple[str, str] | None = None,
) -> None:
    """Draws images in rows and columns, each pixel a square of the same whole size.

    Args:
        images: (N, C, H, W), filled into rows, or (rows, columns, C, H, W); values in [0, 1],
            C of 1 (grey) or 3 (colour).
        path: The PNG to write.
        columns: How many in a row, where `images` has four dimensions; about the square root of
            N unless given.
        title: Printed above.
        row_labels: One for each row, to its left.
        column_labels: One for each column; every k-th where they would overlap.
        blocks: Rows and columns after which a wider gap comes.
        block_titles: One for each block of columns, above it.
        axis_labels: What changes from left to right and from bottom to top. The sheet is then
            one surface without gaps, and column labels stand below it.

    Raises:
        ValueError: If the shape is another.
    """
    tiles = _tiles(images, columns)
    figure = _sheet(
        tiles, title, row_labels, column_labels, blocks, block_titles, axis_labels=axis_labels
    )
    save(figure, path)


def reconstructions(originals: ArrayLike, reconstructions: ArrayLike, path: Path) -> None:
    """Draws each original with its reconstruction below it.

    Args:
        originals: (N, C, H, W) in [0, 1].
        reconstructions: The same shape.
        path: The PNG to write.

    Raises:
        ValueError: If the shapes differ.
    """
    first, second = np.asarray(originals), np.asarray(reconstructions)
    if first.shape != second.shape:
        raise ValueError(f"expected reconstructions of shape {first.shape}; got {second.shape}")
    columns = min(len(first), 8 if len(first) <= 16 else 16)
    pairs = np.stack([_tiles(first, columns), _tiles(second, columns)], axis=1)
    rows = pairs.reshape(-1, *pairs.shape[2:])
    labels = ["original", "reconstruction"] * len(pairs)
    save(_sheet(rows, row_labels=labels, blocks=(2, columns)), path)


def animation(
    frames: ArrayLike,
    path: Path,
    titles: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    seconds: float = 3.0,
) -> None:
    """Writes a GIF that runs there and back for ever.

    Args:
        frames: (T, C, H, W), or (T, rows, columns, C, H, W) for several images that move
            together; values in [0, 1]. Frames 0, ..., T-1, T-2, ..., 1 are shown.
        path: The GIF to write.
        titles: One for each frame.
        column_labels: One for each column of images.
        seconds: How long there and back takes.
    """
    from PIL import Image

    stack = np.asarray(frames)
    if stack.ndim == 4:
        stack = stack[:, None, None]
    pictures = []
    for step, frame in enumerate(stack):
        figure = _sheet(frame, titles[step] if titles else None, None, column_labels)
        pixels = _pixels(figure)
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
            duration=max(20, round(1000 * seconds / len(order))),
            loop=0,
        )


def learning_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, data_note: str = "", unit: str = "nats per datum"
) -> None:
    """Draws the bound during training, and its two terms on the validation data.

    The vertical axes leave out the steep beginning where it would flatten the rest: at most the
    first tenth of the epochs.

    Args:
        rows: One for each epoch, with the columns of `metrics.csv`: `epoch`,
            `loss_nats_per_datum`, `validation_elbo_nats_per_datum`,
            `validation_rate_nats_per_datum`, `validation_distortion_nats_per_datum`. Empty or
            missing values are left out.
        path: The PNG to write.
        data_note: What it was trained on, printed small below.
        unit: The unit on the axes.
    """
    figure = new_figure(9, 4.2)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), wspace=0.3, hspace=0.3)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.91, bottom=0.145)
    epochs = _column(rows, "epoch")
    validation = _column(rows, "validation_elbo_nats_per_datum")
    bound = figure.add_subplot(grid[:, 0])
    curves = [-_column(rows, "loss_nats_per_datum"), validation]
    for values, colour, label in zip(
        curves, (BLUE, ORANGE), ("training", "validation"), strict=True
    ):
        _line(bound, epochs, values, colour, label)
    bound.set_title("ELBO", loc="left", fontsize=10)
    if bound.get_legend_handles_labels()[0]:
        bound.legend(frameon=False, loc="lower right", fontsize=9)
    _robust_limits(bound, curves)
    terms = (
        ("distortion", "distortion  $-E_q\\,\\log p(x|z)$"),
        ("rate", "rate  $\\mathrm{KL}(q(z|x)\\,||\\,p(z))$"),
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
    for panel in axes:
        panel.set_ylabel(unit, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.tick_params(labelsize=8.5, colors=INK)
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in (axes[0], axes[2]):
        panel.set_xlabel("epoch", fontsize=9)
    figure.align_ylabels()
    if data_note:
        figure.text(0.012, 0.012, data_note, fontsize=8, color=FAINT)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """A figure of this many inches that draws with Agg, apart from pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG whose bytes depend on nothing but its content."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def _tiles(images: ArrayLike, columns: int | None) -> NDArray[np.float64]:
    """Images as (rows, columns, C, H, W), with NaN where there is none."""
    tiles = np.asarray(images, dtype=np.float64)
    if tiles.ndim == 4:
        width = columns or int(np.ceil(np.sqrt(len(tiles))))
        missing = np.full((-len(tiles) % width, *tiles.shape[1:]), np.nan)
        tiles = np.concatenate([tiles, missing]).reshape(-1, width, *tiles.shape[1:])
    if tiles.ndim != 5 or tiles.shape[2] not in (1, 3) or 0 in tiles.shape:
        raise ValueError(
            "expected images (N, C, H, W) or (rows, columns, C, H, W), C of 1 or 3; "
            f"got {np.shape(images)}"
        )
    return tiles


def _sheet(
    tiles: NDArray[np.float64],
    title: str | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    blocks: tuple[int, int] | None = None,
    block_titles: Sequence[str] = (),
    axis_labels: tuple[str, str] | None = None,
) -> Figure:
    """Lays out (rows, columns, C, H, W) in whole pixels, so that nothing is resampled."""
    rows, columns, channels, height, width = tiles.shape
    target = min(_LARGEST_TILE, _SHEET_WIDTH / columns)
    scale = max(1, round(target / max(height, width)))
    size = (scale * height, scale * width)
    gap = 0 if axis_labels else max(2, min(size) // 24)
    per_block = blocks or (rows, columns)
    wide = max(12, min(size) // 4)
    tops, lefts = (
        np.arange(count) * (side + gap) + np.arange(count) // block * wide
        for count, side, block in zip((rows, columns), size, per_block, strict=True)
    )
    canvas = np.full((tops[-1] + size[0], lefts[-1] + size[1], 3), 255, dtype=np.uint8)
    for row, column in np.ndindex(rows, columns):
        tile = tiles[row, column]
        if not np.isnan(tile).any():
            grey = np.rint(255 * np.clip(tile, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
            pixels = np.repeat(np.repeat(grey, scale, 0), scale, 1)
            canvas[tops[row] : tops[row] + size[0], lefts[column] : lefts[column] + size[1]] = (
                pixels
            )

    figure = new_figure(1, 1)
    texts = _Texts(figure)
    line = texts.height
    step = 1
    if column_labels:
        widest = max(texts.width(label) for label in column_labels)
        step = max(1, int(np.ceil((widest + 8) / (size[1] + gap))))
    left = right = _PAD + (line + 8 if axis_labels else 0)
    if row_labels:
        left += 10 + max(texts.width(label) for label in row_labels)
    label_line = line + 8 if column_labels else 0
    above = _PAD + (line + 14 if title else 0) + (line + 8 if block_titles else 0)
    below = _PAD
    if axis_labels:
        below += label_line + line + 8
        right = _PAD
    else:
        above += label_line
    least = max([texts.width(text, 10) for text in (title,) if text], default=0)
    extra = max(0, least + 2 * _PAD - (left + canvas.shape[1] + right))
    total = (above + canvas.shape[0] + below, left + canvas.shape[1] + right + extra)
    figure.set_size_inches((total[1] + 1e-6) / DPI, (total[0] + 1e-6) / DPI)
    figure.figimage(canvas, xo=left, yo=below, origin="upper")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        texts.write(x / total[1], 1 - y / total[0], text, **style)

    if title:
        write(left if extra else left + canvas.shape[1] / 2, _PAD - 4 + line / 2, title,
              size=10, ha="left" if extra else "center")  # fmt: skip
    for place, text in enumerate(block_titles):
        first = lefts[place * per_block[1]]
        last = lefts[min((place + 1) * per_block[1], columns) - 1] + size[1]
        offset = above - (0 if axis_labels else label_line) - 8 - line / 2
        write(left + (first + last) / 2, offset, text, ha="center")
    for row, text in enumerate(row_labels or ()):
        write(left - 10, above + tops[row] + size[0] / 2, text, ha="right")
    bottom = above + canvas.shape[0]
    for column, text in enumerate(column_labels or ()):
        if (columns // 2 - column) % step == 0:
            y = bottom + 8 + line / 2 if axis_labels else above - 8 - line / 2
            write(left + lefts[column] + size[1] / 2, y, text, ha="center")
    if axis_labels:
        write(
            left + canvas.shape[1] / 2, total[0] - _PAD + 2 - line / 2, axis_labels[0], ha="center"
        )
        write(_PAD + line / 2 - 4, above + canvas.shape[0] / 2, axis_labels[1],
              ha="center", rotation=90)  # fmt: skip
    return figure


class _Texts:
    """Measures and writes text on a figure, in pixels."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        self.height = 20

    def width(self, text: str, size: float = 8.5) -> int:
        probe = self.figure.text(0, 0, text, fontsize=size)
        extent = probe.get_window_extent(self.renderer)
        probe.remove()
        return int(np.ceil(extent.width))

    def write(self, x: float, y: float, text: str, size: float = 8.5, **style: Any) -> None:
        self.figure.text(x, y, text, fontsize=size, va="center", color=INK, **style)


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
    """Fits the axis to what follows the first tenth of the epochs."""
    tails = [values[max(1, len(values) // 10) if len(values) >= 10 else 0 :] for values in curves]
    tail = np.concatenate(tails)
    tail = tail[np.isfinite(tail)]
    if len(tail):
        low, high = tail.min(), tail.max()
        margin = 0.06 * (high - low) or max(1e-3, 0.01 * abs(high))
        axes.set_ylim(low - margin, high + margin)
