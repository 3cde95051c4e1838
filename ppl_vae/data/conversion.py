"""From stored images to the domain of a likelihood.

Below, v is a grey level 0, ..., L - 1, and v / (L - 1) its intensity.

    binary    1 with the intensity as probability, or where the intensity is at least one half
    unit      v / (L - 1)
    bytes     v where L = 256, else 255 v / (L - 1), rounded
    real      (v + u) / L with u uniform on [0, 1), or v / (L - 1)

Floating-point values stay as they are, or are standardised by those of the training images, each
column of a table by itself.

Noise on training images is fresh in each batch. Validation and test images get theirs once, from a
seed that is the same in every run, so that all runs are compared on the same images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal, cast

import torch
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.classes import some_classes
from ppl_vae.data.data_set import DataSet
from ppl_vae.data.fingerprint import images_fingerprint
from ppl_vae.data.holes import missing_phrase, missing_pixels
from ppl_vae.data.levels import at_least, check_values, mean_and_deviation, values_remark
from ppl_vae.data.misfits import refuse_misfits
from ppl_vae.data.source import Images, Source
from ppl_vae.data.split import Data, Moments, Split, sizes_phrase
from ppl_vae.data.stored import Stored
from ppl_vae.data.tables import column_moments
from ppl_vae.errors import InputError

__all__ = [
    "EVALUATION_SEED",
    "Conversion",
    "bernoulli_draw",
    "dequantised",
    "perturbed",
    "standardised",
]

EVALUATION_SEED = 20140501
"""Seeds the noise of the validation images; the test images have the next number."""

_CHUNK = 4096  # images converted at a time while loading, so that no float copy of a set is held


def bernoulli_draw(raw: Tensor, top: int, noise: Tensor | None = None) -> Tensor:
    """1 with probability raw / top, else 0; NaN stays.

    Args:
        raw: Grey levels.
        top: The largest grey level.
        noise: Uniform on [0, 1), of the shape of `raw`; fresh by default.
    """
    probability = raw.float() / top
    noise = torch.rand(raw.shape, device=raw.device) if noise is None else noise
    drawn = (noise < probability).float()
    return drawn.masked_fill(raw.isnan(), torch.nan) if raw.is_floating_point() else drawn


def dequantised(raw: Tensor, levels: int, noise: Tensor | None = None) -> Tensor:
    """(raw + u) / levels with u uniform on [0, 1), fresh by default.

    The noise stops short of 1 by the spacing of float32 below 256, or below `levels`, so that no
    sum is rounded up into the next level: floor(levels * result) is always `raw`.
    """
    noise = torch.rand(raw.shape, device=raw.device) if noise is None else noise
    return (raw.float() + noise * (1 - 2**-24 * max(levels, 256))) / levels


def perturbed(raw: Tensor, levels: int, rate: float) -> Tensor:
    """Each value replaced, at a rate, by a grey level 0, ..., levels - 1 drawn uniformly.

    Ren et al. (2019), "Likelihood ratios for out-of-distribution detection", section 3.2.
    """
    drawn = (torch.rand(raw.shape, device=raw.device) < rate) & (raw == raw)  # not where it is NaN
    return torch.where(drawn, torch.randint_like(raw, levels), raw)


def _in_turn(raw: Tensor, first: Callable[[Tensor], Tensor], then: Callable[..., Tensor]) -> Tensor:
    return then(first(raw))


def _as_float(raw: Tensor) -> Tensor:
    return raw.float()


def _scaled(raw: Tensor, top: int) -> Tensor:
    return raw.float() / top


def _stretched(raw: Tensor, top: int) -> Tensor:
    return (raw.float() * 255 / top).round()


Numbers = float | tuple[float, ...]


def standardised(raw: Tensor, mean: Numbers, deviation: Numbers) -> Tensor:
    """(raw - mean) / deviation, for all values or for each column of a table (..., D)."""
    if isinstance(mean, tuple) or isinstance(deviation, tuple):
        return (raw.float() - _columns(mean, raw.device)) / _columns(deviation, raw.device)
    return (raw.float() - mean) / deviation


@cache
def _columns(values: Numbers, device: torch.device) -> Tensor:
    # Kept, since a step that a GPU has captured cannot copy them from here.
    return torch.tensor(values, device=device)


@dataclass(frozen=True)
class Conversion:
    """How the images of one data set reach one domain: every choice made, none left on `auto`.

    Args:
        name: The data set.
        domain: Where the images go.
        levels: L, 2 for binary images, or None for floating-point ones.
        binarize: The binarisation.
        dequantize: The dequantisation.
        scale: Whether floating-point images are standardised; None where that is no option.
        chosen: Which of the two was resolved from `auto`, for the note.
        classes: The classes that are taken, or None for all.
        without_classes: The classes that are left out, or None.
        perturb: The rate at which values of training images are replaced.
    """

    name: str
    domain: Domain
    levels: int | None
    binarize: Literal["none", "dynamic", "fixed", "threshold"]
    dequantize: Literal["uniform", "none"]
    scale: Literal["none", "standard"] | None = None
    chosen: tuple[str, ...] = ()
    classes: Sequence[int | str] | None = None
    without_classes: Sequence[int | str] | None = None
    perturb: float = 0.0

    @classmethod
    def choose(cls, data_set: DataSet, domain: Domain, levels: int | None) -> "Conversion":
        """Resolves a data set's `auto` choices, before its images have to be read.

        Args:
            data_set: Whose options count.
            domain: The domain that the likelihood needs.
            levels: L, 2 for binary images, or None for floating-point ones.

        Raises:
            InputError: If the images do not fit the domain, with the remedy.
        """
        name = type(data_set).__name__
        binarize, dequantize = data_set.binarize, data_set.dequantize
        if binarize == "auto":
            drawn = domain == "binary" and data_set.default_domain == "binary"
            binarize = "dynamic" if drawn and levels != 2 else "none"
        if dequantize == "auto":
            dequantize = "uniform" if domain == "real" and levels is not None else "none"
        scale = getattr(data_set, "scale", None)
        scale = scale if scale in ("none", "standard") else None  # another meaning in another class
        refuse_misfits(name, domain, levels, binarize, dequantize, scale)
        if levels == 2:
            binarize = "none"  # they are binary already
        chosen = tuple(c for c in ("binarize", "dequantize") if getattr(data_set, c) == "auto")
        if data_set.perturb and levels is None:
            raise InputError(
                f"--data.perturb draws grey levels, and {name} has floating-point values; save "
                "them as uint8 with (255 * images).round().astype('uint8'), or leave it out"
            )
        choices = data_set.classes, data_set.without_classes, data_set.perturb
        return cls(name, domain, levels, binarize, dequantize, scale, chosen, *choices)

    def _prepare(self, moments: Moments | None) -> Callable[..., Tensor]:
        """From stored pixels to the domain."""
        top = 1 if self.levels is None else self.levels - 1
        if moments is not None:
            mean, deviation = moments
            return partial(standardised, mean=mean, deviation=deviation)
        if self.binarize in ("dynamic", "fixed"):
            return partial(bernoulli_draw, top=top)
        if self.dequantize == "uniform":
            return partial(dequantised, levels=cast(int, self.levels))
        if self.domain == "bytes" and self.levels != 256:
            return partial(_stretched, top=top)
        scaled = top > 1 and self.domain in ("unit", "real")
        return partial(_scaled, top=top) if scaled else _as_float

    def _split(
        self, images: Images, prepare: Callable[..., Tensor], seed: int | None, holes: bool
    ) -> Split:
        """One split, its noise fresh in each batch or, given a seed, drawn here once.

        With holes, which only floating-point numbers can stand for, they stay such numbers.
        """
        raw = images.pixels
        if self.binarize == "threshold":
            raw = at_least(raw, 0.5 if self.levels is None else self.levels // 2, holes)
        elif seed is not None and (self.binarize != "none" or self.dequantize == "uniform"):
            if isinstance(raw, Stored):
                drawn = raw.drawn_once(prepare, seed)
                return Split(drawn, images.labels, _as_float, images.names)
            whole = self.binarize != "none" and not holes
            dtype = torch.uint8 if whole else torch.float32
            generator = torch.Generator().manual_seed(seed)
            frozen = torch.empty(raw.shape, dtype=dtype)
            for start in range(0, len(raw), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                noise = torch.rand(raw[chunk].shape, generator=generator)
                frozen[chunk] = prepare(raw[chunk], noise=noise).to(dtype)
            raw, prepare = frozen, _as_float
        return Split(raw, images.labels, prepare, images.names)

    def once(self, images: Images, moments: Moments | None = None) -> Split:
        """Images in the domain, their noise drawn as that of test images is.

        Args:
            images: Whose values have been checked.
            moments: The mean and the standard deviation to standardise floating-point values by.
        """
        holes = missing_pixels(images.pixels) > 0
        return self._split(images, self._prepare(moments), EVALUATION_SEED + 1, holes)

    def __call__(self, source: Source, seed: int) -> Data:
        """The data set in its domain.

        Args:
            source: The images as they are stored.
            seed: The run's seed, for `fixed` binarisation of the training images.

        Raises:
            InputError: If the pixels are not what they were said to be, or `fixed` is asked for of
                training images that stay on disk.
        """
        if self.binarize == "fixed" and isinstance(source.train.pixels, Stored):
            raise InputError(
                f"--data.binarize fixed draws the training images of {self.name} once, and they "
                "are more than is held in memory; choose dynamic, or a larger --data.memory_gib"
            )
        if self.classes is not None or self.without_classes:
            source = some_classes(source, self.classes, self.without_classes)
        pixels = [images.pixels for images in source.splits]
        values = check_values(self.name, pixels, self.levels, self.domain, self.binarize)
        remarks: list[str] = []
        if self.levels is None:
            remarks = [values_remark(values, self.scale, source.table)]
        missing = tuple(missing_pixels(part) if values.missing else 0 for part in pixels)
        if values.missing:
            noun = "entries" if source.table else "pixels"
            remarks.append(missing_phrase(values.missing, pixels, noun))
        moments: Moments | None = None
        if self.scale == "standard":
            of = column_moments if source.table else mean_and_deviation
            moments = of(source.train.pixels)
        prepare = self._prepare(moments)
        _, channels, height, width = source.train.pixels.shape
        holes = values.missing > 0
        fixed = seed if self.binarize == "fixed" else None
        train = self._split(source.train, prepare, fixed, holes)
        if self.perturb and self.levels is not None:
            levels = 2 if self.binarize in ("fixed", "threshold") else self.levels
            replaced = partial(perturbed, levels=levels, rate=self.perturb)
            train = replace(train, prepare=partial(_in_turn, first=replaced, then=train.prepare))
        return Data(
            train=train,
            validation=self._split(source.validation, prepare, EVALUATION_SEED, holes),
            test=self._split(source.test, prepare, EVALUATION_SEED + 1, holes),
            name=self.name,
            domain=self.domain,
            image_shape=(channels, height, width),
            levels=self.levels,
            binarize=self.binarize,
            dequantize=self.dequantize,
            class_names=source.class_names,
            note="; ".join(filter(None, (self._note(source), *remarks, *source.remarks))),
            fingerprint=tuple(map(images_fingerprint, source.splits)),
            scale=self.scale,
            moments=moments,
            table=source.table,
            holes=missing[0] > 0,
            missing=missing,
            pooled=lambda: self.once(source.pooled(), moments),
        )

    def _note(self, source: Source) -> str:
        choices = {"binarize": self.binarize, "dequantize": self.dequantize}
        said = [
            f"{option} {value}{' (auto)' if option in self.chosen else ''}"
            for option, value in choices.items()
            if value != "none"
            or (option == "dequantize" and self.domain == "real" and not source.table)
        ]
        each = "each column " if source.table else ""
        said += [f"{each}standardised"] if self.scale == "standard" else []
        said += [f"perturb {self.perturb:g}"] if self.perturb else []
        pixels, where = source.train.pixels, "in memory"
        kind, noun, shape = "", "images", " x ".join(str(size) for size in pixels.shape[1:])
        if source.table:
            kind, noun, shape = "a table of ", "rows", f"{pixels.shape[-1]:,} columns"
        parts = [f"{kind}{self.domain} data", *said, sizes_phrase(*source.splits, noun=noun)]
        if isinstance(pixels, Stored):
            readers = "1 process" if pixels.workers == 1 else f"{pixels.workers} processes"
            where = f"read from disk by {readers if pixels.workers else 'this process'}"
        return f"{self.name}: {', '.join(parts)} of {shape}, {where}"
