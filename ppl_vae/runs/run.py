"""A run that was read from its directory: the pair, its data set and its config."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from html import escape
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
from ppl_vae.errors import InputError, as_path, check_within
from ppl_vae.machine.devices import check_seed, choose_device
from ppl_vae.machine.modes import usual_modes
from ppl_vae.machine.progress import Progress
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.encoding import reconstructions, split_means
from ppl_vae.measures.estimates import Estimates, estimate
from ppl_vae.pairs.building import build_pair, load_data
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pairs.pieces import instance
from ppl_vae.runs.checkpoints import load_parameters
from ppl_vae.runs.config import config_of
from ppl_vae.runs.directory import SUMMARY
from ppl_vae.runs.export import export
from ppl_vae.runs.other_data import other_data
from ppl_vae.runs.restoring import kept_parameters, restore_pieces

__all__ = ["Run", "as_run", "load"]

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(repr=False)
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

    def __repr__(self) -> str:
        facts = self._facts()
        run, data, pair = (facts.pop(name) for name in ("run", "data", "pair"))
        others = (f"{name} {value}" for name, value in facts.items())
        return f"Run {run}: {', '.join([data, pair, *others])}"

    def _repr_html_(self) -> str:
        rows = [f"<tr><th>{n}</th><td>{escape(v)}</td></tr>" for n, v in self._facts().items()]
        return f"<table>{''.join(rows)}</table>"

    def _facts(self) -> dict[str, str]:
        """What a person wants to see of a run, without reading its data."""
        facts = {
            "run": str(self.path),
            "data": f"{type(self.pieces['data']).__name__} as {self.spec.domain} data",
            "pair": f"{type(self.model).__name__} with guide {type(self.guide).__name__}",
            "latent_dim": str(self.spec.latent_dim),
            "epochs": f"{self.config['epochs']:,}",
            "device": str(self.device),
        }
        if not (self.path / SUMMARY).is_file():
            return facts | {"training": "has not finished"}
        name = "elbo" if self.guide.has_density else "distortion"
        value = self.summary[f"validation_{name}_nats_per_datum"]
        return facts | {f"validation {name.replace('elbo', 'ELBO')}": f"{value:.2f} nats per datum"}

    @cached_property
    @usual_modes()
    def data(self) -> Data:
        """The data set that the run was trained on, on its device; read when first asked for.

        Raises:
            InputError: If it cannot be read, or is another one by now.
        """
        data = load_data(self.pieces, self.config["seed"])
        check_same_data(data, self.fingerprint)
        return data.to(self.device)

    def split(self, name: str) -> Split:
        """The images of one split of the data.

        Raises:
            InputError: If there is no such split, or the data cannot be read.
        """
        if name not in _SPLITS:
            raise InputError(f"--split: expected one of {', '.join(_SPLITS)}; got {name!r}")
        return getattr(self.data, name)

    def export(self, folder: str | Path) -> list[Path]:
        """Writes encoder and decoder as ONNX and `torch.export` programs: `ppl_vae.runs.export`.

        Args:
            folder: Where to; it appears with all files or not at all.

        Returns:
            The files.

        Raises:
            InputError: If the folder has files already or cannot be written, the packages for ONNX
                are missing, or q(z|x) or p(x|z) has no mean in closed form.
        """
        return export(self, folder)

    @cached_property
    def facts(self) -> Facts:
        """How the data of the run were converted, which new images follow.

        A checkpoint has it; for one of an earlier release the data are read.

        Raises:
            InputError: If they cannot be read.
        """
        return self.data

    @called_anywhere
    def split_of(self, images: Any, labels: Any = None) -> Split:
        """New images as a split in the run's domain and on its device, for all that measures.

        Whole numbers are grey levels of the run's data, truth values are binary images, pictures
        and their files have 256 levels or 65,536, and floating-point numbers are taken as values
        of the domain: see `ppl_vae.data.new_images`. The noise of binarisation and dequantisation
        is that of the test images: the same images in the same order always become the same.

        Args:
            images: An array, a tensor, a picture opened with Pillow, the path of a picture, a list
                of pictures or of paths, a pair (images, labels), a map-style torch `Dataset`, a
                `Split`, or a `DataSet` or its class, of which all images are taken.
            labels: For each image the number of its class or its name, -1 where it is not known. A
                model without classes does not use them.

        Raises:
            InputError: If they are none that the run's data could have, or the model takes the
                class as given and there are no labels.
        """
        images = instance("data", images)
        if isinstance(images, DataSet):
            images = self.other_data(images).all
        split = new_split(images, self.facts, labels)
        try:
            self.spec.check_images(split[:1])
            if self.model.labelled and split.labels is not None:
                self.spec.check_labels(split.labels)
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.model.given_class and split.labels is None:
            raise InputError(
                f"{type(self.model).__name__} takes the class of an image as given; give labels"
            )
        return split.to(self.device)

    @called_anywhere
    def other_data(self, data_set: DataSet) -> Data:
        """Loads a data set that the run was not trained on, in its domain and on its device.

        See `ppl_vae.runs.other_data`.

        Raises:
            InputError: If it cannot be read, or its images do not fit the run.
        """
        return other_data(data_set, self.facts, self.spec, self.model.labelled).to(self.device)

    @called_anywhere
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

    @called_anywhere
    def reconstruct(self, images: Any, labels: Any = None) -> Tensor:
        """E[x|z] at z = E[z|x], (N, C, H, W) or (N, columns), of new images or rows.

        Data that were standardised are in their own units again.

        Args:
            images: As `split_of` takes them.
            labels: As `split_of` takes them.

        Raises:
            InputError: As for `split_of`.
        """
        split = self.split_of(images, labels)
        with seeded(self.device, 0):
            return self.facts.in_units(reconstructions(self.model, self.guide, split))

    @called_anywhere
    def score(
        self, images: Any, labels: Any = None, particles: int = 1000, seed: int = 0
    ) -> Estimates:
        """The ELBO, rate, distortion and log p(x) of each of N new images, (N,) in nats.

        They are the numbers whose means `evaluate` reports, for the same images, particles and
        seed. The draws of z depend on the place of an image and on the others, and so do its
        numbers; with more particles they differ less. Where q(z|x) is a point, which has no
        density, only the distortion is a number.

        Args:
            images: As `split_of` takes them.
            labels: As `split_of` takes them; log p(x|y) is estimated where the model takes the
                class as given.
            particles: K, draws of z for each image.
            seed: The seed of the draws of z.

        Raises:
            InputError: As for `split_of`, or if a number is out of its range.
        """
        check_within("particles", particles, 1)
        check_seed(seed)
        split = self.split_of(images, labels)
        progress = Progress("scoring", len(split), "images")
        particles = particles if self.guide.has_density else 1
        with progress, seeded(self.device, seed):
            scores = estimate(self.model, self.guide, split, particles, advance=progress.advance)
        if self.guide.has_density:
            return scores
        none = torch.full_like(scores.elbo, torch.nan)
        return dataclasses.replace(scores, elbo=none, rate=none, log_likelihood=none)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return json.loads((self.path / SUMMARY).read_text())


def as_run(run: Run | Path | str) -> Run:
    """The run itself, or the one that is read from a path, as `load` does.

    Raises:
        InputError: If it is neither, or cannot be read.
    """
    return run if isinstance(run, Run) else load(as_path("a run", run))


@called_anywhere
def load(
    path: str | Path,
    device: str | torch.device = "auto",
    allow_code: bool = False,
    data: DataSet | None = None,
) -> Run:
    """Reads a run: the model, the guide and their spec, on any device.

    The parameters are the best ones where the run stopped early by its validation bound, else the
    last ones. Only `config.yaml` and a safetensors file are read, and neither can run code.

    Args:
        path: The run directory.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, or a `torch.device`.
        allow_code: Whether classes from outside the project that the config names may be imported.
        data: The data set of the run where its files have moved; that of its config unless given.

    Raises:
        InputError: If it is no run directory, or something in it is missing, damaged or of
            another version.
    """
    path = as_path("a run", path)
    config = config_of(path)
    pieces = restore_pieces(config, allow_code, data)
    target = choose_device(device)
    tensors, state, checkpoint = kept_parameters(path)
    spec = Spec(**{**state["spec"], "image_shape": tuple(state["spec"]["image_shape"])})
    model, guide = build_pair(spec, pieces)
    pair = nn.ModuleDict({"model": model, "guide": guide})
    load_parameters(pair, tensors, checkpoint)
    pair.to(target).eval()
    run = Run(path, config, pieces, spec, model, guide, target, fingerprint_in(state))
    if "data" in state:
        run.facts = Facts.restored(state["data"])
    return run
