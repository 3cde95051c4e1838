"""What all sections look at: a run, some of its images, and draws of z for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.densities.joint import Batch, Joint
from ppl_vae.errors import InputError
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.latents.encoding import posterior_mean
from ppl_vae.machine.randomness import seeded
from ppl_vae.pictures.plots import to_display
from ppl_vae.runs.run import Run

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

__all__ = ["Choose", "Effort", "Inspection", "choose_images"]

Choose = Literal["random", "worst", "first"]
_POOL = 4  # candidates for each of the worst images
_POOL_DRAWS = 200
_ACTIVE = 0.01  # variance of E_q[z] over images above which a latent is used


@dataclass(frozen=True)
class Effort:
    """How much each section computes; the options of `ppl_vae.posterior.posterior`."""

    particles: int
    gap_images: int
    gap_steps: int
    shown: int
    nuts_draws: int
    temperatures: int
    simulations: int


@dataclass
class Inspection:
    """A run with the images that are looked at.

    Attributes:
        run: The run.
        others: Runs to compare it with.
        split_name: Where the images are from: `train`, `validation` or `test`.
        images: Their indices there, (N,).
        tree: Draws for them, as `ppl_vae.inference.datatree.to_datatree` gives.
        effort: How much to compute.
        seed: What all draws follow from.
    """

    run: Run
    others: list[Run]
    split_name: str
    images: Tensor
    tree: "DataTree"
    effort: Effort
    seed: int

    @property
    def split(self) -> Split:
        """Where the images are from."""
        return getattr(self.run.data, self.split_name)

    def batch(self, count: int | None = None) -> Batch:
        """What the programs take, for the first so many of the images."""
        return self.split.batch(self.images[:count], self.run.model.labelled)

    def joint(self, count: int | None = None) -> Joint:
        """The pair with the first so many of the images."""
        return Joint.of(self.run.model, self.run.guide, self.batch(count))

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Of the images, (N,), where there are any."""
        if self.split.labels is None:
            return None
        return self.split.labels[self.images].cpu().numpy()

    def variable(self, group: str, name: str) -> "DataArray":
        """One of the tree's variables."""
        return self.tree.children[group].to_dataset()[name]

    @property
    def latent(self) -> str:
        """The latent site that the decoder takes."""
        return self.run.model.latents[-1]

    @property
    def z(self) -> NDArray[np.float32]:
        """Draws from the guide, (K, N, D)."""
        values = self.variable("posterior", self.latent).values
        return values.reshape(-1, *values.shape[2:])

    def statistic(self, name: str) -> Tensor:
        """One of the tree's `sample_stats`, (K, N) float64 in nats."""
        values = self.variable("sample_stats", name).values
        return torch.as_tensor(values.reshape(-1, values.shape[-1]), dtype=torch.float64)

    def means(self) -> Tensor:
        """E[z|x] under the guide, (N, D), on the CPU."""
        with seeded(self.run.device, self.seed), torch.no_grad():
            return posterior_mean(self.run.model, self.run.guide, *self.batch()).cpu()

    def active(self) -> list[int]:
        """The latents with Var_x(E_q[z_d]) > 0.01, those that vary most first."""
        if len(self.images) < 2:
            return list(range(self.z.shape[-1]))
        variance = self.means().double().var(0)
        order = variance.argsort(descending=True, stable=True).tolist()
        return [latent for latent in order if variance[latent] > _ACTIVE]

    def display(self, images: Any) -> NDArray[np.float64]:
        """Images as grey or colour values in [0, 1]."""
        values = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        like = self.batch(256)[0].cpu().numpy()
        return to_display(values, self.run.spec.domain, like=like)

    def name(self, place: int) -> str:
        """What stands above the image at a place: its index, and its label where it has one."""
        labels = self.labels
        label = "" if labels is None or labels[place] < 0 else f", label {labels[place]}"
        return f"image {int(self.images[place])}{label}"


def choose_images(
    run: Run,
    split: Split,
    count: int,
    images: Sequence[int] | None,
    label: int | str | None,
    choose: Choose,
    seed: int,
) -> Tensor:
    """The indices of the images to look at, (N,), N <= count.

    Args:
        run: The run.
        split: Where they are from.
        count: How many.
        images: These and no others.
        label: Only those with this label, a number or the name of a class.
        choose: `random`, the `first`, or the `worst` by k-hat of 200 draws, among four times as
            many taken at random.
        seed: What `random` and `worst` follow from.

    Raises:
        InputError: If there is no such image or label.
    """
    size = len(split)
    if images is not None:
        if label is not None:
            raise InputError("expected --images or --label; got both")
        if not images:
            raise InputError("expected --images with at least one index; got an empty list")
        for image in images:
            if not 0 <= image < size:
                raise InputError(f"--images: expected 0 to {size - 1:,}; got {image}")
        if len(set(images)) < len(images):
            raise InputError("--images: expected each image once")
        return torch.as_tensor(list(images), device=run.device)
    if count < 1:
        raise InputError(f"--count: expected at least 1; got {count}")
    candidates = torch.arange(size)
    if label is not None:
        if split.labels is None:
            raise InputError(f"--label: {run.data.name} has no labels; leave it out")
        candidates = (split.labels == run.data.label_of(label)).nonzero().flatten().cpu()
        if not len(candidates):
            there = ", ".join(map(str, split.labels.unique().tolist()[:20]))
            raise InputError(f"--label: expected one of {there}; got {label}")
    if choose == "first":
        return candidates[:count].to(run.device)
    generator = torch.Generator().manual_seed(seed)
    candidates = candidates[torch.randperm(len(candidates), generator=generator)]
    if choose == "worst":
        candidates = candidates[: _POOL * count]
        batch = split.batch(candidates.to(run.device), run.model.labelled)
        with seeded(run.device, seed):
            weights = Joint.of(run.model, run.guide, batch).log_weights(_POOL_DRAWS)
        candidates = candidates[pareto_k(weights).k_hat.cpu().argsort(descending=True, stable=True)]
    return candidates[:count].to(run.device)
