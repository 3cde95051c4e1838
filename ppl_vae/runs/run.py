"""A run that was read from its directory: the pair, its data set and its config."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guides import Guide
from models import Model, Spec
from ppl_vae.data import (
    Data,
    DataSet,
    Facts,
    Split,
    check_same_data,
    fingerprint_in,
    new_split,
)
from ppl_vae.errors import InputError, check_least
from ppl_vae.machine.devices import check_seed, choose_device
from ppl_vae.machine.progress import Progress
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.encoding import reconstructions, split_means
from ppl_vae.measures.estimates import Estimates, estimate
from ppl_vae.pairs.building import build_pair, choose_domain
from ppl_vae.pairs.pieces import ROLES, describe, restore
from ppl_vae.runs.checkpoints import BEST, LAST, load_parameters, read_checkpoint
from ppl_vae.runs.config import config_of
from ppl_vae.runs.directory import SUMMARY
from ppl_vae.runs.other_data import other_data

__all__ = ["Run", "load", "restore_pieces"]


@dataclasses.dataclass
class Run:
    """A trained pair, as `fit` returns it and `load` reads it.

    Attributes:
        path: The run directory.
        config: The content of `config.yaml`.
        pieces: The data set, the objective and the classes of the pair, by role.
        spec: The image shape, domain and dimensions that the pair was built for.
        model: p(x, z), in evaluation mode.
        guide: q(z|x), in evaluation mode.
        device: Where both are.
        fingerprint: Of the data that it was trained on, empty where it is not known.
    """

    path: Path
    config: dict[str, Any]
    pieces: dict[str, Any]
    spec: Spec
    model: Model
    guide: Guide
    device: torch.device
    fingerprint: Sequence[str] = ()

    @cached_property
    def data(self) -> Data:
        """The data set that the run was trained on, on its device; read when first asked for.

        Raises:
            InputError: If it cannot be read, or is another one by now.
        """
        data_set: DataSet = self.pieces["data"]
        data = data_set.load(choose_domain(self.pieces), self.config["seed"])
        check_same_data(data, self.fingerprint)
        return data.to(self.device)

    @cached_property
    def facts(self) -> Facts:
        """How the data of the run were converted, which new images follow.

        A checkpoint has it; for one of an earlier release the data are read.

        Raises:
            InputError: If they cannot be read.
        """
        return self.data

    def split_of(self, images: Any, labels: Any = None) -> Split:
        """New images as a split in the run's domain and on its device, for all that measures.

        Whole numbers are grey levels of the run's data, truth values are binary images, pictures
        and their files have 256 levels or 65,536, and floating-point numbers are taken as values
        of the domain: see `ppl_vae.data.new_images`. The noise of binarisation and dequantisation
        is that of the test images, so that the same images always become the same.

        Args:
            images: An array, a tensor, a picture opened with Pillow, the path of a picture, a list
                of pictures or of paths, a `Split`, or a `DataSet`, of which all images are taken.
            labels: For each image the number of its class or its name, -1 where it is not known.

        Raises:
            InputError: If they are none that the run's data could have, or the model takes the
                class as given and there are no labels.
        """
        if isinstance(images, DataSet):
            images = self.other_data(images).all
        split = new_split(images, self.facts, labels)
        if split.labels is not None and len(split.labels) != len(split):
            raise InputError(
                f"expected one label for each of {len(split):,} images; got {len(split.labels):,}"
            )
        try:
            self.spec.check_images(split[:1])
            if self.model.labelled and split.labels is not None:
                self.spec.check_labels(split.labels)
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.model.labelled and not self.model.enumerated and split.labels is None:
            raise InputError(
                f"{type(self.model).__name__} takes the class of an image as given; give labels"
            )
        return split.to(self.device)

    def other_data(self, data_set: DataSet) -> Data:
        """Loads a data set that the run was not trained on, in its domain and on its device.

        See `ppl_vae.runs.other_data`.

        Raises:
            InputError: If it cannot be read, or its images do not fit the run.
        """
        return other_data(data_set, self.facts, self.spec, self.model.labelled).to(self.device)

    def encode(self, images: Any, labels: Any = None) -> Tensor:
        """E[z|x] of new images, (N, D), or E[z|x, y] where the model has classes.

        A mean that has no closed form is averaged over draws, from one seed.

        Args:
            images: As `split_of` takes them.
            labels: As `split_of` takes them.

        Raises:
            InputError: As for `split_of`.
        """
        split = self.split_of(images, labels)
        with seeded(self.device, 0):
            return split_means(self.model, self.guide, split)

    def reconstruct(self, images: Any, labels: Any = None) -> Tensor:
        """E[x|z] at z = E[z|x], (N, C, H, W), of new images.

        Args:
            images: As `split_of` takes them.
            labels: As `split_of` takes them.

        Raises:
            InputError: As for `split_of`.
        """
        split = self.split_of(images, labels)
        with seeded(self.device, 0):
            return reconstructions(self.model, self.guide, split)

    def score(
        self, images: Any, labels: Any = None, particles: int = 1000, seed: int = 0
    ) -> Estimates:
        """The ELBO, rate, distortion and log p(x) of each of N new images, (N,) in nats.

        They are the numbers whose means `evaluate` reports, for the same images, particles and
        seed. Where q(z|x) is a point, only the distortion has a meaning.

        Args:
            images: As `split_of` takes them.
            labels: As `split_of` takes them; log p(x|y) is estimated where the model takes the
                class as given.
            particles: K, draws of z for each image.
            seed: The seed of the draws of z.

        Raises:
            InputError: As for `split_of`, or if a number is out of its range.
        """
        check_least(particles=(particles, 1))
        check_seed(seed)
        split = self.split_of(images, labels)
        progress = Progress("scoring", len(split), "images")
        with progress, seeded(self.device, seed):
            return estimate(self.model, self.guide, split, particles, advance=progress.advance)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return json.loads((self.path / SUMMARY).read_text())


def load(
    path: str | Path,
    device: str = "auto",
    allow_code: bool = False,
    data: DataSet | None = None,
) -> Run:
    """Reads a run: the model, the guide and their spec, on any device.

    The parameters are the best ones where the run stopped early by its validation bound, else the
    last ones. Only `config.yaml` and a safetensors file are read, and neither can run code.

    Args:
        path: The run directory.
        device: `auto`, `cpu` or `cuda`.
        allow_code: Whether classes from outside the project that the config names may be imported.
        data: The data set of the run where its files have moved; that of its config unless given.

    Raises:
        InputError: If it is no run directory, or something in it is missing, damaged or of
            another version.
    """
    path = Path(path)
    config = config_of(path)
    pieces = restore_pieces(config, allow_code, data)
    target = choose_device(device)
    checkpoint = path / (BEST if (path / BEST).exists() else LAST)
    tensors, state = read_checkpoint(checkpoint)
    spec = Spec(**{**state["spec"], "image_shape": tuple(state["spec"]["image_shape"])})
    model, guide = build_pair(spec, pieces)
    pair = nn.ModuleDict({"model": model, "guide": guide})
    load_parameters(pair, tensors, checkpoint)
    pair.to(target).eval()
    run = Run(path, config, pieces, spec, model, guide, target, fingerprint_in(state))
    if "data" in state:
        run.facts = Facts.restored(state["data"])
    return run


def restore_pieces(
    config: dict[str, Any], allow_code: bool, data: DataSet | None = None
) -> dict[str, Any]:
    """The pieces that a run's config names, by role; its data set elsewhere where one is given.

    Raises:
        InputError: If a piece cannot be restored, or the data set is converted in another way.
    """
    pieces = {role: restore(role, config.get(role), allow_code) for role in ROLES}
    written = config["data"].get("init_args") or {}
    pieces["data"] = pieces["data"].of_run(written)
    if data is not None:
        moved = data.of_run(written)
        _check_only_moved(moved, pieces["data"])
        pieces["data"] = moved
    return pieces


def _check_only_moved(moved: DataSet, trained: DataSet) -> None:
    """Refuses a data set that is converted in another way than the one of the run."""
    if type(moved) is not type(trained):
        raise InputError(
            f"expected the run's data set, {type(trained).__name__}; got {type(moved).__name__}"
        )
    now, before = ((describe(each) or {})["init_args"] for each in (moved, trained))
    for name, value in before.items():
        if name not in moved.where_read and now[name] != value:
            free = ", ".join(f"--data.{each}" for each in moved.where_read if each in before)
            raise InputError(
                f"--data.{name}: a run's data keep their conversion, here {value}; "
                f"{f'only {free} may change' if free else 'no option may change'}; leave it out, "
                "or train again"
            )
