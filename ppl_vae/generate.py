"""Show what a trained pair has learned: `python -m ppl_vae.generate RUN WHAT`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor

from models import Prior, StandardNormal
from ppl_vae import plots
from ppl_vae.errors import InputError
from ppl_vae.files import whole_file
from ppl_vae.runs import Run

__all__ = ["generate", "interpolate", "manifold", "reconstruct", "sample", "traverse"]

What = Literal["sample", "reconstruct", "manifold", "traverse", "interpolate"]
Arrays = dict[str, NDArray[Any]]

_CHUNK = 512  # images decoded at a time
_DRAWS = 256  # for a mean or a quantile without a closed form: times this, or times 64 of it
_ORDERING = 64  # test images whose traversals order the latents


def sample(run: Run, count: int = 64, seed: int = 0) -> Arrays:
    """Draws images from the model: z ~ p(z), x ~ p(x|z).

    Args:
        run: A trained run.
        count: How many images.
        seed: What the draws follow from.

    Returns:
        `z` (count, D), `mean` (count, C, H, W), which is E[x|z], and `draw` of that shape.

    Raises:
        InputError: If count < 1 or seed < 0.
    """
    _check(count=(count, 1), seed=(seed, 0))
    with _seeded(run, seed):
        sites = poutine.trace(run.model).get_trace(size=count).nodes
        z = sites[run.model.latents[-1]]["value"]
        return _arrays(z=z, mean=_decode(run, z), draw=sites["x"]["value"])


def reconstruct(
    run: Run, images: Sequence[int] | None = None, count: int = 16, seed: int = 0
) -> Arrays:
    """Encodes test images to the posterior mean of z and decodes that.

    Args:
        run: A trained run.
        images: Which test images, counted from 0; the first `count` unless given.
        count: How many images, where `images` is not given.
        seed: What draws follow from, where a mean has no closed form.

    Returns:
        `images` (N,), `original` (N, C, H, W), `z` (N, D) and `mean` (N, C, H, W), E[x|z].

    Raises:
        InputError: If there is no such image, count < 1 or seed < 0.
    """
    chosen = _chosen(run, images, count)
    _check(seed=(seed, 0))
    with _seeded(run, seed):
        x = run.data.test[chosen]
        z = _posterior_mean(run, x)
        return _arrays(images=chosen, original=x, z=z, mean=_decode(run, z))


def manifold(run: Run, rows: int = 20, seed: int = 0) -> Arrays:
    """Decodes a grid over a two-dimensional z; Kingma and Welling (2014), figure 4.

    The grid is even in probability: z_d = F_d^-1((i + 1/2) / rows), F_d the distribution function
    of the prior's latent d. In the picture z_0 grows to the right and z_1 upwards.

    Args:
        run: A trained run with latent_dim 2.
        rows: Images from bottom to top, and from left to right.
        seed: What draws follow from, where the prior's quantiles have no closed form.

    Returns:
        `probabilities` (rows,), `z` (rows, rows, 2) and `mean` (rows, rows, C, H, W), E[x|z], both
        from the picture's top left: z[r, c] = (F_0^-1(p_c), F_1^-1(p_(rows-1-r))).

    Raises:
        InputError: If z is not two-dimensional, rows < 2 or seed < 0.
    """
    if run.spec.latent_dim != 2:
        raise InputError(
            f"the manifold is drawn for a two-dimensional z; this run has latent_dim "
            f"{run.spec.latent_dim}: train one with --latent_dim 2"
        )
    _check(rows=(rows, 2), seed=(seed, 0))
    probabilities = (np.arange(rows) + 0.5) / rows
    with _seeded(run, seed):
        across, up = _prior_quantiles(run, probabilities).T
        z = torch.stack(
            torch.meshgrid(across, up.flip(0), indexing="xy"),
            dim=-1,
        )
        return _arrays(probabilities=probabilities, z=z, mean=_decode(run, z))


def traverse(
    run: Run,
    images: Sequence[int] | None = None,
    count: int = 1,
    steps: int = 11,
    latents: int = 10,
    seed: int = 0,
) -> Arrays:
    """Moves one latent at a time and decodes, from the posterior mean of test images.

    Latent d takes the prior's quantiles v_s = F_d^-1((s + 1/2) / steps) while the others stay. The
    effect of d is the root of the mean square, over pixels and steps, of how far E[x|z] is from
    its average over the steps, in units of x, averaged over the first 64 test images. Latents are
    ordered by it, the largest first.

    Args:
        run: A trained run.
        images: Which test images to start from, counted from 0; the first `count` unless given.
        count: How many images, where `images` is not given.
        steps: Positions of the latent.
        latents: How many latents to show, at most; all are ordered.
        seed: What draws follow from, where a mean or quantile has no closed form.

    Returns:
        `images` (N,), `original` (N, C, H, W), `z` (N, D) the posterior means, `probabilities`
        (steps,), `quantiles` (steps, D), `effects` (D,), `order` (D,) the latents' indices, and
        `mean` (L, N, steps, C, H, W), E[x|z] for the L first of the order.

    Raises:
        InputError: If there is no such image, count < 1, steps < 2, latents < 1 or seed < 0.
    """
    chosen = _chosen(run, images, count)
    _check(steps=(steps, 2), latents=(latents, 1), seed=(seed, 0))
    probabilities = (np.arange(steps) + 0.5) / steps
    with _seeded(run, seed):
        quantiles = _prior_quantiles(run, probabilities)
        basis = _posterior_mean(run, run.data.test[slice(0, _ORDERING)])
        effects = []
        for latent in range(quantiles.shape[1]):
            moved = _decode(run, _move(basis, latent, quantiles))
            change = moved - moved.mean(1, keepdim=True)
            effects.append(change.square().flatten(1).mean(1).sqrt().mean())
        order = torch.stack(effects).argsort(descending=True, stable=True)
        x = run.data.test[chosen]
        z = _posterior_mean(run, x)
        shown = order[:latents].tolist()
        mean = torch.stack([_decode(run, _move(z, latent, quantiles)) for latent in shown])
        return _arrays(
            images=chosen,
            original=x,
            z=z,
            probabilities=probabilities,
            quantiles=quantiles,
            effects=torch.stack(effects),
            order=order,
            mean=mean,
        )


def interpolate(
    run: Run,
    images: Sequence[int] | None = None,
    count: int = 8,
    steps: int = 11,
    seed: int = 0,
) -> Arrays:
    """Decodes the straight line z(t) = (1 - t) z_a + t z_b between pairs of test images.

    Args:
        run: A trained run.
        images: Which test images, counted from 0, an even number: the first to the second, the
            third to the fourth, ...; the first 2 `count` unless given.
        count: How many pairs, where `images` is not given.
        steps: Images on the line, both ends included.
        seed: What draws follow from, where a mean has no closed form.

    Returns:
        `images` (P, 2), `original` (P, 2, C, H, W), `t` (steps,), `z` (P, steps, D) with the
        posterior means at both ends, and `mean` (P, steps, C, H, W), E[x|z].

    Raises:
        InputError: If there is no such image, their number is odd, count < 1, steps < 2 or
            seed < 0.
    """
    if images is not None and len(images) % 2:
        raise InputError(f"expected pairs of images, an even number; got {len(images)}")
    _check(count=(count, 1), steps=(steps, 2), seed=(seed, 0))
    chosen = _chosen(run, images, 2 * count)
    t = np.linspace(0, 1, steps)
    with _seeded(run, seed):
        x = run.data.test[chosen]
        start, end = _posterior_mean(run, x).unflatten(0, (-1, 2)).unsqueeze(2).unbind(1)
        weight = torch.as_tensor(t).to(start)[:, None]
        z = (1 - weight) * start + weight * end
        return _arrays(
            images=chosen.reshape(-1, 2),
            original=x.unflatten(0, (-1, 2)),
            t=t,
            z=z,
            mean=_decode(run, z),
        )


def generate(
    run: Run,
    what: What,
    count: int | None = None,
    images: list[int] | None = None,
    rows: int = 20,
    steps: int = 11,
    latents: int = 10,
    seed: int = 0,
) -> list[Path]:
    """Shows what a trained pair has learned, as a picture and as arrays in RUN/generated/.

    Args:
        run: A trained run.
        what: `sample` draws from the prior; `reconstruct` encodes and decodes test images;
            `manifold` decodes a grid over a two-dimensional z; `traverse` moves one latent at a
            time, those with the largest effect first; `interpolate` goes from one test image to
            another.
        count: How many: 64 samples, 16 reconstructions, 1 image to traverse from or 8 pairs to
            interpolate between unless given.
        images: Which test images, counted from 0, instead of the first `count`; for
            `interpolate` in pairs.
        rows: Images from bottom to top and from left to right of the manifold.
        steps: Positions of a latent in `traverse`, images on the line in `interpolate`.
        latents: How many latents `traverse` shows.
        seed: What all draws follow from.

    Returns:
        The files written: WHAT.png, WHAT.npz and, for `traverse`, traverse.gif.

    Raises:
        InputError: If something given is wrong; nothing is written then.
        OSError: If the files cannot be written.
    """
    # Counts above the number of test images are refused only where they were asked for.
    size = len(run.data.test)
    if what == "sample":
        arrays = sample(run, 64 if count is None else count, seed)
    elif what == "reconstruct":
        arrays = reconstruct(run, images, min(16, size) if count is None else count, seed)
    elif what == "manifold":
        arrays = manifold(run, rows, seed)
    elif what == "traverse":
        arrays = traverse(run, images, 1 if count is None else count, steps, latents, seed)
    elif what == "interpolate":
        arrays = interpolate(
            run, images, min(8, size // 2) if count is None else count, steps, seed
        )
    else:
        raise InputError(
            f"expected sample, reconstruct, manifold, traverse, interpolate; got {what!r}"
        )
    folder = run.path / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    written = _draw(run, what, arrays, folder)
    written.append(folder / f"{what}.npz")
    with whole_file(written[-1]) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return written


def _draw(run: Run, what: What, arrays: Arrays, folder: Path) -> list[Path]:
    limits = run.data.test[slice(0, 256)].cpu().numpy()

    def display(name: str) -> NDArray[np.float64]:
        return plots.to_display(arrays[name], run.spec.domain, like=limits)

    path = folder / f"{what}.png"
    mean = display("mean")
    if what == "sample":
        _draw_samples(mean, display("draw"), path)
    elif what == "reconstruct":
        plots.reconstructions(display("original"), mean, path)
    elif what == "manifold":
        ticks = arrays["z"]
        plots.image_grid(
            mean,
            path,
            row_labels=_numbers(ticks[:, 0, 1]),
            column_labels=_numbers(ticks[0, :, 0]),
            axis_labels=("$z_0$", "$z_1$"),
        )
    elif what == "traverse":
        return _draw_traversal(mean, display("original"), arrays, folder)
    else:
        original = display("original")
        tiles = np.concatenate([original[:, :1], mean, original[:, 1:]], axis=1)
        labels = ["image", *_numbers(arrays["t"]), "image"]
        plots.image_grid(tiles, path, column_labels=labels)
    return [path]
