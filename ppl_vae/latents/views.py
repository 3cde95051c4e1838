"""What a trained pair has learned, as arrays: draws, reconstructions and ways through z.

Images (C, H, W) are in the units of the data, also where these were standardised. In their place
are rows (columns,) of a table.
"""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from models import Mixture
from ppl_vae.errors import InputError, check_within
from ppl_vae.latents.quantiles import aggregate_quantiles, prior_quantiles
from ppl_vae.latents.viewing import Arrays, arrays_of, choose_images, drawing, encode
from ppl_vae.measures.encoding import decoded_mean
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.runs.run import Run, as_run

__all__ = [
    "interpolate",
    "manifold",
    "reconstruct",
    "sample",
    "traverse",
]

_ORDERING = 64  # test images whose traversals order the latents
_TRAVERSALS = 12_800  # of one latent and image each; a deep hierarchy has thousands of latents


@called_anywhere
def sample(
    run: Run | Path | str, count: int = 64, seed: int = 0, label: int | str | None = None
) -> Arrays:
    """Draws images from the model: z ~ p(z), x ~ p(x|z).

    Args:
        run: A trained run, or its path.
        count: How many images.
        seed: The seed of the draws.
        label: Of one class y only, by its number or name, for a model that has classes:
            z ~ p(z|y), x ~ p(x|z, y).

    Returns:
        `z` (count, D), `mean` (count, C, H, W), which is E[x|z], and `draw` of that shape; for a
        model with classes also `y` (count,), and the mean is E[x|z, y].

    Raises:
        InputError: If count < 1, the seed is out of range, or there is no such class.
    """
    run = as_run(run)
    check_within("count", count, 1)
    model = run.model
    with drawing(run, seed):
        y = None if label is None else _class(run, label).expand(count)
        if model.given_class:
            if y is None:
                y = torch.randint(run.spec.classes, (count,), device=run.device)
            trace = poutine.trace(model).get_trace(y=y)
        elif y is not None:
            trace = poutine.trace(poutine.condition(model, {"y": y})).get_trace(size=count)
        else:
            trace = poutine.trace(model).get_trace(size=count)
            y = _value(trace, "y") if "y" in model.enumerated else None
        z = model.code({site: _value(trace, site) for site in model.latents})
        mean = decoded_mean(model, z, y if model.labelled else None)
        given = {} if y is None else {"y": y}
        return arrays_of(run, z=z, **given, mean=mean, draw=_value(trace, "x"))


@called_anywhere
def reconstruct(
    run: Run | Path | str, images: Sequence[int] | None = None, count: int = 16, seed: int = 0
) -> Arrays:
    """Encodes test images to the posterior mean of z and decodes that.

    Args:
        run: A trained run, or its path.
        images: Which test images, counted from 0; the first `count` unless given.
        count: How many images, where `images` is not given.
        seed: The seed of draws, where a mean has no closed form.

    Returns:
        `images` (N,), `original` (N, C, H, W), `z` (N, D) and `mean` (N, C, H, W), E[x|z].

    Raises:
        InputError: If there is no such image, count < 1 or the seed is out of range.
    """
    run = as_run(run)
    chosen = choose_images(run, images, count)
    with drawing(run, seed):
        x, y, z = encode(run, chosen)
        return arrays_of(run, images=chosen, original=x, z=z, mean=decoded_mean(run.model, z, y))


@called_anywhere
def manifold(run: Run | Path | str, rows: int = 20, seed: int = 0) -> Arrays:
    """Decodes a grid over a two-dimensional z; Kingma and Welling (2014), figure 4.

    The grid is even in probability: z_d = F_d^-1((i + 1/2) / rows), F_d the distribution function
    of the prior's latent d. In the picture z_0 grows to the right and z_1 upwards.

    Args:
        run: A trained run with latent_dim 2, or its path.
        rows: Images from bottom to top, and from left to right.
        seed: The seed of draws, where the prior's quantiles have no closed form.

    Returns:
        `probabilities` (rows,), `z` (rows, rows, 2) and `mean` (rows, rows, C, H, W), E[x|z], both
        from the picture's top left: z[r, c] = (F_0^-1(p_c), F_1^-1(p_(rows-1-r))).

    Raises:
        InputError: If z is not two-dimensional, rows < 2 or the seed is out of range.
    """
    run = as_run(run)
    if run.model.code_dim != 2:
        raise InputError(
            f"the manifold is drawn for a two-dimensional z; that of this run has "
            f"{run.model.code_dim} dimensions: train a VAE with --latent_dim 2"
        )
    check_within("rows", rows, 2)
    probabilities = (np.arange(rows) + 0.5) / rows
    with drawing(run, seed):
        across, up = prior_quantiles(run, probabilities).T
        z = torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), dim=-1)
        return arrays_of(run, probabilities=probabilities, z=z, mean=decoded_mean(run.model, z))


@called_anywhere
def traverse(
    run: Run | Path | str,
    images: Sequence[int] | None = None,
    count: int = 1,
    steps: int = 11,
    latents: int = 10,
    seed: int = 0,
) -> Arrays:
    """Moves one latent at a time and decodes, from the posterior mean of test images.

    Latent d takes the quantiles v_s = F_d^-1((s + 1/2) / steps) while the others stay, F_d the
    distribution function of z_d under the aggregate posterior q(z) = 1/N sum_n q(z|x_n): this is
    where data encode, and beyond it a decoder extrapolates. q(z) is known from 20 draws for each of
    the first 512 test images. The effect of d is the root of the mean square, over pixels and
    steps, of how far E[x|z] is from its average over the steps, in units of x, averaged over the
    first 64 test images, or over 12,800 / D of them where D, the number of latents, is above 200.
    Latents are ordered by it, the largest first.

    Args:
        run: A trained run, or its path.
        images: Which test images to start from, counted from 0; the first `count` unless given.
        count: How many images, where `images` is not given.
        steps: Positions of the latent.
        latents: How many latents to show, at most; all are ordered.
        seed: The seed of the draws from q(z), and of means without a closed form.

    Returns:
        `images` (N,), `original` (N, C, H, W), `z` (N, D) the posterior means, `probabilities`
        (steps,), `quantiles` (steps, D) of q(z), `effects` (D,), `order` (D,) the latents'
        indices, and `mean` (L, N, steps, C, H, W), E[x|z] for the L first of the order.

    Raises:
        InputError: If there is no such image, count < 1, steps < 2, latents < 1 or the seed is out
            of range.
    """
    run = as_run(run)
    chosen = choose_images(run, images, count)
    check_within("steps", steps, 2)
    check_within("latents", latents, 1)
    probabilities = (np.arange(steps) + 0.5) / steps
    with drawing(run, seed):
        quantiles = aggregate_quantiles(run, probabilities)
        few = max(1, min(_ORDERING, _TRAVERSALS // quantiles.shape[1], len(run.data.test)))
        first = torch.arange(few, device=run.device)
        _, y, basis = encode(run, first)
        effects = []
        for latent in range(quantiles.shape[1]):
            moved = decoded_mean(run.model, _move(basis, latent, quantiles), _column(y))
            change = moved - moved.mean(1, keepdim=True)
            effects.append(change.square().flatten(1).mean(1).sqrt().mean())
        order = torch.stack(effects).argsort(descending=True, stable=True)
        x, y, z = encode(run, chosen)
        shown = order[:latents].tolist()
        mean = torch.stack(
            [decoded_mean(run.model, _move(z, latent, quantiles), _column(y)) for latent in shown]
        )
        return arrays_of(
            run,
            images=chosen,
            original=x,
            z=z,
            probabilities=probabilities,
            quantiles=quantiles,
            effects=torch.stack(effects),
            order=order,
            mean=mean,
        )


@called_anywhere
def interpolate(
    run: Run | Path | str,
    images: Sequence[int] | None = None,
    count: int = 8,
    steps: int = 11,
    seed: int = 0,
) -> Arrays:
    """Decodes the straight line z(t) = (1 - t) z_a + t z_b between pairs of test images.

    Args:
        run: A trained run, or its path.
        images: Which test images, counted from 0, an even number: the first to the second, the
            third to the fourth, ...; the first 2 `count` unless given.
        count: How many pairs, where `images` is not given.
        steps: Images on the line, both ends included.
        seed: The seed of draws, where a mean has no closed form.

    Returns:
        `images` (P, 2), `original` (P, 2, C, H, W), `t` (steps,), `z` (P, steps, D) with the
        posterior means at both ends, and `mean` (P, steps, C, H, W), E[x|z].

    Raises:
        InputError: If there is no such image, their number is odd, count < 1, steps < 2 or
            the seed is out of range.
    """
    run = as_run(run)
    if images is not None and len(images) % 2:
        raise InputError(f"--images: expected pairs, an even number of images; got {len(images)}")
    check_within("count", count, 1)
    check_within("steps", steps, 2)
    size = len(run.data.test)
    if images is None and 2 * count > size:
        remedy = f"choose --count {size // 2}" if size > 1 else "add test images"
        raise InputError(
            f"--count: expected {2 * count} test images, two for each pair; the data set has "
            f"{size}; {remedy}"
        )
    chosen = choose_images(run, images, 2 * count)
    t = np.linspace(0, 1, steps)
    with drawing(run, seed):
        x, y, mean = encode(run, chosen)
        start, end = mean.unflatten(0, (-1, 2)).unsqueeze(2).unbind(1)
        weight = torch.as_tensor(t).to(start)[:, None]
        z = (1 - weight) * start + weight * end
        if y is not None:  # a class has no middle: that of the nearer end
            first, second = y.reshape(-1, 2, 1).unbind(1)
            y = torch.where(weight.mT <= 0.5, first, second)
        return arrays_of(
            run,
            images=chosen.reshape(-1, 2),
            original=x.unflatten(0, (-1, 2)),
            t=t,
            z=z,
            mean=decoded_mean(run.model, z, y),
        )


def _value(trace: Any, site: str) -> Tensor:
    return trace.nodes[site]["value"]


def _class(run: Run, label: int | str) -> Tensor:
    """A class as a tensor, checked."""
    if run.model.labelled:
        label = run.data.label_of(label)
    if isinstance(run.model, Mixture):
        classes = len(run.model.logits)
    elif run.model.labelled:
        classes = run.spec.classes
    else:
        raise InputError(
            f"{type(run.model).__name__} has no classes to draw from; leave out the label"
        )
    if not isinstance(label, Integral) or not 0 <= label < classes:
        raise InputError(f"expected a label of 0 to {classes - 1}; got {label}")
    return torch.tensor(label, device=run.device)


def _column(y: Tensor | None) -> Tensor | None:
    """(N,) to (N, 1), to stand beside (N, S, D)."""
    return None if y is None else y[:, None]


def _move(z: Tensor, latent: int, quantiles: Tensor) -> Tensor:
    """(N, D) to (N, S, D), where one latent takes S values and the others stay."""
    moved = z[:, None].repeat(1, len(quantiles), 1)
    moved[..., latent] = quantiles[:, latent]
    return moved
