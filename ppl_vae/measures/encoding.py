"""Means of q(z|x) and p(x|z), and the classes that an image is encoded and decoded with.

All are of programs in evaluation mode, and are computed in pieces whose sizes follow from the pair
and a bound on memory alone, so that one seed gives one result. Of many rows the pieces run a
compiled graph.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from guides import Guide
from models import Model
from ppl_vae.compiler.compiling import Engine, check_engine, compiled_if_possible
from ppl_vae.data import Split
from ppl_vae.machine.memory import Allocations, memory_bound
from ppl_vae.machine.randomness import isolated

__all__ = [
    "decoded_mean",
    "independent_means",
    "likely_classes",
    "posterior_draws",
    "posterior_mean",
    "reconstructions",
    "split_means",
]

_DRAWS = 256  # for a mean that has no closed form
# For each of two estimates of E[z|x].
_FEWEST, _MOST = 8, 128
_LATENTS = 2**15  # in all draws of an estimate; where z has over 256 latents the draws are fewer
_FOR_VARIANCE = 2000  # that of E[z|x] has an error of 0.0005 where q(z|x) is like N(0, I)
_WORTH_COMPILING = 1_000_000  # rows, which take the networks of an MLP about as long as compiling
_BATCH = 1000  # images in memory at once


def likely_classes(model: Model, guide: Guide, x: Tensor, *labels: Tensor) -> Tensor | None:
    """The class (B,) to encode and decode each image with; None where there is none to choose.

    It is the most probable one by the guide's classifier, which does not see the labels, or the
    label itself where the model takes the class as given.

    Args:
        model: The model.
        guide: Its guide.
        x: Images (B, C, H, W).
        *labels: Their labels (B,) where the model is one of labelled images.

    Raises:
        ValueError: As for `posterior_mean`.
    """
    if not model.labelled:
        return None
    model.check_batch(x, *labels)
    if not model.enumerated:
        return labels[0]
    try:
        classes = _Function(lambda x: guide.classify(x).logits.argmax(-1), guide)
        return _InPieces("classifying", classes, "eager", len(x))(x)
    except NotImplementedError:
        return None


@torch.no_grad()
def decoded_mean(
    model: Model, z: Tensor, y: Tensor | None = None, *, engine: Engine = "auto"
) -> Tensor:
    """E[x|z], (..., C, H, W) for z (..., D): exact where it is known, else averaged over draws.

    For a model whose decoder takes a class y as well, of a shape that broadcasts to (...), it is
    E[x|z, y] where y is given. It has no gradient.

    Args:
        model: p(x|z).
        z: Latents.
        y: Classes.
        engine: `compiled` computes it by a graph of tensor operations that is compared with the
            networks, up to rounding; `auto` does so for 1,000,000 rows or more.

    Raises:
        ValueError: If z has another dimension or type than that which the decoder takes, or y is
            none of the classes.
    """
    model.check_type("latents", z)
    parts = [z.reshape(-1, z.shape[-1])]
    if y is not None:
        model.spec.check_labels(y)
        parts.append(y.expand(z.shape[:-1]).reshape(-1))
    decode = _Function(lambda *latents: _mean(model.decode(*latents)), model)
    means = _InPieces("decoding", decode, engine, len(parts[0]))(*parts)
    return means.reshape(*z.shape[:-1], *means.shape[1:])


@torch.no_grad()
def posterior_mean(
    model: Model, guide: Guide, x: Tensor, y: Tensor | None = None, *, engine: Engine = "auto"
) -> Tensor:
    """E[z|x] under the guide, (B, D): exact where it is known, else averaged over draws.

    It has no gradient.

    Args:
        model: The model, which says what z is: `Model.code`.
        guide: q(z|x).
        x: Images (B, C, H, W).
        y: Their classes (B,), where q(z|x, y) is meant.
        engine: As for `decoded_mean`.

    Raises:
        ValueError: If the images are not those that the model is for: of another shape or type, or
            outside of its domain.
    """
    batch = (x,) if y is None else (x, y)
    model.check_batch(*batch)
    encoder = _encoder(model, guide, _draws(model))
    return _InPieces("encoding", encoder, engine, len(x))(*batch).mean(1)


@torch.no_grad()
def independent_means(model: Model, guide: Guide, x: Tensor, y: Tensor | None = None) -> Tensor:
    """E[z|x] under the guide, (B, 1, D), or two estimates of it, (B, 2, D).

    The estimates are averages over draws, where the mean has no closed form, and independent given
    x. So their covariance over the images is the variance of E[z|x], without a bias, and takes
    fewer draws than the means themselves, the fewer the more images there are.

    Args:
        model: The model, which says what z is: `Model.code`.
        guide: q(z|x).
        x: Images (B, C, H, W).
        y: Their classes (B,), where q(z|x, y) is meant.

    Raises:
        ValueError: As for `posterior_mean`.
    """
    batch = (x,) if y is None else (x, y)
    model.check_batch(*batch)
    encoder = _encoder(model, guide, _independent_draws(len(x)))
    return _InPieces("encoding", encoder, "eager", len(x))(*batch)


@torch.no_grad()
def split_means(
    model: Model, guide: Guide, images: Split, engine: Engine = "auto", independent: bool = False
) -> Tensor:
    """E[z|x], or E[z|x, y] where a model has classes, of all images of a split, (N, D).

    Args:
        model: The model, which says what z is: `Model.code`.
        guide: Its guide.
        images: N images, not all of which need fit into memory.
        engine: As for `decoded_mean`.
        independent: Whether they are wanted as `independent_means` gives them, (N, R, D).
    """
    draws = _independent_draws(len(images)) if independent else _draws(model)
    encoded = _encoded(model, guide, _encoder(model, guide, draws), images, engine)
    return torch.cat([z if independent else z.mean(1) for _, _, z in encoded])


@torch.no_grad()
def reconstructions(model: Model, guide: Guide, images: Split, engine: Engine = "auto") -> Tensor:
    """E[x|z] at z = E[z|x] of all images of a split, (N, C, H, W); of classes as `split_means`.

    Args:
        model: The model, which says what z is: `Model.code`.
        guide: Its guide.
        images: N images, whose reconstructions have to fit into memory.
        engine: As for `decoded_mean`.
    """
    encoder = _encoder(model, guide, _draws(model))
    encoded = _encoded(model, guide, encoder, images, engine)
    return torch.cat(
        [
            decoded_mean(model, z.mean(1), y if model.labelled else None, engine=engine)
            for _, y, z in encoded
        ]
    )


def _encoded(
    model: Model, guide: Guide, encoder: nn.Module, images: Split, engine: Engine
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Images, the classes that they are encoded with, and the means of z, batch by batch."""
    encode = _InPieces("encoding", encoder, engine, len(images))
    for x, *labels in images.in_turn(_BATCH, model.labelled):
        y = likely_classes(model, guide, x, *labels)
        yield x, y, encode(x) if y is None else encode(x, y)


def posterior_draws(model: Model, guide: Guide, draws: int, *batch: Tensor) -> Tensor:
    """So many draws of z, as the decoder takes it, from the guide for each image, (K, B, D).

    Args:
        model: The model, which says what z is: `Model.code`.
        guide: q(z|x).
        draws: K.
        *batch: Images (B, C, H, W), and their classes (B,) where q(z|x, y) is meant.
    """
    with pyro.plate("particles", draws, dim=-2):
        trace: Any = poutine.trace(guide).get_trace(*batch)
    return model.code({site: trace.nodes[site]["value"] for site in model.latents})


class _InPieces:
    """A function of each row of a batch, in pieces that fit the memory bound.

    Args:
        what: What it does.
        function: From rows to a tensor of as many.
        engine: Whether whole pieces run a compiled graph.
        total: Rows in all calls together.
    """

    def __init__(self, what: str, function: nn.Module, engine: Engine, total: int) -> None:
        check_engine(engine)
        self._what = what
        self._function = function
        self._whole: Callable[..., Tensor] = function
        self._to_compile = engine == "compiled" or (engine == "auto" and total >= _WORTH_COMPILING)
        self._rows = 0

    def __call__(self, *batch: Tensor) -> Tensor:
        size = len(batch[0])
        if size < 2:  # what a row takes is measured on two
            return self._function(*batch)
        if not self._rows:
            self._rows = _affordable_rows(self._function, *batch)
            if self._to_compile:
                example = tuple(part[: self._rows] for part in batch)
                (self._whole,) = compiled_if_possible(self._what, [self._function], example)
        result: Tensor | None = None
        for start in range(0, size, self._rows):
            piece = slice(start, min(start + self._rows, size))
            whole = piece.stop - start == self._rows
            rows = (self._whole if whole else self._function)(*(part[piece] for part in batch))
            # Filled in place: pieces that wait to be joined are the result once more.
            if result is None:
                result = rows.new_empty(size, *rows.shape[1:])
            result[piece] = rows
        assert result is not None
        return result


def _affordable_rows(function: nn.Module, *batch: Tensor) -> int:
    """How many rows to take at a time, so that whole pieces make up nearly all of the batch."""
    bytes_of = []
    for rows in (1, 2):  # what the second adds: products of weights, say, are there once
        with isolated(batch[0].device, function), Allocations() as allocations:
            function(*(part[:rows] for part in batch))
        bytes_of.append(allocations.total)
    rows = max(1, memory_bound(batch[0].device) // max(1, bytes_of[1] - bytes_of[0]))
    size = len(batch[0])
    return math.ceil(size / math.ceil(size / rows))


class _Function(nn.Module):
    """A function of rows with the modules that it runs, which a compiler has to know."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, *batch: Tensor) -> Tensor:
        return self.function(*batch)


def _draws(model: Model) -> int:
    """Of z, for each of two estimates of a mean."""
    return max(_FEWEST, min(_MOST, _LATENTS // model.code_dim))


def _independent_draws(images: int) -> int:
    """The same where the covariance over so many images is wanted."""
    return min(_MOST, math.ceil(_FOR_VARIANCE / math.sqrt(images)))


def _encoder(model: Model, guide: Guide, draws: int) -> nn.Module:
    """E[z|x] or E[z|x, y], (B, 1, D); without a closed form two means of draws, (B, 2, D)."""

    def encode(*batch: Tensor) -> Tensor:
        try:
            return guide.posterior(*batch).mean.unsqueeze(1)
        except NotImplementedError:
            z = posterior_draws(model, guide, 2 * draws, *batch)
            return z.unflatten(0, (2, draws)).mean(1).movedim(0, 1)

    return _Function(encode, model, guide)


def _mean(distribution: TorchDistribution) -> Tensor:
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample(torch.Size((_DRAWS,))).mean(0)
