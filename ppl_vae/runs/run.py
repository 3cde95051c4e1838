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
from ppl_vae.data import Data, DataSet, check_same_data, fingerprint_in
from ppl_vae.errors import InputError
from ppl_vae.machine.devices import choose_device
from ppl_vae.pairs.building import build_pair, choose_domain
from ppl_vae.pairs.pieces import ROLES, describe, restore
from ppl_vae.runs.checkpoints import BEST, LAST, load_parameters, read_checkpoint
from ppl_vae.runs.config import config_of
from ppl_vae.runs.directory import SUMMARY

__all__ = ["Run", "kept_parameters", "load", "restore_pieces"]


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
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
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
    tensors, state, checkpoint = kept_parameters(path)
    spec = Spec(**{**state["spec"], "image_shape": tuple(state["spec"]["image_shape"])})
    model, guide = build_pair(spec, pieces)
    pair = nn.ModuleDict({"model": model, "guide": guide})
    load_parameters(pair, tensors, checkpoint)
    pair.to(target).eval()
    return Run(path, config, pieces, spec, model, guide, target, fingerprint_in(state))


def kept_parameters(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
    """The best parameters of a run where it kept them, else the last ones; with other tensors.

    Returns:
        The tensors, the state beside them, and the checkpoint that has both.

    Raises:
        InputError: If there is no run, or the checkpoint cannot be read.
    """
    config_of(path)
    checkpoint = path / (BEST if (path / BEST).exists() else LAST)
    return *read_checkpoint(checkpoint), checkpoint


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
