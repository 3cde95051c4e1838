"""Steps that are left out because of their gradient, and counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import metrics, tiny, without_pictures
from torch import Tensor

from guides import DiagonalNormal
from models import VAE, Spec
from ppl_vae.compiler.comparison import with_gradients
from ppl_vae.fit import resume
from ppl_vae.objectives import ELBO
from ppl_vae.training.outliers import Outliers
from ppl_vae.training.step import SVIStep

SPEC = Spec((1, 3, 2), "binary", 2)


def new_step(**options: Any) -> SVIStep:
    torch.manual_seed(0)
    return SVIStep(VAE(SPEC), DiagonalNormal(SPEC), ELBO(), **options)


def gradient_norm(step: SVIStep, x: Tensor) -> float:
    torch.manual_seed(1)
    _, gradients = with_gradients(step.pair)(x)
    return torch.cat([g.double().flatten() for g in gradients.values()]).norm().item()


def parameters(step: SVIStep) -> Tensor:
    return torch.cat([p.detach().flatten() for p in step.parameters.values()])


@pytest.mark.usefixtures("traced_steps")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("factor", "left_out"), [(0.99, True), (1.01, False)])
def test_a_step_is_left_out_where_the_norm_is_above_the_limit(compiled, factor, left_out):
    x = torch.rand(10, 1, 3, 2).round()
    plain = new_step()
    step = new_step(skip_norm=factor * gradient_norm(plain, x), average=0.9, clip_norm=1e-3)
    plain = new_step(average=0.9, clip_norm=1e-3)
    if compiled:
        step.compile((x,))
    state = {name: value.clone() for name, value in step.state().items()}
    begun = parameters(step)
    for one in (step, plain):
        torch.manual_seed(1)
        one((x,), 1e-2)
    assert step.outliers.count == left_out
    expected = begun if left_out else parameters(plain)
    assert torch.equal(parameters(step), expected)
    if left_out:
        moved = {n for n, value in step.state().items() if not torch.equal(value, state[n])}
        assert moved == {"skipped"}


def test_a_gradient_that_is_not_finite_is_an_outlier():
    outliers = Outliers(5.0, torch.device("cpu"))
    assert outliers({"a": torch.tensor([3.0, torch.nan]), "b": None}) == 1
    assert outliers({"a": torch.tensor([3.0, 4.0])}) == 0
    assert outliers({"a": torch.tensor([3.0, 4.1])}) == 1
    assert outliers.count == 2


def test_they_are_counted_in_the_metrics_and_over_a_resume(tmp_path: Path, capsys):
    with without_pictures():
        options: dict[str, Any] = {"batch_size": 400, "engine": "eager", "skip_norm": 1e-3}
        run = tiny(tmp_path / "run", epochs=2, **options)
        assert [row["skipped_steps"] for row in metrics(run.path)] == [4, 8]
        assert run.summary["skipped_steps"] == run.summary["steps"] == 8
        said = capsys.readouterr().err
        assert "4 of the 4 steps of epoch 1 were left out" in said
        assert said.count("were left out") == 1
        again = resume(run.path, epochs=3)
        assert [row["skipped_steps"] for row in metrics(again.path)] == [4, 8, 12]
        other = tiny(tmp_path / "other", epochs=1, batch_size=400, engine="eager")
        assert "skipped_steps" not in metrics(other.path)[0]
        assert "were left out" not in capsys.readouterr().err
