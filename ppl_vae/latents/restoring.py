"""Corrupted images and what is left of them, as draws from p(x|y) under a run's model."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.corruptions import Corruption, white
from ppl_vae.data import Split
from ppl_vae.data.corrupted_images import corrupted_images, file_stems
from ppl_vae.errors import InputError, check_within
from ppl_vae.inference.corrupted import restored_images
from ppl_vae.inference.pareto import RELIABLE
from ppl_vae.inference.restoration import (
    MIXED,
    Method,
    RestoredLatents,
    corrupted_joint,
    refined,
    restore_latents,
)
from ppl_vae.machine.progress import Progress
from ppl_vae.measures.scores import scored
from ppl_vae.runs.run import Run

__all__ = ["Images", "Restoration", "Restored", "Seen", "diagnostics", "restored", "seen_of"]

_TOGETHER = 50  # images whose posterior is sampled side by side
_DRAWS_BYTES = 2**28  # for the draws of those


Images = NDArray[np.float32]


@dataclass(frozen=True)
class Restoration:
    """N restored images in units of intensity, black 0 and white 1.

    Data that were standardised are in their own units again. Of the rows of a table (C, H, W) is
    (columns,).

    Attributes:
        corrupted: y, (N, C, H, W), or smaller where pixels were joined; NaN where one is missing.
        mean: E[x|y], (N, C, H, W).
        standard_deviation: Of p(x_i|y), (N, C, H, W).
        draws: From p(x|y), (N, K, C, H, W).
        original: x, (N, C, H, W), where it is known.
        others: What scikit-image makes of y, by method, (N, C, H, W) each.
        names: Of the images.
        numbers: The content of `restoration.json`.
    """

    corrupted: Images
    mean: Images
    standard_deviation: Images
    draws: Images
    original: Images | None
    others: dict[str, Images]
    names: list[str]
    numbers: dict[str, Any]

    @property
    def arrays(self) -> dict[str, Images]:
        """The arrays by name, as `restoration.npz` has them."""
        named = ("corrupted", "mean", "standard_deviation", "draws", "original")
        known = {name: getattr(self, name) for name in named}
        return {name: value for name, value in known.items() if value is not None} | self.others


@dataclass(frozen=True)
class Seen:
    """Corrupted images y, (B, ...), their originals x, (B, C, H, W), where they are known.

    Both are in units of intensity. Labels (B,) are there where the model takes them.
    """

    y: Tensor
    x: Tensor | None
    labels: Tensor | None
    names: list[str]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Restored:
    """Draws from p(x|y) of B images, (S, B, C, H, W), with their mean and standard deviation.

    Mean and deviation, (B, C, H, W), are over the draws of z and exact given those.
    """

    draws: Tensor
    mean: Tensor
    standard_deviation: Tensor
    latents: RestoredLatents


def seen_of(
    run: Run,
    images: Any,
    corruption: Corruption,
    corrupt: bool,
    labels: Any = None,
    count: int | None = None,
) -> Seen:
    """The images to restore, corrupted here or by somebody else.

    Args:
        run: Whose model restores them.
        images: The originals, a `Split`, or what was made of them.
        corruption: p(y|x).
        corrupt: Whether to corrupt them.
        labels: Of the images, where the model takes the class as given.
        count: So many, the first ones; all unless given.

    Raises:
        ValueError: If the images do not fit the run or the corruption.
    """
    shape = corruption.shape(run.spec)
    given = run.model.given_class
    if corrupt:
        split: Split = run.split_of(images, labels)
        split = split.first(_checked(count, len(split)))
        x = split[:] / white(run.spec.domain)
        if x.isnan().any():
            raise InputError(
                "expected originals without missing pixels (NaN), which restorations are compared "
                "with; give such images, or leave out --corrupt to restore these as they are"
            )
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        y = corruption.corrupt(x, generator)
        if y.shape == x.shape and torch.equal(y, x):
            raise InputError(
                f"{type(corruption).__name__} leaves all images as they are; give its options, "
                "such as --corruption.half lower for Masked"
            )
        names = None if split.names is None else file_stems(split.names)
        own = split.labels
    else:
        x, own = None, None
        y, names = corrupted_images(images, run.facts, shape, corruption.keeps_values)
        chosen = slice(_checked(count, len(y)))
        y, names = y[chosen].to(run.device), names and names[chosen]
        if given:
            if labels is None:
                raise InputError(
                    f"{type(run.model).__name__} takes the class of an image as given; give labels"
                )
            own = run.split_of(torch.zeros(len(y), *run.spec.image_shape), labels).labels
    if not run.model.labelled:
        own = None
    elif not given:
        own = torch.full((len(y),), -1, device=y.device)
    y = corruption.observe(y)
    return Seen(y, x, own, names or [f"{number:04}" for number in range(len(y))])


def _checked(count: int | None, there: int) -> int:
    if count is None:
        return there
    check_within("count", count, 1, there, "the images there are")
    return count


def restored(
    run: Run,
    seen: Seen,
    corruption: Corruption,
    draws: int,
    particles: int,
    method: Method,
    progress: Progress,
) -> Iterator[Restored]:
    """Restores the images, some at a time.

    Args:
        run: Whose model is the prior.
        seen: The images.
        corruption: p(y|x), without unknown parameters.
        draws: S.
        particles: Importance draws.
        method: As for `restore_latents`.
        progress: Counts images.
    """
    together = max(1, min(_TOGETHER, _DRAWS_BYTES // (4 * draws * run.spec.pixels)))
    for start in range(0, len(seen), together):
        rows = slice(start, min(start + together, len(seen)))
        labels = None if seen.labels is None else seen.labels[rows]
        joint = corrupted_joint(run.model, run.guide, corruption, seen.y[rows], labels)
        joint = refined(joint)
        found = restore_latents(
            joint,
            draws=draws,
            method=method,
            particles=particles,
            say=lambda note: progress.advance(0, note),
        )
        every = seen.y.new_empty(draws, len(joint), *run.spec.image_shape)
        means, variances = torch.empty_like(every), torch.empty_like(every)
        for piece, first, size in joint.pieces(draws):
            chosen = slice(first, first + size)
            latents = {name: z[chosen, piece] for name, z in found.latents.items()}
            with torch.no_grad():
                parts = restored_images(joint[piece], latents)
            for whole, part in zip((means, variances, every), parts, strict=True):
                whole[chosen, piece] = part
        deviation = (variances.mean(0) + means.var(0, correction=0)).sqrt()
        progress.advance(len(joint))
        yield Restored(every, means.mean(0), deviation, found)


def diagnostics(found: list[RestoredLatents]) -> dict[str, Any]:
    """How p(z|y) was sampled, and how far to trust it."""
    k_hat, r_hat, ess, log_likelihood = (
        torch.cat([getattr(each, name).cpu() for each in found])
        for name in ("k_hat", "r_hat", "ess", "log_likelihood")
    )
    method = [name for each in found for name in each.method]
    checked = r_hat[~r_hat.isnan()]
    return {
        "methods": dict(Counter(method)),
        "images_with_k_hat_above_0.7": int((k_hat > RELIABLE).sum()),
        "images_with_r_hat_above_1.05": int((checked > MIXED).sum()),
        "largest_k_hat": float(k_hat.max()),
        "largest_r_hat": float(checked.max()) if len(checked) else None,
        "median_effective_draws": float(ess.median()),
        **scored("log_likelihood_nats_per_datum", log_likelihood),
    }
