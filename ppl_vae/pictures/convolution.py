"""A picture of a convolution as a matrix."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.networks.convolution_arithmetic import convolution_matrix, convolved_size
from ppl_vae.pictures.figures import FAINT, INK, new_figure, save

__all__ = ["draw_convolution"]

_CELL = 0.34  # inches
_NARROWEST = 17  # cells that the line above needs


def draw_convolution(
    path: Path | str,
    size: tuple[int, int] = (4, 4),
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 0,
) -> None:
    """Draws the matrix C of a convolution, each entry with the weight that stands there.

    The same weight has the same colour in every row: a row is the kernel laid over the image at
    one place. Dumoulin and Visin (2016), section 4.1.

    Args:
        path: The PNG to write.
        size: (H, W) of the input.
        kernel_size: k.
        stride: s.
        padding: p.

    Raises:
        ValueError: If the sizes do not fit.
        OSError: If the picture cannot be written.
    """
    names = torch.arange(1.0, kernel_size**2 + 1).reshape(kernel_size, kernel_size)
    matrix = convolution_matrix(names, size, stride, padding).int().numpy()
    rows, columns = matrix.shape
    wide = max(columns, _NARROWEST)
    figure = new_figure(_CELL * wide + 0.7, _CELL * rows + 0.95)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-1.45, wide + 0.6)
    axes.set_ylim(rows + 0.75, -2.05)
    axes.axis("off")
    for row, column in np.ndindex(rows, columns):
        _cell(axes, row, column, int(matrix[row, column]), kernel_size)
    height, width = (convolved_size(side, kernel_size, stride, padding) for side in size)
    style: dict[str, Any] = {"color": INK, "math_fontfamily": "cm", "va": "center"}
    axes.text(-0.35, rows / 2, "$C=$", ha="right", fontsize=12, **style)
    axes.text(
        0, -1.35, f"$C\\,x$ : {size[0]} × {size[1]} → {height} × {width} (convolution)"
        f",   $C^T y$ : {height} × {width} → {size[0]} × {size[1]} (transposed);"
        f"   $k={kernel_size}$, $s={stride}$, $p={padding}$",
        ha="left", fontsize=9, **style,
    )  # fmt: skip
    for column in range(0, columns, size[1]):  # where a row of the input begins
        axes.plot([column, column], [0, rows], color=INK, linewidth=0.9)
        label = f"$x_{{{column // size[1]},\\cdot}}$"
        axes.text(column + size[1] / 2, -0.45, label, ha="center", fontsize=8.5, **style)
    axes.plot([0, columns, columns, 0], [0, 0, rows, rows], color=INK, linewidth=0.9)
    save(figure, Path(path))


def _cell(axes: Any, row: int, column: int, weight: int, kernel_size: int) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    style = {"ha": "center", "va": "center", "math_fontfamily": "cm"}
    face: Any = "white"
    if weight:
        colour = colormaps["viridis"]((weight - 0.5) / kernel_size**2)
        face = tuple(0.5 + 0.5 * part for part in colour[:3])  # light, so that one can read on it
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="#dddddd", lw=0.5))
    place = (column + 0.5, row + 0.5)
    if weight:
        index = "{" + ",".join(map(str, divmod(weight - 1, kernel_size))) + "}"
        axes.text(*place, f"$w_{index}$", color=INK, fontsize=8, **style)
    else:
        axes.text(*place, "0", color=FAINT, fontsize=7, **style)
