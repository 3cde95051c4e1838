"""The common input of all sections: a run, some of its images, and draws of z for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.densities.joint import Batch, Joint
from ppl_vae.errors import InputError, check_images, check_within
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.encoding import independent_means
from ppl_vae.measures.scores import active_latents, quantity
from ppl_vae.pictures.plots import to_display
from ppl_vae.runs.run import Run

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

__all__ = ["Choose", "Effort", "Inspection", "Selection", "choose_images"]

Choose = Literal["random", "worst", "first"]
_POOL = 4  # candidates for each of the worst images
_POOL_DRAWS = 200


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


@dataclass(frozen=True)
class Selection:
    """The images that are looked at, and how they were chosen.

    Attributes:
        images: Their indices in the split, (N,).
        batch: The arguments of the programs, drawn once: noise on training images is fresh in each
            batch, and all sections must speak of the same images.
        how: `random`, `worst`, `first`, or `index` where the user named them.
        candidates: How many images the worst were chosen from.
        label: The label that all have, where one was asked for.
    """

    images: Tensor
    batch: Batch
    how: str
    candidates: int
    label: int | str | None = None

    def phrase(self, count: int | None = None) -> str:
        """The first `count` images, in words that say how they were chosen."""
        count = len(self.images) if count is None else count
        images = f"{count:,} image" + ("" if count == 1 else "s")
        images += "" if self.label is None else f" with label {self.label}"
        if self.how == "worst":
            return f"the {images} with the largest k-hat of {self.candidates:,}"
        return {"first": f"the first {images}", "index": f"{images} chosen by index"}.get(
            self.how, images
        )


@dataclass
class Inspection:
    """A run with the images that are looked at.

    Attributes:
        run: The run.
        others: Runs to compare it with.
        split_name: Where the images are from: `train`, `validation` or `test`.
        selection: The images.
        tree: Draws for them, as `ppl_vae.inference.datatree.to_datatree` gives.
        effort: How much to compute.
        seed: The seed of all draws.
    """

    run: Run
    others: list[Run]
    split_name: str
    selection: Selection
    tree: "DataTree"
    effort: Effort
    seed: int

    @property
    def split(self) -> Split:
        """Where the images are from."""
        return getattr(self.run.data, self.split_name)

    @property
    def holes(self) -> bool:
        """Whether some of the images have missing pixels."""
        return bool(self.batch()[0].isnan().any())

    @property
    def log_p(self) -> str:
        """The log-likelihood that is estimated, log p(x) or log p(x|y); of observed pixels."""
        return quantity(self.run.model, self.holes)

    @property
    def images(self) -> Tensor:
        """The indices of the images in the split, (N,)."""
        return self.selection.images

    def batch(self, count: int | None = None) -> Batch:
        """The arguments of the programs, for the first `count` images."""
        return tuple(part[:count] for part in self.selection.batch)

    def joint(self, count: int | None = None) -> Joint:
        """The pair with the first `count` images."""
        return Joint.of(self.run.model, self.run.guide, self.batch(count))

    def joint_of(self, other: Run) -> Joint:
        """Another pair with the same images, pixel by pixel."""
        _, *labels = self.split.batch(self.images, other.model.given_class)
        batch = tuple(part.to(other.device) for part in (self.batch()[0], *labels))
        return Joint.of(other.model, other.guide, batch)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Of the images, (N,), where there are any."""
        if self.split.labels is None:
            return None
        return self.split.labels[self.images].cpu().numpy()

    def variable(self, group: str, name: str) -> "DataArray":
        """One of the tree's variables."""
        return self.tree.children[group].to_dataset()[name]

    def drawn(self, group: str) -> NDArray[np.float32]:
        """Draws of z, as the decoder takes it, from a group of the tree, (chains, K, N, D)."""
        model = self.run.model
        sites = {s: torch.as_tensor(self.variable(group, s).values) for s in model.latents}
        return model.code(sites).numpy()

    @property
    def z(self) -> NDArray[np.float32]:
        """Draws from the guide, (K, N, D)."""
        values = self.drawn("posterior")
        return values.reshape(-1, *values.shape[2:])

    def statistic(self, name: str) -> Tensor:
        """One of the tree's `sample_stats`, (K, N) float64 in nats."""
        values = self.variable("sample_stats", name).values
        return torch.as_tensor(values.reshape(-1, values.shape[-1]), dtype=torch.float64)

    def means(self) -> Tensor:
        """E[z|x] under the guide, (N, 1, D), or two estimates of it, (N, 2, D), on the CPU."""
        with seeded(self.run.device, self.seed), torch.no_grad():
            return independent_means(self.run.model, self.run.guide, *self.batch()).cpu()

    def active(self) -> list[int]:
        """The latents with Var_x(E_q[z_d]) > 0.01, those that vary most first."""
        return active_latents(self.means())

    def display(self, images: Any) -> NDArray[np.float64]:
        """Images as grey or colour values in [0, 1]."""
        values = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        like = self.batch(256)[0].cpu().numpy()
        return to_display(values, self.run.spec.domain, like=like)

    def name(self, place: int) -> str:
        """The image at a place: its index, and its label where it is known."""
        labels = self.labels
        label = "" if labels is None or labels[place] < 0 else f", label {labels[place]}"
        return f"image {int(self.images[place])}{label}"


def choose_images(
    run: Run,
    split: Split,
    count: int,
    images: Sequence[int] | None = None,
    label: int | str | None = None,
    choose: Choose = "random",
    seed: int = 0,
) -> Selection:
    """The images to look at, N <= count: those named, or ones with the label.

    The `worst` are those by k-hat of 200 draws, among four times as many taken at random.

    Raises:
        InputError: If there is no such image or label, or no such way to choose.
    """
    if choose not in get_args(Choose):
        raise InputError(f"--choose: expected one of {', '.join(get_args(Choose))}; got {choose!r}")
    if images is not None:
        if label is not None:
            raise InputError("expected --images or --label; got both")
        check_images(images, len(split))
        if len(set(images)) < len(images):
            raise InputError("expected --images with each image once")
        chosen, how = torch.as_tensor(list(images)), "index"
    else:
        check_within("count", count, 1)
        chosen, how = _candidates(run, split, label), str(choose)
        if choose != "first":
            generator = torch.Generator().manual_seed(seed)
            chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        chosen = chosen[: count * (_POOL if choose == "worst" else 1)]
    candidates, chosen = len(chosen), chosen.to(run.device)
    with seeded(run.device, seed):
        batch = split.batch(chosen, run.model.given_class)
        if how == "worst":
            weights = Joint.of(run.model, run.guide, batch).log_weights(_POOL_DRAWS)
            worst = pareto_k(weights).k_hat.argsort(descending=True, stable=True)[:count]
            chosen, batch = chosen[worst], tuple(part[worst] for part in batch)
    return Selection(chosen, batch, how, candidates, label)


def _candidates(run: Run, split: Split, label: int | str | None) -> Tensor:
    """The indices of all images, or of those with a label."""
    if label is None:
        return torch.arange(len(split))
    if split.labels is None:
        raise InputError(f"--label: {run.data.name} has no labels; leave it out")
    there = split.labels.unique()
    there = there[there >= 0].tolist()  # -1 stands for an unknown label
    number = run.data.label_of(label)
    if number not in there:
        raise InputError(f"--label: expected one of {', '.join(map(str, there[:20]))}; got {label}")
    return (split.labels == number).nonzero().flatten().cpu()
