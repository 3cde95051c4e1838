"""A deep pair through training: programs and graph, precision, resume, and bad input."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from comparing import assert_same
from tiny_runs import at_step, metrics, tiny

from guides import Bidirectional
from models import Cells, MixtureOfLogistics, TopDown
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import resume
from ppl_vae.objectives import Beta
from ppl_vae.training.step import SVIStep

pytestmark = pytest.mark.usefixtures("no_pictures", "empty_folder")

deep = partial(
    tiny,
    model=partial(TopDown, groups=[[1, 1], [1, 4]], width=6),
    guide=Bidirectional,
    network=partial(Cells, channels=6, inner=4),
    batch_size=400,
    device="cpu",
)


@pytest.mark.usefixtures("traced_steps")
def test_the_graph_is_the_programs_and_a_resumed_run_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"objective": Beta(warmup_epochs=1, balance=True), "average": 0.9, "skip_norm": 1e4}
    eager = deep(tmp_path / "eager", engine="eager", **options)
    whole, path = tmp_path / "whole", tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SVIStep, "__call__", at_step(6, partial(shutil.copytree, whole, path)))
        run = deep(whole, engine="compiled", checkpoint_seconds=0.0, **options)
    assert run.summary["engine"] == "compiled"
    assert metrics(whole) == metrics(eager.path)
    resume(path)
    assert_same(path, whole)


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"likelihood": MixtureOfLogistics}])
def test_it_learns_and_is_evaluated(tmp_path: Path, options: dict) -> None:
    run = deep(tmp_path / "run", engine="eager", epochs=4, learning_rate=0.01, **options)
    bounds = [row["validation_elbo_nats_per_datum"] for row in metrics(run.path)]
    assert bounds[-1] > bounds[0]
    numbers = evaluate(run, particles=20, data_points=30)
    errors = numbers["elbo_nats_per_datum_standard_error"]
    assert abs(numbers["elbo_nats_per_datum"] - bounds[-1]) < 5 * errors


DEEP = ["--model", "TopDown", "--guide", "Bidirectional"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.groups", "[[1, 3]]"], "1, 2, 4, 8, at which images of 8 x 8 divide; got 3"),
        (["--model.groups", "[[0, 1], [2, 4]]"], "expected each of groups of sizes >= 1; got [0, "),
        (["--model.groups", "[[1, 1], [1, 2], [1, 4], [1, 8], [1, 16]]"], "got 1, 2, 4, 8, 16"),
        (["--model.groups", "7"], "groups"),
        (["--guide", "DiagonalNormal"], "guides for these: Bidirectional"),
    ],
)
def test_bad_input_is_one_line(
    fit_refuses: Callable[..., str], options: list[str], said: str
) -> None:
    fit_refuses([*DEEP, *options], said)
