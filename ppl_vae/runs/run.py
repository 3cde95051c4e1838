"""A run that was read from its directory: the pair, its data set and its config."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guides import Guide
from models import Model, Spec
from ppl_vae.data import Data, DataSet, Split, check_same_data, fingerprint_in
from ppl_vae.errors import InputError, as_path
from ppl_vae.machine.devices import choose_device
from ppl_vae.machine.modes import called_anywhere, usual_modes
from ppl_vae.pairs.building import build_pair, load_data
from ppl_vae.pairs.pieces import ROLES, describe, restore
from ppl_vae.runs.checkpoints import BEST, LAST, load_parameters, read_checkpoint
from ppl_vae.runs.config import config_of
from ppl_vae.runs.directory import SUMMARY
from ppl_vae.runs.export import export

__all__ = ["Run", "as_run", "load", "restore_pieces"]

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
        return f"Run {facts.pop('run')}: {', '.join(facts.values())}"

    def _repr_html_(self) -> str:
        rows = [f"<tr><th>{n}</th><td>{escape(v)}</td></tr>" for n, v in self._facts().items()]
        return f"<table>{''.join(rows)}</table>"

    def _facts(self) -> dict[str, str]:
        """What a person wants to see of a run, without reading its data."""
        facts = {
            "run": str(self.path),
            "data": f"{type(self.pieces['data']).__name__} as {self.spec.domain} data",
            "pair": f"{type(self.model).__name__} with guide {type(self.guide).__name__}",
            "latents": f"D = {self.spec.latent_dim}",
            "training": f"epochs {self.config['epochs']:,}",
            "device": f"on {self.device}",
        }
        if not (self.path / SUMMARY).is_file():
            return facts | {"validation": "training has not finished"}
        name = "elbo" if self.guide.has_density else "distortion"
        value = self.summary[f"validation_{name}_nats_per_datum"]
        shown = f"validation {name.replace('elbo', 'ELBO')} {value:.2f} nats per datum"
        return facts | {"validation": shown}

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
        device: `auto`, `cpu` or `cuda`, or a `torch.device`.
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
    checkpoint = path / (BEST if (path / BEST).exists() else LAST)
    tensors, state = read_checkpoint(checkpoint)
    spec = Spec(**{**state["spec"], "image_shape": tuple(state["spec"]["image_shape"])})
    model, guide = build_pair(spec, pieces)
    pair = nn.ModuleDict({"model": model, "guide": guide})
    load_parameters(pair, tensors, checkpoint)
    pair.to(target).eval()
    return Run(path, config, pieces, spec, model, guide, target, fingerprint_in(state))


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
