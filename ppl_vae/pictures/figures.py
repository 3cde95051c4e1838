"""Figures without global state, and sheets of images laid out in whole pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.machine.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "FAINT",
    "GREEN",
    "INK",
    "ORANGE",
    "literal",
    "new_figure",
    "pixels_of",
    "save",
    "sheet",
    "tiled",
]

_DPI = 150
INK = "#222222"
FAINT = "#777777"
# Colour-blind readers can tell these apart too (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
# Around images on a sheet: no shade of grey, so that neither white nor black ones merge with it.
_FRAME = (159, 179, 200)
_MISSING = 0.5  # the grey of a pixel that is missing
_SURFACE_FRAME = 2  # pixels, around images without gaps
_SHEET_WIDTH = 1400  # pixels, to which a sheet of many small images is enlarged
_LARGEST_TILE = 112  # pixels, to which one image on a sheet is enlarged
_PAD = 16
_LINE = 20  # the height of a line of text, in pixels
_TEXT, _TITLE = 8.5, 10.0  # font sizes, in points


def literal(text: str) -> str:
    """A user's text, such as a class or a path, which matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """A figure of this many inches that draws with Agg, apart from pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG; its bytes depend on its content alone."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})


def pixels_of(figure: Figure) -> NDArray[np.uint8]:
    """The pixels of a figure, (H, W, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def tiled(images: ArrayLike, columns: int | None = None) -> NDArray[np.float64]:
    """Images in rows and columns, with NaN where there is none.

    Args:
        images: (N, C, H, W), or (rows, columns, C, H, W), which comes back as it is.
        columns: How many in a row; about the square root of N unless given.

    Returns:
        An array (rows, columns, C, H, W).

    Raises:
        ValueError: If the shape is another, or C neither 1 nor 3.
    """
    tiles = np.asarray(images, dtype=np.float64)
    if tiles.ndim == 4 and len(tiles):
        width = columns or int(np.ceil(np.sqrt(len(tiles))))
        missing = np.full((-len(tiles) % width, *tiles.shape[1:]), np.nan)
        tiles = np.concatenate([tiles, missing]).reshape(-1, width, *tiles.shape[1:])
    if tiles.ndim != 5 or tiles.shape[2] not in (1, 3) or not tiles.size:
        raise ValueError(
            "expected images (N, C, H, W) or (rows, columns, C, H, W), C of 1 or 3; "
            f"got {np.shape(images)}"
        )
    return tiles


def sheet(
    tiles: NDArray[np.float64],
    title: str | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    blocks: tuple[int, int] | None = None,
    block_titles: Sequence[str] = (),
    axis_labels: tuple[str, str] | None = None,
) -> Figure:
    """Lays out (rows, columns, C, H, W) in whole pixels, so that nothing is resampled.

    Args:
        tiles: The images.
        title: Printed above.
        row_labels: One for each row, to its left.
        column_labels: One for each column; every k-th where they would overlap.
        blocks: Rows and columns after which a wider gap comes.
        block_titles: One for each block of columns, above it.
        axis_labels: The quantities along the rows and up the columns. The sheet is then
            one surface without gaps, and column labels stand below it.
    """
    rows, columns, _, height, width = tiles.shape
    scale = max(1, round(min(_LARGEST_TILE, _SHEET_WIDTH / columns) / max(height, width)))
    # A table's row has no shape to keep, but a label beside it.
    scales = (max(scale, _LINE) if height == 1 and row_labels else scale, scale)
    size = (scales[0] * height, scale * width)
    gap = 0 if axis_labels else max(2, min(size) // 24)
    per_block = blocks or (rows, columns)
    wide = max(12, min(size) // 4)
    tops, lefts = (
        np.arange(count) * (side + gap) + np.arange(count) // block * wide
        for count, side, block in zip((rows, columns), size, per_block, strict=True)
    )
    frame = gap or _SURFACE_FRAME
    picture = _enlarged(tiles, scales, tops, lefts, frame)

    figure = new_figure(1, 1)
    label_line = _LINE + 8 if column_labels else 0
    widest = max((_width(figure, label) for label in row_labels or ()), default=0)
    left = _PAD + (_LINE + 8 if axis_labels else 0) + (widest + 10 if row_labels else 0)
    above = _PAD + (_LINE + 14 if title else 0) + (_LINE + 8 if block_titles else 0)
    below = _PAD
    if axis_labels:
        below += label_line + _LINE + 8
    else:
        above += label_line
    right = left + picture.shape[1] - 2 * frame
    bottom = above + picture.shape[0] - 2 * frame
    needed = 2 * _PAD + (_width(figure, title, _TITLE) if title else 0)
    total = (bottom + below, max(right + _PAD, needed))
    figure.set_size_inches((total[1] + 1e-6) / _DPI, (total[0] + 1e-6) / _DPI)
    figure.figimage(picture, xo=left - frame, yo=below - frame, origin="upper")

    def write(x: float, y: float, text: str, size: float = _TEXT, **style: Any) -> None:
        style = {"ha": "center", "va": "center", "color": INK, "fontsize": size, **style}
        figure.text(x / total[1], 1 - y / total[0], text, **style)

    if title and needed > right + _PAD:
        write(_PAD, _PAD - 4 + _LINE / 2, title, _TITLE, ha="left")
    elif title:
        middle = min(max((left + right) / 2, needed / 2), total[1] - needed / 2)
        write(middle, _PAD - 4 + _LINE / 2, title, _TITLE)
    for place, text in enumerate(block_titles):
        first = lefts[place * per_block[1]]
        last = lefts[min((place + 1) * per_block[1], columns) - 1] + size[1]
        write(left + (first + last) / 2, above - label_line - 8 - _LINE / 2, text)
    widest = max((_width(figure, label) for label in column_labels or ()), default=0)
    step = -(-(widest + 8) // (size[1] + gap))  # where labels are too wide, one in so many
    for column, text in enumerate(column_labels or ()):
        if column % step == 0:
            y = bottom + 8 + _LINE / 2 if axis_labels else above - 8 - _LINE / 2
            write(left + lefts[column] + size[1] / 2, y, text)
    for row, text in enumerate(row_labels or ()):
        if not axis_labels or (rows - 1 - row) % step == 0:
            write(left - 10, above + tops[row] + size[0] / 2, text, ha="right")
    if axis_labels:
        write((left + right) / 2, total[0] - _PAD + 2 - _LINE / 2, axis_labels[0], _TITLE)
        write(_PAD + _LINE / 2 - 4, (above + bottom) / 2, axis_labels[1], _TITLE)
    return figure


def _enlarged(
    tiles: NDArray[np.float64],
    scales: tuple[int, int],
    tops: NDArray[np.int_],
    lefts: NDArray[np.int_],
    frame: int,
) -> NDArray[np.uint8]:
    """The tiles on white, each pixel a rectangle of these sides, each tile in a frame.

    A tile of NaN alone is left out, and among other pixels NaN is one that is missing, grey.
    """
    height, width = (scale * side for scale, side in zip(scales, tiles.shape[3:], strict=True))
    size = (tops[-1] + height + 2 * frame, lefts[-1] + width + 2 * frame)
    picture = np.full((*size, 3), 255, dtype=np.uint8)
    shown = np.argwhere(~np.isnan(tiles).all((2, 3, 4)))
    tiles = np.nan_to_num(tiles, nan=_MISSING)
    for row, column in shown:  # the frames first: without gaps they would cover other tiles
        top, left = tops[row], lefts[column]
        picture[top : top + height + 2 * frame, left : left + width + 2 * frame] = _FRAME
    for row, column in shown:
        small = np.rint(255 * np.clip(tiles[row, column], 0, 1)).astype(np.uint8)
        large = small.transpose(1, 2, 0).repeat(scales[0], 0).repeat(scales[1], 1)
        top, left = frame + tops[row], frame + lefts[column]
        picture[top : top + height, left : left + width] = large
    return picture


def _width(figure: Figure, text: str, size: float = _TEXT) -> int:
    """The width of a text in pixels."""
    probe = figure.text(0, 0, text, fontsize=size)
    extent = probe.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    probe.remove()
    return int(np.ceil(extent.width))
