"""What the views share: test images and their latents, seeded draws, results as arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.errors import InputError, check_images, check_within
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.encoding import likely_classes, posterior_mean
from ppl_vae.runs.run import Run

__all__ = ["Arrays", "arrays_of", "choose_images", "drawing", "encode"]

Arrays = dict[str, NDArray[Any]]

_IMAGES = ("original", "mean", "draw")


@contextmanager
def drawing(run: Run, seed: int) -> Iterator[None]:
    """Random numbers from a seed, checked, on the run's device, and no gradients."""
    check_seed(seed)
    with seeded(run.device, seed), torch.no_grad():
        yield


def encode(run: Run, chosen: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Test images x, the class y to encode each with, where the model has any, and E[z|x, y]."""
    x, *labels = run.data.test.batch(chosen, run.model.labelled)
    y = likely_classes(run.model, run.guide, x, *labels)
    return x, y, posterior_mean(run.model, run.guide, x, y)


def choose_images(run: Run, images: Sequence[int] | None, count: int) -> Tensor:
    """The indices of test images, checked."""
    size = len(run.data.test)
    if images is None:
        check_within("count", count, 1)
        if count > size:
            raise InputError(f"--count: expected at most {size}, all test images; got {count}")
        images = range(count)
    check_images(images, size)
    return torch.as_tensor(list(images), device=run.device)


def arrays_of(run: Run, **values: Tensor | NDArray[Any]) -> Arrays:
    """Tensors on any device as arrays; images, and rows of a table, in the units of the data."""
    arrays = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = (run.facts.in_units(value) if name in _IMAGES else value).cpu().numpy()
        arrays[name] = value
    return arrays
