"""What a model knows of classes, as arrays: analogies and clusters."""

from collections.abc import Sequence
from pathlib import Path

import torch

from models import Mixture
from ppl_vae.errors import InputError, check_within
from ppl_vae.latents.viewing import Arrays, arrays_of, choose_images, drawing, encode
from ppl_vae.measures.encoding import decoded_mean
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.runs.run import Run, as_run

__all__ = ["analogies", "clusters"]


@called_anywhere
def analogies(
    run: Run | Path | str, images: Sequence[int] | None = None, count: int = 10, seed: int = 0
) -> Arrays:
    """Encodes test images to their style z and decodes it with every class.

    Kingma, Rezende, Mohamed and Welling (2014), figure 1 (b).

    Args:
        run: A trained run of a model whose decoder takes a class, or its path.
        images: Which test images, counted from 0; the first `count` unless given.
        count: How many images, where `images` is not given.
        seed: The seed of draws, where a mean has no closed form.

    Returns:
        `images` (N,), `original` (N, C, H, W), `y` (N,) the class that each was encoded with, `z`
        (N, D) and `mean` (N, classes, C, H, W), E[x|z, y] for every y.

    Raises:
        InputError: If the model's decoder takes no class, there is no such image, count < 1 or
            the seed is out of range.
    """
    run = as_run(run)
    if not run.model.decodes_class:
        raise InputError(
            f"analogies need a decoder that takes a class; {type(run.model).__name__}'s does not: "
            "train with --model Conditional --guide ConditionalNormal, or with SemiSupervised and "
            "SemiSupervisedNormal"
        )
    chosen = choose_images(run, images, count)
    with drawing(run, seed):
        x, y, z = encode(run, chosen)
        classes = torch.arange(run.spec.classes, device=run.device)
        every = z[:, None].expand(-1, len(classes), -1)
        given = {} if y is None else {"y": y}
        mean = decoded_mean(run.model, every, classes)
        return arrays_of(run, images=chosen, original=x, **given, z=z, mean=mean)


@called_anywhere
def clusters(run: Run | Path | str, count: int = 10, seed: int = 0) -> Arrays:
    """Draws images from each cluster: z ~ p(z|y).

    Args:
        run: A trained run of `Mixture` or `LabelledMixture`, or its path.
        count: How many images of each cluster.
        seed: The seed of the draws.

    Returns:
        `order` (components,) the clusters, the most probable first, `probabilities` p(y) in that
        order, `z` (components, count, D) and `mean` (components, count, C, H, W), E[x|z].

    Raises:
        InputError: If the model has no clusters, count < 1 or the seed is out of range.
    """
    run = as_run(run)
    if not isinstance(run.model, Mixture):
        raise InputError(
            f"{type(run.model).__name__} has no clusters to show: train with --model Mixture"
        )
    check_within("count", count, 1)
    with drawing(run, seed):
        probabilities, order = run.model.logits.softmax(-1).sort(descending=True, stable=True)
        z = run.model.component(order[:, None].expand(-1, count)).sample()
        mean = decoded_mean(run.model, z)
        return arrays_of(run, order=order, probabilities=probabilities, z=z, mean=mean)
