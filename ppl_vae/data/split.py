"""The images that a run works on: three splits, stored as bytes, converted batch by batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.classes import class_number
from ppl_vae.data.stored import Index, Stored, pieces
from ppl_vae.errors import InputError

__all__ = ["Data", "Facts", "Moments", "Split", "sizes_phrase"]

Moments = tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]]
"""The mean and the standard deviation of all values, or those of each column of a table."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """The images of one split; indexing gives them in the domain of the likelihood.

    Args:
        raw: (N, C, H, W), as small as it can be stored: uint8 where the images are quantised. A
            tensor, or `Stored` where the images stay in their files.
        labels: (N,) int64, or None.
        prepare: From a batch of `raw` to float32 images in the domain. A pure function of tensors
            on any device, whose noise, if any, comes from torch's global generator.
        names: (N,) of the files, as bytes, where each image has one of its own.
    """

    raw: Tensor | Stored
    labels: Tensor | None
    prepare: Callable[[Tensor], Tensor]
    names: NDArray[np.bytes_] | None = None

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.raw.shape[1:]))
        labels = "without" if self.labels is None else "with"
        return f"Split of {len(self):,} images of {shape}, {labels} labels"

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: Index) -> Tensor:
        return self.prepare(self.raw[index])

    def batch(self, index: Index, labelled: bool) -> tuple[Tensor, ...]:
        """The arguments of the programs: (x,), or (x, y) where they are of labelled images.

        Labels that are not known are -1.
        """
        return self._with_labels(self[index], index, labelled)

    def batches(self, indices: Sequence[Index], labelled: bool) -> Iterator[tuple[Tensor, ...]]:
        """`batch` of each index in turn; images in files are read ahead by other processes.

        Raises:
            InputError: If a file cannot be read.
        """
        if isinstance(self.raw, Stored):
            for index, raw in zip(indices, self.raw.batches(indices), strict=True):
                yield self._with_labels(self.prepare(raw), index, labelled)
        else:
            for index in indices:
                yield self.batch(index, labelled)

    def in_turn(self, size: int, labelled: bool) -> Iterator[tuple[Tensor, ...]]:
        """All images, so many at a time, as `batches` gives them."""
        return self.batches([slice(s, s + size) for s in range(0, len(self), size)], labelled)

    def _with_labels(self, x: Tensor, index: Index, labelled: bool) -> tuple[Tensor, ...]:
        if not labelled:
            return (x,)
        unknown = torch.full((len(x),), -1, device=x.device)
        return (x, unknown if self.labels is None else self.labels[index])

    def observed(self) -> Tensor:
        """How many pixels of each image are not missing, (N,)."""
        if not self.raw.dtype.is_floating_point:
            return torch.full((len(self),), self.raw.shape[1:].numel())
        return torch.cat([(~piece.isnan()).flatten(1).sum(1) for piece in pieces(self.raw)])

    def keep_labels(self, count: int, classes: int, seed: int) -> "Split":
        """The split with the labels of `count` images, chosen by the seed, and -1 for the others.

        The classes have as many as each other, up to one. The global random state is left alone.

        Raises:
            InputError: If there are fewer than one for each class, or a class has too few images
                with labels.
        """
        labels = torch.full((len(self),), -1) if self.labels is None else self.labels.cpu()
        known = int((labels >= 0).sum())
        if not classes <= count <= known:
            raise InputError(
                f"--labels: expected {classes:,}, one for each class, to {known:,}, the training "
                f"images with labels; got {count:,}"
            )
        generator = torch.Generator().manual_seed(seed)
        kept = torch.full_like(labels, -1)
        extra = set(torch.randperm(classes, generator=generator)[: count % classes].tolist())
        for label in range(classes):
            places = (labels == label).nonzero().flatten()
            wanted = count // classes + (label in extra)
            if not len(places):
                raise InputError(
                    f"--labels: class {label} has no training image with a label; label some, or "
                    "number the classes without it"
                )
            if len(places) < wanted:
                raise InputError(
                    f"--labels: expected at most {len(places) * classes:,}, since class {label} "
                    f"has {len(places):,} training images with labels; got {count:,}"
                )
            chosen = places[torch.randperm(len(places), generator=generator)[:wanted]]
            kept[chosen] = label
        return replace(self, labels=kept.to(self.raw.device))

    def repeat_labelled(self, times: int) -> "Split":
        """The split with each image whose label is known so many times; the others once."""
        places = torch.arange(len(self), device=self.raw.device)
        known = places[:0] if self.labels is None else places[self.labels >= 0]
        return self.select(torch.cat([places, known.repeat(times - 1)]))

    def first(self, count: int) -> "Split":
        """The split of the first so many images."""
        return self.select(slice(count))

    def select(self, index: Index) -> "Split":
        """The split of some images; nothing is read."""
        labels = None if self.labels is None else self.labels[index]
        raw = self.raw.select(index) if isinstance(self.raw, Stored) else self.raw[index]
        places = index.cpu().numpy() if isinstance(index, Tensor) else index
        names = None if self.names is None else self.names[places]
        return replace(self, raw=raw, labels=labels, names=names)

    def to(self, device: torch.device | str) -> "Split":
        """The same split with its images and labels on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, raw=self.raw.to(device), labels=labels)


def sizes_phrase(*splits: Sized, noun: str = "images") -> str:
    """How many images the three splits have, as the first line of a run says it."""
    return f"{' / '.join(f'{len(each):,}' for each in splits)} training / validation / test {noun}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Facts:
    """How the images of a data set became data for a likelihood: all that new ones need to follow.

    Args:
        name: The data set.
        domain: The domain of the images.
        image_shape: (C, H, W); (1, 1, D) for the rows of a table of D columns.
        levels: How many grey levels the original has (256, 17 for `Digits`, 2 where it is
            binary), or None where it is not quantised.
        binarize: The binarisation in use.
        dequantize: The dequantisation in use.
        class_names: The names of the labels 0, 1, ..., where they are known.
        scale: Whether floating-point values are standardised.
        moments: The mean and the standard deviation that they are standardised by; those of each
            column of a table.
        table: Whether they are the rows of a table, of which there are no pictures.
        crop: How pictures are brought to the size of `image_shape`, as `ImageFolder` takes it; None
            where they have to be of that size.
        holes: Whether training images have missing pixels, which are NaN.
    """

    name: str
    domain: Domain
    image_shape: tuple[int, int, int]
    levels: int | None
    binarize: Literal["none", "dynamic", "fixed", "threshold"]
    dequantize: Literal["uniform", "none"]
    class_names: tuple[str, ...] | None
    scale: Literal["none", "standard"] | None = None
    moments: Moments | None = None
    table: bool = False
    crop: Literal["none", "center"] | None = None
    holes: bool = False

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Self:
        """The facts that `plain` gave, from JSON."""
        return cls(**{name: _as_tuple(value) for name, value in plain.items()})

    def plain(self) -> dict[str, Any]:
        """The facts alone, for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(Facts)}

    def label_of(self, label: int | str) -> int:
        """The number of a class, as `ppl_vae.data.classes.class_number` finds it.

        Raises:
            InputError: If there is no class of that name.
        """
        return class_number("--label", label, self.class_names or ())

    @property
    def noun(self) -> str:
        """What to call the data."""
        return "rows" if self.table else "images"

    def in_units(self, x: Tensor, spread: bool = False) -> Tensor:
        """Values of the domain in the units of the data: standardised ones no longer are.

        Args:
            x: (..., C, H, W).
            spread: Whether they are standard deviations, whose mean stays 0.

        Returns:
            (..., C, H, W), or (..., D) for the rows of a table.
        """
        if self.moments is not None:
            mean, deviation = (torch.tensor(each, device=x.device) for each in self.moments)
            x = x * deviation if spread else x * deviation + mean
        return x.flatten(-3) if self.table else x

    @property
    def reference_measure(self) -> str:
        """The measure that a density or mass of these images refers to, as a phrase."""
        if self.domain == "binary":
            return "counting measure on {0, 1}"
        if self.domain == "bytes":
            return "counting measure on {0, ..., 255}"
        line = "[0, 1]" if self.domain == "unit" else "the real line"
        if self.levels is None:
            how = "standardised" if self.scale == "standard" else "as they are"
            by_column = " column by column" if self.table and self.scale == "standard" else ""
            return f"Lebesgue measure on {line}, floating-point values {how}{by_column}"
        if self.dequantize == "uniform":
            return (
                f"Lebesgue measure on [0, 1], {self.levels} grey levels dequantised with uniform "
                "noise"
            )
        return (
            f"Lebesgue measure on {line}, {self.levels} grey levels scaled to [0, 1] and not "
            "dequantised"
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Data(Facts):
    """A loaded data set.

    Args:
        train: The images to fit; their noise is fresh in each batch.
        validation: The images that stop or compare fits; always the same, bit for bit.
        test: The images to report on; always the same, bit for bit.
        note: The first line of a run: sizes, choices, and remarks on the data.
        fingerprint: Of each split, as `ppl_vae.data.fingerprint` has it; without one, its size.
        pooled: Gives the images of all three splits as one.
        missing: How many pixels of each split are missing.
    """

    train: Split
    validation: Split
    test: Split
    note: str
    fingerprint: tuple[str, ...] = ()
    pooled: Callable[[], Split] | None = None
    missing: tuple[int, ...] = (0, 0, 0)

    def __repr__(self) -> str:
        return f"Data {self.note}"

    def __post_init__(self) -> None:
        if not self.fingerprint:
            sizes = (str(len(split)) for split in (self.train, self.validation, self.test))
            object.__setattr__(self, "fingerprint", tuple(sizes))

    @property
    def all(self) -> Split:
        """The images of all splits, their noise drawn once and always alike.

        They are in the order of their files' names where they have some, else training, validation
        and test images follow each other.

        Raises:
            InputError: If the data set does not say how the three become one.
        """
        if self.pooled is None:
            raise InputError(
                f"the splits of {self.name} cannot be joined; choose train, validation or test"
            )
        return self.pooled().to(self.train.raw.device)

    @property
    def sizes(self) -> list[int]:
        """How many training, validation and test images were read; repeated ones count once."""
        return [int(each.partition("-")[0]) for each in self.fingerprint]

    @property
    def classes(self) -> int:
        """How many labels there are, 0 where there are none."""
        if self.train.labels is None:
            return 0
        return len(self.class_names) if self.class_names else int(self.train.labels.max()) + 1

    def to(self, device: torch.device | str) -> "Data":
        """The same data with every split on a device."""
        train, validation, test = (s.to(device) for s in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)


def _as_tuple(value: Any) -> Any:
    """A list of JSON, and those in it, as tuples; anything else as it is."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
