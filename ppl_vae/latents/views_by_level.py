"""What each level of a hierarchy holds fixed, as arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import InputError, check_within
from ppl_vae.latents.viewing import Arrays, arrays_of, choose_images, drawing
from ppl_vae.measures.encoding import decoded_mean
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.runs.run import Run, as_run

__all__ = ["levels"]


@called_anywhere
def levels(
    run: Run | Path | str,
    images: Sequence[int] | None = None,
    count: int = 1,
    steps: int = 11,
    seed: int = 0,
) -> Arrays:
    """Holds the latents above a level at a draw from q(z|x) and draws the others from p.

    At level l that is z_<l from the guide, given a test image, and z_l, ..., z_L from
    p(z_l | z_<l) ... p(z_L | z_<L): what all images in the row have in common is what z_<l holds.

    Args:
        run: A trained run of a model with several latent sites, or its path.
        images: Which test images, counted from 0; the first `count` unless given.
        count: How many images, where `images` is not given.
        steps: Draws at each level.
        seed: The seed of the draws.

    Returns:
        `images` (N,), `original` (N, C, H, W), `z` (levels, N, steps, D), as the decoder takes it,
        and `mean` (levels, N, steps, C, H, W), E[x|z].

    Raises:
        InputError: If the model has one latent site, there is no such image, count < 1, steps < 1
            or the seed is out of range.
    """
    run = as_run(run)
    model = run.model
    if len(model.latents) < 2:
        raise InputError(
            f"levels need a model with several latent sites; {type(model).__name__} has one: train "
            "with --model TopDown --guide Bidirectional --network Cells"
        )
    chosen = choose_images(run, images, count)
    check_within("steps", steps, 1)
    codes = []
    with drawing(run, seed):
        (x,) = run.data.test.batch(chosen, False)
        held = _values(run, poutine.trace(run.guide).get_trace(x))
        held = {site: z.repeat_interleave(steps, 0) for site, z in held.items()}
        for level in range(len(model.latents)):
            above = {site: held[site] for site in model.latents[:level]}
            trace = poutine.trace(poutine.condition(model, above)).get_trace(size=len(x) * steps)
            codes.append(model.code(_values(run, trace)).unflatten(0, (len(x), steps)))
        z = torch.stack(codes)
        return arrays_of(run, images=chosen, original=x, z=z, mean=decoded_mean(model, z))


def _values(run: Run, trace: Any) -> dict[str, Tensor]:
    return {site: trace.nodes[site]["value"] for site in run.model.latents}
