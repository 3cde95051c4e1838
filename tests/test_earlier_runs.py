"""Runs that an earlier version of the project wrote load, go on and measure as they did then."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from ppl_vae import load
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import resume
from ppl_vae.runs.checkpoints import read_checkpoint

RUNS = Path(__file__).parent / "earlier_runs"
KINDS = sorted(path.name for path in RUNS.iterdir())

# The runs come from another machine, and sums are rounded differently there.
ROUNDING = 1e-4


def rows(path: Path) -> list[dict[str, float]]:
    with (path / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_run_is_measured_as_it_was(kind: str, tmp_path: Path) -> None:
    expected = json.loads((RUNS / kind / "finished" / "evaluation.json").read_text())
    shutil.copytree(RUNS / kind / "finished", tmp_path / "run")
    result = evaluate(load(tmp_path / "run", device="cpu"), particles=expected["particles"])
    names = [name for name in expected if "_per_" in name and expected[name] is not None]
    assert "distortion_nats_per_datum" in names
    for name in names:
        assert result[name] == pytest.approx(expected[name], rel=ROUNDING), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_run_goes_on_to_the_end_that_it_had_then(kind: str, tmp_path: Path) -> None:
    shutil.copytree(RUNS / kind / "stopped", tmp_path / "run")
    resume(tmp_path / "run", device="cpu")
    expected = rows(RUNS / kind / "finished")
    assert len(expected) > len(rows(RUNS / kind / "stopped"))
    for row, there in zip(rows(tmp_path / "run"), expected, strict=True):
        assert row == pytest.approx(there, rel=ROUNDING)
    tensors, _ = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    finished, _ = read_checkpoint(RUNS / kind / "finished" / "checkpoint.safetensors")
    assert tensors.keys() == finished.keys()
    for name in tensors:
        if name.startswith(("model.", "guide.")):
            assert tensors[name].numpy() == pytest.approx(finished[name].numpy(), abs=1e-3), name
