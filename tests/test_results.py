"""What a verb writes: where, under which name, and what becomes of numbers that do not fit."""

import json
from math import inf, nan
from pathlib import Path

import pytest
import torch
from reports import full, train

from models import Linear, ProbabilisticPCA
from ppl_vae.errors import InputError
from ppl_vae.evaluate import _rows, evaluate
from ppl_vae.runs.metrics import ELBO_COLUMN, IWAE_COLUMN
from ppl_vae.runs.results import plain
from ppl_vae.runs.run import Run
from ppl_vae.training.summary import report


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return train(tmp_path / "run")


def test_json_has_no_infinity() -> None:
    numbers = {"a": [1.5, inf, (nan, -inf)], 2: {"b": "inf", "c": None}}
    assert plain(numbers) == {"a": [1.5, None, [None, None]], "2": {"b": "inf", "c": None}}


def test_each_split_has_a_file_of_its_own(run: Run, tmp_path: Path) -> None:
    results = {
        split: evaluate(run, split=split, particles=2, data_points=20)
        for split in ("test", "validation", "train")
    }
    for split, name in (("test", ""), ("validation", "-validation"), ("train", "-train")):
        assert json.loads((run.path / f"evaluation{name}.json").read_text()) == results[split]
    before = sorted(run.path.rglob("*"))
    evaluate(run, particles=2, data_points=20, out=tmp_path / "new" / "out")
    assert (tmp_path / "new" / "out" / "evaluation.json").is_file()
    assert sorted(run.path.rglob("*")) == before


def test_a_number_that_is_not_finite_is_null_with_its_reason(tmp_path: Path) -> None:
    run = train(tmp_path / "run", model=ProbabilisticPCA, network=Linear, epochs=1)
    with torch.no_grad():
        run.model.loadings.mul_(1e30)
    result = evaluate(run, particles=2, data_points=30)
    assert json.loads((run.path / "evaluation.json").read_text()) == result
    for name in ("elbo_nats_per_datum", "log_likelihood_nats_per_datum", "bits_per_dim"):
        assert result[name] is result[f"{name}_standard_error"] is None
        assert "30 of 30 images have no finite value" in result["not_finite"][name]
    assert result["rate_nats_per_datum"] is not None
    assert "-inf: 30 of 30 images" in str(_rows(result))


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("ppl_vae.evaluate.estimate", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(InputError, match=r"cannot write to .*file/below: .*--out"):
        evaluate(run, out=tmp_path / "file" / "below")
    with pytest.raises(InputError, match="file: it is a file; name another folder with --out"):
        evaluate(run, out=tmp_path / "file")


def test_numbers_are_printed_where_the_disk_is_full(run, monkeypatch, capsys) -> None:
    before = sorted(run.path.rglob("*"))
    monkeypatch.setattr("os.fsync", full)
    capsys.readouterr()
    with pytest.raises(OSError, match="No space left") as caught:
        evaluate(run, particles=2)
    assert caught.value.filename == str(run.path / "evaluation.json")
    assert json.loads(capsys.readouterr().out)["elbo_nats_per_datum"] < 0
    assert sorted(run.path.rglob("*")) == before


def test_a_collapse_is_said(run: Run) -> None:
    """A decoder that does not look at z, and a guide that is nearly the prior, or is it."""
    with torch.no_grad():
        for parameter in run.guide.parameters():
            parameter.mul_(2.0)
    near = evaluate(run, particles=2)
    assert 0.1 < near["rate_nats_per_datum"] < 0.69
    assert near["posterior_collapse"] is False
    assert "near posterior collapse: the rate is 0." in str(_rows(near))
    with torch.no_grad():
        for parameter in run.guide.parameters():
            parameter.zero_()
    assert evaluate(run, particles=2)["posterior_collapse"] is True
    assert "posterior collapse: the rate is 0.00 nats and 0 latents" in str(
        _rows(evaluate(run, particles=2))
    )
    (run.path / "pictures").mkdir(exist_ok=True)
    summary = run.summary | {"validation_rate_nats_per_datum": 0.02}
    (run.path / "summary.json").write_text(json.dumps(summary))
    assert "posterior collapse: the rate is 0.02 nats" in report(run)
    gained = summary | {IWAE_COLUMN: summary[ELBO_COLUMN] + 1.1}  # so x depends on z
    (run.path / "summary.json").write_text(json.dumps(gained))
    assert "posterior collapse" not in report(run)
    summary["validation_rate_nats_per_datum"] = 5.0
    (run.path / "summary.json").write_text(json.dumps(summary))
    assert "posterior collapse" not in report(run)
