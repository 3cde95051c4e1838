"""Checks that a run is whole, that two runs are the same, and two losses."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from ppl_vae.compiler.comparison import Gradients
from ppl_vae.runs.checkpoints import read_checkpoint


def assert_same(run: Path, expected: Path) -> None:
    """Metrics, parameters, optimizer and random states are equal to the last bit."""
    name = "metrics.csv"
    assert (run / name).read_bytes() == (expected / name).read_bytes()
    files = {path.name for path in expected.glob("*.safetensors")}
    assert {path.name for path in run.glob("*.safetensors")} == files
    for file in files:
        tensors, state = read_checkpoint(run / file)
        expected_tensors, expected_state = read_checkpoint(expected / file)
        assert_equal(tensors, expected_tensors)
        for each in (state, expected_state):
            each.pop("seconds", None)
            each.get("random", {}).pop("python", None)  # imports draw from it, training does not
        assert state == expected_state
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, expected)]
    for each in summaries:
        for measured in ("training_seconds", "images_per_second", "process_peak_memory_bytes"):
            del each[measured]
    assert summaries[0] == summaries[1]


def assert_equal(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        assert torch.equal(value, expected[name]), name


def outcome(run: Gradients, *batch: Tensor) -> dict[str, Tensor]:
    """The loss and its gradients under one seed."""
    torch.manual_seed(7)
    loss, gradients = run(*batch)
    assert all(gradient is not None for gradient in gradients.values())
    return {"loss": loss, **gradients}  # type: ignore[dict-item]


def assert_whole(run: Path) -> None:
    """Every file of a run that is there can be read to its end."""
    yaml.safe_load((run / "config.yaml").read_text())["seed"]
    rows = list(csv.reader((run / "metrics.csv").read_text().splitlines()))
    assert all(len(row) == len(rows[0]) for row in rows)
    read_checkpoint(run / "checkpoint.safetensors")
    for path in run.rglob("*"):
        if path.name.endswith(".unfinished") or path.is_dir() or path.parent.name == "tensorboard":
            continue
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            read_checkpoint(path)
        else:
            assert path.name in ("config.yaml", "metrics.csv", ".lock")


def seeded(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function gives under one seed."""
    torch.manual_seed(1)
    return function(*arguments, **options)


def loss_and_gradients(
    loss: Callable[..., Tensor], modules: Iterable[nn.Module], *batch: Any, **scheduled: Any
) -> list[Tensor]:
    """The loss under one seed, and its gradients for all parameters of the modules."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    value = seeded(loss, *batch, **scheduled)
    return [value.detach(), *torch.autograd.grad(value, parameters)]
