"""Groups of latents on feature maps: how many at which size."""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from models.ranges import check_sizes
from models.spec import Shape

__all__ = ["Groups", "Size", "map_shape", "map_sizes", "mapped", "usual_groups"]

Groups = Sequence[Sequence[int]]
Size = tuple[int, int]

_MOST = 200  # groups; the deepest models published have fewer than 80


def usual_groups(image_shape: Shape) -> list[list[int]]:
    """One group at 1 x 1, and two each at a quarter and a half of the image.

    A size at which the image does not divide is left out; where both are, the two groups have the
    size of the image.
    """
    height = image_shape[1]
    parts = [height // part for part in (4, 2) if height // part in _sizes(image_shape)]
    return [[1, 1], *([2, size] for size in sorted({*parts} - {1}) or [height] if size > 1)]


def map_sizes(groups: Groups, image_shape: Shape) -> list[Size]:
    """The height and width of each group's map, from the top down.

    A size is the height of a map. Its width follows in the proportions of the image, except that
    1 is 1 x 1 for every image.

    Args:
        groups: How many groups at which size, the smallest size first.
        image_shape: (C, H, W).

    Raises:
        ValueError: If that is no list of pairs of whole numbers >= 1, the groups are more than 200,
            the sizes do not grow, or one does not divide the next or the image.
    """
    if not isinstance(groups, (list, tuple)) or not groups:
        raise ValueError(f"expected groups as pairs [how many, size]; got {groups!r}")
    for pair in groups:
        check_sizes("each of groups", pair, fewest=2)
        if len(pair) != 2:
            raise ValueError(f"expected groups as pairs [how many, size]; got {[*pair]}")
    if (count := sum(pair[0] for pair in groups)) > _MOST:
        raise ValueError(f"expected at most {_MOST} groups; got {count:,}")
    possible, sizes = _sizes(image_shape), [size for _, size in groups]
    for above, size in zip([0, *sizes], sizes, strict=False):
        if size not in possible or size <= above or (above and size % above):
            _, height, width = image_shape
            raise ValueError(
                f"expected the sizes of groups to grow, each a multiple of the one before, out of "
                f"{', '.join(map(str, possible))}, at which images of {height} x {width} divide; "
                f"got {', '.join(map(str, sizes))}"
            )
    return [possible[size] for count, size in groups for _ in range(count)]


def map_shape(channels: int, size: Size) -> Shape:
    """(C, h, w), or (C,) of a map of 1 x 1, which is a vector to a network."""
    return (channels,) if prod(size) == 1 else (channels, *size)


def mapped(network: Any, features: Tensor, size: Size) -> Tensor:
    """The map (..., C', *size) that a network makes of a map (..., C, h, w), vectors or not."""
    batch = features.shape[:-3]
    return network(features.reshape(*batch, *network.inputs)).reshape(*batch, -1, *size)


def _sizes(image_shape: Shape) -> dict[int, Size]:
    """The maps of which an image is made of whole squares, by their heights, and 1 x 1."""
    _, height, width = image_shape
    squares = [s for s in range(height, 0, -1) if height % s == 0 == width % s]
    return {1: (1, 1)} | {height // s: (height // s, width // s) for s in squares if s < height}
