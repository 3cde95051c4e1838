"""A table as data: columns standardised and back, and what a table is refused for."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factor_table import CENTRES, COLUMNS, ROWS, TABLE, UNITS
from oracles import refused
from reports import train
from tiny_runs import exit_code, tiny, tree
from torch.utils.data import TensorDataset

import ppl_vae.fit
from models import (
    Bernoulli,
    BetaBinomial,
    Cells,
    Convolutional,
    MaxPooling,
    Residual,
)
from ppl_vae import load
from ppl_vae.compress import compress
from ppl_vae.data import Arrays
from ppl_vae.data.source import fixed_order
from ppl_vae.decompress import decompress_to
from ppl_vae.fit import fit


def in_table(memory_gib: float | None, tmp_path: Path, table: np.ndarray) -> Arrays:
    if memory_gib is None:
        return Arrays.of(table)
    np.save(tmp_path / "table.npy", table)
    return Arrays(path=tmp_path / "table.npy", memory_gib=memory_gib)


@pytest.mark.parametrize("memory_gib", [None, 0, 1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_columns_are_standardised_one_by_one_and_back(memory_gib, dtype, tmp_path) -> None:
    table = (100 * (TABLE - CENTRES) / UNITS).astype(dtype) * 10 ** np.arange(COLUMNS)
    data = in_table(memory_gib, tmp_path, table.astype(dtype)).load("real", 0)
    order = fixed_order(ROWS).numpy()
    train_rows, test_rows = table[order[2 * ROWS // 10 :]], table[order[: ROWS // 10]]
    assert data.image_shape == (1, 1, COLUMNS)
    assert data.table
    assert data.levels is None
    assert f"rows of {COLUMNS} columns" in data.note
    assert "each column standardised" in data.note
    assert data.moments is not None
    np.testing.assert_allclose(data.moments[0], train_rows.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(data.moments[1], train_rows.std(0), rtol=1e-5)
    expected = (test_rows - train_rows.mean(0)) / train_rows.std(0)
    np.testing.assert_allclose(data.test[:][:, 0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(data.in_units(data.test[:]), test_rows, rtol=1e-5, atol=1e-4)
    plain = in_table(memory_gib, tmp_path, table.astype(dtype))
    unscaled = type(plain)(**{**vars(plain), "scale": "none"}).load("real", 0)
    np.testing.assert_array_equal(unscaled.test[:][:, 0, 0], test_rows.astype(np.float32))


def test_missing_entries_do_not_count_in_a_column(tmp_path) -> None:
    table = np.where(np.random.default_rng(1).random(TABLE.shape) < 0.3, np.nan, TABLE)
    data = Arrays.of(table).load("real", 0)
    train_rows = table[fixed_order(ROWS).numpy()[2 * ROWS // 10 :]]
    assert data.holes
    assert data.moments is not None
    np.testing.assert_allclose(data.moments[0], np.nanmean(train_rows, 0), rtol=1e-5)
    np.testing.assert_allclose(data.moments[1], np.nanstd(train_rows, 0), rtol=1e-5)
    standard = (train_rows - np.nanmean(train_rows, 0)) / np.nanstd(train_rows, 0)
    np.testing.assert_allclose(data.train[:][:, 0, 0], standard, atol=1e-4)


def test_whole_numbers_are_numbers_and_two_values_are_binary(tmp_path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (50, 4))
    assert Arrays.of(counts).default_domain == "real"
    assert Arrays.of(counts.astype(np.uint8)).load("real", 0).levels is None
    for dtype in (bool, np.uint8, np.float64):
        answers = (counts > 2).astype(dtype)
        data_set = Arrays.of(answers)
        assert data_set.default_domain == "binary"
        data = data_set.load("binary", 0)
        assert (data.levels, data.binarize, data.moments) == (2, "none", None)
        np.testing.assert_array_equal(
            data.test[:][:, 0, 0], answers[fixed_order(50).numpy()[:5]].astype(float)
        )
    assert Arrays.of(3 * (counts > 2)).default_domain == "real"


def test_items_of_a_data_set_are_rows() -> None:
    labels = torch.arange(ROWS) % 3
    data_set = TensorDataset(torch.from_numpy(TABLE), labels)
    data, expected = (Arrays.of(each).load("real", 0) for each in (data_set, (TABLE, labels)))
    assert torch.equal(data.train[:], expected.train[:])
    assert torch.equal(data.train.labels, expected.train.labels)


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (TABLE, {"binarize": "dynamic"}, "--data.binarize dynamic is for grey levels"),
        (TABLE, {"dequantize": "uniform"}, "--data.dequantize uniform is for grey levels"),
        (TABLE, {"perturb": 0.2}, "--data.perturb 0.2 is for grey levels"),
        (np.c_[TABLE, 0.1 + 0 * TABLE[:, :2]], {}, "or none, in column 6, 7, counted from 0"),
        (np.c_[TABLE, np.nan * TABLE[:, 0]], {}, "or none, in column 6, counted from 0"),
        (np.where(TABLE > 800, np.inf, TABLE), {}, "infinite"),
        (TABLE[:, 0], {}, r"or a table of shape \(N, D\), N >= 1; got \(400,\)"),
    ],
)
def test_bad_tables_are_refused_in_one_line(table, options: dict[str, Any], said: str) -> None:
    with refused(said):
        Arrays.of(table, **options).load("real", 0)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ({"network": Convolutional}, "Convolutional convolves images, and the data are a table"),
        ({"network": partial(Residual, channels=(4,))}, "choose --network MLP or Linear"),
        ({"network": MaxPooling}, "whose columns have no neighbours"),
        ({"network": Cells}, "Cells convolves images"),
        ({"likelihood": Bernoulli}, "a table of 0 and 1"),
        ({"likelihood": BetaBinomial}, "a likelihood for bytes is one of images"),
    ],
)
def test_pieces_for_images_are_refused(pieces, said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(said):
        fit(TABLE, run="run", **pieces)
    assert tree() == {}


def test_a_run_on_a_table_is_loaded_resumed_and_said_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("table.npy", TABLE)
    options = ["--data", "Arrays", "--data.path", "table.npy", "--latent_dim", "2", "--epochs"]
    assert exit_code(ppl_vae.fit.main, *options, "1", "--run", "run") == 0
    said = capsys.readouterr()
    assert f"rows of {COLUMNS} columns" in said.err
    assert " rows per second)" in said.out
    assert {path.name for path in Path("run/pictures").iterdir()} == {
        "learning_curves.png", "graphical_model.png",
    }  # fmt: skip
    first = load("run")
    assert first.facts.table
    assert first.facts.moments == first.data.moments
    assert (first.config["likelihood"]["init_args"]["scale"]) == "pixel"
    assert exit_code(ppl_vae.fit.main, "--resume", "run", "--epochs", "2") == 0
    whole = tiny(tmp_path / "whole", data=Arrays(path="table.npy"), network=ppl_vae.fit.MLP,
                 epochs=2, restart_epochs=[1])  # fmt: skip
    resumed = load("run")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_binary_table_is_compressed_and_comes_back(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers = np.random.default_rng(0).random((60, 9)) < 0.3
    np.save("answers.npy", answers)
    run = train(tmp_path / "run", data=Arrays(path="answers.npy"))
    assert run.spec.domain == "binary"
    decompress_to(compress(run, ["answers.npy"]), "back", run)
    np.testing.assert_array_equal(np.load("back/answers.npy"), answers)
