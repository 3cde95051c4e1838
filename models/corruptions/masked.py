"""Missing pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.corruptions.replacing import Replacing
from models.ranges import check_choice, check_number
from models.spec import Domain, Shape

__all__ = ["Masked"]


@dataclass(frozen=True, eq=False)
class Masked(Replacing):
    """Some pixels are not seen, and the others are those of x.

    p(y|z) is that of the pixels seen. At most one of these says which are missing; without any it
    is those that are NaN in y.

    Args:
        mask: Where the pixels are missing: a picture that is white there and black elsewhere, a
            `.npy` file that is true or 1 there, or such an array, (H, W) or (C, H, W).
        rectangle: A rectangle: the first row and column, the height and width, in pixels.
        half: One half of the image: `upper`, `lower`, `left` or `right`.
        fraction: Each pixel with this probability, drawn for each image; only where the images
            are corrupted here.

    Raises:
        ValueError: If more than one is given, a value is out of range, or the mask cannot be read.
    """

    mask: Path | None = None
    rectangle: Sequence[int] | None = None
    half: Literal["upper", "lower", "left", "right"] | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in _WAYS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of {', '.join(_WAYS)}; got {' and '.join(given)}")
        if self.fraction is not None:
            check_number("fraction", self.fraction, above=0, most=0.999)
        if self.half is not None:
            check_choice("half", self.half, ("upper", "lower", "left", "right"))
        if self.rectangle is not None and (
            len(self.rectangle) != 4 or min(self.rectangle) < 0 or min(self.rectangle[2:]) < 1
        ):
            raise ValueError(
                "expected rectangle as [row, column, height, width], whole numbers; got "
                f"{list(self.rectangle)}"
            )
        if self.mask is not None:
            object.__setattr__(self, "_missing", _read_mask(self.mask))

    def missing(self, shape: Shape) -> Tensor | None:
        """Where the pixels are missing in every image, (C, H, W) bool; None where y says it.

        Args:
            shape: (C, H, W) of the images.

        Raises:
            ValueError: If the mask does not fit them, or leaves no pixel or all of them.
        """
        _, height, width = shape
        if self.mask is not None:
            mask: Tensor = vars(self)["_missing"]
            if tuple(mask.shape) not in (shape, (height, width)):
                raise ValueError(
                    f"expected a mask of shape {(height, width)} or {shape}, as the images; got "
                    f"{tuple(mask.shape)}; where each image misses pixels of its own, set them to "
                    "NaN in a floating-point array"
                )
            missing = mask.expand(shape)
        elif self.rectangle is not None:
            top, left, tall, wide = self.rectangle
            if top + tall > height or left + wide > width:
                raise ValueError(
                    f"expected a rectangle within {height} x {width} pixels; got "
                    f"{list(self.rectangle)}"
                )
            missing = torch.zeros(shape, dtype=torch.bool)
            missing[:, top : top + tall, left : left + wide] = True
        elif self.half is not None:
            missing = torch.zeros(shape, dtype=torch.bool)
            rows, columns = {
                "upper": (slice(0, height // 2), slice(None)),
                "lower": (slice(height - height // 2, None), slice(None)),
                "left": (slice(None), slice(0, width // 2)),
                "right": (slice(None), slice(width - width // 2, None)),
            }[self.half]
            missing[:, rows, columns] = True
        else:
            return None
        if missing.all() or not missing.any():
            kept = "none" if missing.all() else "all"
            raise ValueError(f"expected a mask that leaves some of the pixels; it leaves {kept}")
        return missing

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        missing = self.missing(tuple(x.shape[1:]))
        if missing is None:
            if self.fraction is None:
                return x
            uniform = torch.rand((len(x), 1, *x.shape[2:]), generator=generator)
            missing = (uniform < self.fraction).expand(x.shape)
            # An image of which nothing is left keeps one pixel.
            spared = uniform.flatten(1).argmax(1)
            missing = missing.clone()
            missing.flatten(2)[torch.arange(len(x)), :, spared] = False
        return torch.where(missing.to(x.device), torch.nan, x)

    def observe(self, y: Tensor) -> Tensor:
        if self.fraction is not None and not y.isnan().any():
            raise ValueError(
                "expected a mask or NaN where pixels are missing; a fraction says how many to "
                "hide, not which are missing"
            )
        missing = self.missing(tuple(y.shape[1:]))
        if missing is not None:
            y = torch.where(missing.to(y.device), torch.nan, y)
        nothing = y.isnan().flatten(1).all(1)
        if nothing.any():
            raise ValueError(
                f"expected some pixels in every image; image {int(nothing.nonzero()[0])} has none"
            )
        if y.isinf().any():
            raise ValueError("expected finite pixels, or NaN where one is missing; got infinity")
        return y

    def log_shares(self, y: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
        missing = y.isnan()
        never, always = torch.full_like(y, -torch.inf), torch.zeros_like(y)
        return torch.where(missing, never, always), torch.where(missing, always, never)

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y.nan_to_num(), torch.where(y.isnan(), torch.inf, 0.0).to(y)


_WAYS = ("mask", "rectangle", "half", "fraction")


def _read_mask(mask: Any) -> Tensor:
    """Where pixels are missing, bool."""
    values, name = np.asarray(mask), "the array"
    if isinstance(mask, (str, Path)):
        path = Path(mask).expanduser()
        values, name = _read(path), str(path)
    top = 255 if values.dtype == np.uint8 and (values > 1).any() else 1
    if not ((values == 0) | (values == top)).all():
        raise ValueError(f"expected a mask of two values, black and white; got others in {name}")
    return torch.from_numpy(values == top)


def _read(path: Path) -> NDArray[Any]:
    """The numbers of a `.npy` file or the grey levels of a picture."""
    try:
        if path.suffix == ".npy":
            stored: NDArray[Any] = np.load(path, allow_pickle=False)
            return stored
        from PIL import Image

        with Image.open(path) as picture:
            return np.array(picture.convert("L"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a picture or a .npy file as mask; cannot read {path}: {error}"
        ) from error
