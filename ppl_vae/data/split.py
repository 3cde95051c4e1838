"""The images that a run works on: three splits, stored as bytes, converted batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from models.spec import Domain
from ppl_vae.data.stored import Index, Stored
from ppl_vae.errors import InputError

__all__ = ["Data", "Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split; indexing gives them in the domain of the likelihood.

    Args:
        raw: (N, C, H, W), as small as it can be stored: uint8 where the images are quantised. A
            tensor, or `Stored` where the images stay in their files.
        labels: (N,) int64, or None.
        prepare: From a batch of `raw` to float32 images in the domain. A pure function of tensors
            on any device, whose noise, if any, comes from torch's global generator.
    """

    raw: Tensor | Stored
    labels: Tensor | None
    prepare: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: Index) -> Tensor:
        return self.prepare(self.raw[index])

    def batch(self, index: Index, labelled: bool) -> tuple[Tensor, ...]:
        """What programs take: (x,), or (x, y) where they are of labelled images.

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

    def _with_labels(self, x: Tensor, index: Index, labelled: bool) -> tuple[Tensor, ...]:
        if not labelled:
            return (x,)
        unknown = torch.full((len(x),), -1, device=x.device)
        return (x, unknown if self.labels is None else self.labels[index])

    def keep_labels(self, count: int, classes: int, seed: int) -> "Split":
        """The split with the labels of `count` images, chosen by the seed, and -1 for the others.

        The classes have as many as each other, up to one. The global random state is left alone.

        Raises:
            InputError: If count is not 1 or more, or a class has too few images with labels.
        """
        labels = torch.full((len(self),), -1) if self.labels is None else self.labels.cpu()
        known = int((labels >= 0).sum())
        if not 1 <= count <= known:
            raise InputError(
                f"--labels: expected 1 to {known:,}, the training images with labels; got {count:,}"
            )
        generator = torch.Generator().manual_seed(seed)
        kept = torch.full_like(labels, -1)
        extra = set(torch.randperm(classes, generator=generator)[: count % classes].tolist())
        for label in range(classes):
            places = (labels == label).nonzero().flatten()
            wanted = count // classes + (label in extra)
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
        rows = torch.cat([places, known.repeat(times - 1)])
        labels = None if self.labels is None else self.labels[rows]
        raw = self.raw.select(rows) if isinstance(self.raw, Stored) else self.raw[rows]
        return replace(self, raw=raw, labels=labels)

    def first(self, count: int) -> "Split":
        """The split of the first so many images."""
        labels = None if self.labels is None else self.labels[:count]
        raw = self.raw
        few = raw.select(slice(count)) if isinstance(raw, Stored) else raw[:count]
        return replace(self, raw=few, labels=labels)

    def to(self, device: torch.device | str) -> "Split":
        """The same split with its images and labels on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, raw=self.raw.to(device), labels=labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A loaded data set.

    Args:
        train: What is fitted; its noise is fresh in each batch.
        validation: What stops or compares fits; always the same images, bit for bit.
        test: What is reported; always the same images, bit for bit.
        name: The data set.
        domain: What `prepare` gives.
        image_shape: (C, H, W).
        levels: How many grey levels the original has (256, 17 for `Digits`, 2 where it is
            binary), or None where it is not quantised.
        binarize: The binarisation in use.
        dequantize: The dequantisation in use.
        class_names: What the labels 0, 1, ... mean, where it is known.
        note: One line for the person who runs it: sizes and what was chosen.
    """

    train: Split
    validation: Split
    test: Split
    name: str
    domain: Domain
    image_shape: tuple[int, int, int]
    levels: int | None
    binarize: Literal["none", "dynamic", "fixed", "threshold"]
    dequantize: Literal["uniform", "none"]
    class_names: tuple[str, ...] | None
    note: str

    @property
    def sizes(self) -> list[int]:
        """How many training, validation and test images there are."""
        return [len(split) for split in (self.train, self.validation, self.test)]

    @property
    def classes(self) -> int:
        """How many labels there are, 0 where there are none."""
        if self.train.labels is None:
            return 0
        return len(self.class_names) if self.class_names else int(self.train.labels.max()) + 1

    @property
    def reference_measure(self) -> str:
        """What a density or mass of these images is taken with respect to, as a phrase."""
        if self.domain == "binary":
            return "counting measure on {0, 1}"
        if self.domain == "bytes":
            return "counting measure on {0, ..., 255}"
        line = "[0, 1]" if self.domain == "unit" else "the real line"
        if self.levels is None:
            return f"Lebesgue measure on {line}, floating-point values as they are"
        if self.dequantize == "uniform":
            return (
                f"Lebesgue measure on [0, 1], {self.levels} grey levels dequantised with uniform "
                "noise"
            )
        return (
            f"Lebesgue measure on {line}, {self.levels} grey levels scaled to [0, 1] and not "
            "dequantised"
        )

    def to(self, device: torch.device | str) -> "Data":
        """The same data with every split on a device."""
        train, validation, test = (s.to(device) for s in (self.train, self.validation, self.test))
        return replace(self, train=train, validation=validation, test=test)


def check_sizes(name: str, sizes: list[int], expected: list[int] | None) -> None:
    """Refuses data that are not those of a run any more: splits are drawn from all images.

    Args:
        name: The data set.
        sizes: `Data.sizes` now.
        expected: Those of the run, where they are known.

    Raises:
        InputError: If the two differ.
    """
    if expected not in (None, sizes):
        raise InputError(
            f"expected the {sum(expected or ()):,} images that the run was trained with; {name} "
            f"has {sum(sizes):,} by now; put the old ones back, or train again"
        )
