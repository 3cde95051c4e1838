"""A data set that a run was not trained on, in the domain of that run and by its rules."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from models import Spec
from ppl_vae.data import (
    Arrays,
    Data,
    DataSet,
    Facts,
    ImageFolder,
    Split,
    sizes_phrase,
    standardised,
)
from ppl_vae.data.new_values import check_missing
from ppl_vae.errors import InputError

__all__ = ["other_data"]


def other_data(data_set: DataSet, facts: Facts, spec: Spec, labelled: bool) -> Data:
    """Loads a data set for a run that was trained on another one.

    Options that are left open follow the run, also the size and colour of pictures. Floating-point
    values are standardised by the training images of the run, and where the model takes labels,
    classes are those of the run that have their names. A line on standard error says how the images
    were read, and how many there are in all splits.

    Args:
        data_set: The other data set.
        facts: Of the run's data.
        spec: That the run's pair was built for.
        labelled: Whether the run's model takes labels.

    Raises:
        InputError: If its files cannot be read, or its images do not fit the run.
    """
    data = _as_chosen(data_set, facts).load(facts.domain, seed=0)
    if data.image_shape != spec.image_shape:
        if facts.table and data.table:
            raise InputError(
                f"expected {spec.pixels:,} columns, as the run's table has; that of {data.name} "
                f"has {data.image_shape[2]:,}; choose them as they were chosen for the run"
            )
        expected, got = (" x ".join(map(str, s)) for s in (spec.image_shape, data.image_shape))
        raise InputError(
            f"expected images of {expected} (channels, height, width), as the run's are; those of "
            f"{data.name} are of {got}; crop or resize them"
        )
    if facts.moments is not None and data.levels is not None:
        raise InputError(
            f"expected floating-point values, as the run's data are; {data.name} has "
            f"{data.levels:,} grey levels; save its images as those were"
        )
    check_missing(sum(data.missing), facts)
    adapt = partial(
        _adapted, facts=facts, classes=_classes(data, facts, spec) if labelled else None
    )
    whole: Callable[[], Split] | None = data.pooled
    splits = data.train, data.validation, data.test
    count = sum(map(len, splits))
    every = f"1 {data.noun[:-1]}" if count == 1 else f"{count:,} {data.noun}"
    sizes = sizes_phrase(*splits, noun=data.noun)
    print(data.note.replace(sizes, every), file=sys.stderr)
    return replace(
        data,
        train=adapt(data.train),
        validation=adapt(data.validation),
        test=adapt(data.test),
        scale=facts.scale if facts.moments else data.scale,
        moments=facts.moments,
        class_names=facts.class_names if labelled else data.class_names,
        pooled=None if whole is None else lambda: adapt(whole()),
    )


def _as_chosen(data_set: DataSet, facts: Facts) -> DataSet:
    """The data set with the run's choices where it leaves them open."""
    chosen: dict[str, Any] = {}
    if data_set.binarize == "auto" and facts.binarize != "none":
        chosen["binarize"] = "dynamic" if facts.binarize == "fixed" else facts.binarize
    if data_set.dequantize == "auto" and facts.levels is not None and facts.dequantize == "none":
        chosen["dequantize"] = "none"
    scale = getattr(data_set, "scale", None)
    open_scale = isinstance(data_set, Arrays) and scale == "auto"
    if open_scale or (facts.moments is not None and scale == "standard"):
        chosen["scale"] = "none"
    if isinstance(data_set, ImageFolder):
        if data_set.colour == "auto":
            chosen["colour"] = "grey" if facts.image_shape[0] == 1 else "rgb"
        if data_set.size is None and facts.crop is not None:
            chosen |= {"size": facts.image_shape[1:], "crop": facts.crop}
    return replace(data_set, **chosen)


def _classes(data: Data, facts: Facts, spec: Spec) -> torch.Tensor | None:
    """The number in the run of each class of the data; None where they are the same."""
    if data.train.labels is None or data.class_names == facts.class_names:
        names: tuple[str, ...] = ()
    else:
        names = data.class_names or tuple(map(str, range(data.classes)))
    if facts.class_names is not None and names:
        return torch.tensor([*map(facts.label_of, names), -1])
    if data.classes > spec.classes:
        raise InputError(
            f"expected {spec.classes} classes, as the run's data have; {data.name} has "
            f"{data.classes}; leave the others out"
        )
    return None


def _adapted(split: Split, facts: Facts, classes: torch.Tensor | None) -> Split:
    if classes is not None and split.labels is not None:
        split = replace(split, labels=classes.to(split.labels.device)[split.labels])
    if facts.moments is None:
        return split
    mean, deviation = facts.moments
    return replace(split, prepare=partial(standardised, mean=mean, deviation=deviation))
