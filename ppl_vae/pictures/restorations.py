"""Restored images: a sheet of all that is known of some, and a file for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppl_vae.machine.files import whole_file
from ppl_vae.pictures.figures import save, sheet

__all__ = ["draw_restorations", "write_images"]

_ROWS, _DRAWS = 8, 4


def draw_restorations(
    arrays: Mapping[str, NDArray], others: Mapping[str, NDArray], path: Path
) -> None:
    """Draws, a row for each of the first images, what was seen and what it may have been.

    Columns: the original where it is known, what was seen (missing pixels grey), the mean, draws,
    the standard deviation (brighter is more, white the largest on the sheet), and other methods.

    Args:
        arrays: In units of intensity, as `Restoration.arrays` has them.
        others: The restorations of other methods, by the title of their column.
        path: The PNG to write.
    """
    mean = arrays["mean"][:_ROWS]
    seen = arrays["corrupted"][:_ROWS]
    factor = mean.shape[-1] // seen.shape[-1]
    seen = seen.repeat(factor, -1).repeat(factor, -2)
    deviation = arrays["standard_deviation"][:_ROWS]
    columns = {"seen": seen, "$E[x|y]$": mean}
    if "original" in arrays:
        columns = {"original": arrays["original"][:_ROWS], **columns}
    for draw in range(min(_DRAWS, arrays["draws"].shape[1])):
        columns[f"draw {draw + 1}"] = arrays["draws"][:_ROWS, draw]
    columns["s.d."] = deviation / max(float(deviation.max()), 1e-6)
    columns |= {title: images[:_ROWS] for title, images in others.items()}
    low, high = _range(columns.get("original", mean))
    tiles = [
        images if title == "s.d." else (images - low) / (high - low)
        for title, images in columns.items()
    ]
    save(sheet(np.stack(tiles, 1).astype(np.float64), column_labels=[*columns]), path)


def write_images(images: NDArray, names: Sequence[str], folder: Path) -> None:
    """Writes each image as a PNG of 8 bits under its name; one that is taken gets a number.

    Args:
        images: (N, C, H, W) in units of intensity, C of 1 or 3.
        names: Of the images.
        folder: Which exists.
    """
    from PIL import Image

    low, high = _range(images)
    taken: set[str] = set()
    for image, name in zip(images, names, strict=True):
        base = Path(name).name
        stem, number = base, 2
        while stem in taken:
            stem, number = f"{base}-{number}", number + 1
        taken.add(stem)
        pixels = np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        with whole_file(folder / f"{stem}.png") as file:
            picture.save(file, format="PNG")


def _range(images: NDArray) -> tuple[float, float]:
    """Black and white: 0 and 1, or the least and largest value where images leave these."""
    low, high = float(images.min()), float(images.max())
    return (0.0, 1.0) if low >= -0.2 and high <= 1.2 else (low, max(high, low + 1e-6))
