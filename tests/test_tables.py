"""Runs on a table: missing entries by closed forms, its units, and no pictures of rows."""

from typing import Any

import numpy as np
import pytest
import torch
from factor_table import COLUMNS, ROWS, TABLE, UNITS
from oracles import exact_guide, refused
from reports import QUICK, train

from guides import FullRankNormal
from models import (
    Linear,
    ProbabilisticPCA,
)
from models.corruptions import Downsampled, GaussianNoise, Masked, SaltAndPepper
from ppl_vae.data import Arrays
from ppl_vae.data.source import fixed_order
from ppl_vae.detect import detect
from ppl_vae.evaluate import evaluate
from ppl_vae.features import features
from ppl_vae.generate import generate, sample
from ppl_vae.posterior import posterior
from ppl_vae.restore import restore, write
from ppl_vae.runs.run import Run

DRAWS = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Probabilistic PCA at the maximum likelihood of the standardised training rows, exact."""
    path = tmp_path_factory.mktemp("runs") / "ppca"
    labels = np.arange(ROWS) % 2
    made = train(
        path, data=(TABLE, labels), model=ProbabilisticPCA, guide=FullRankNormal, network=Linear,
        epochs=1,
    )  # fmt: skip
    made.model.maximize_likelihood(made.data.train[:])
    made.guide = exact_guide(made.model)
    return made


def split_rows() -> tuple[np.ndarray, np.ndarray]:
    """The training and the test rows, in the fixed order that arrays are cut in."""
    order = fixed_order(ROWS).numpy()
    return TABLE[order[2 * ROWS // 10 :]], TABLE[order[: ROWS // 10]]


def test_rows_of_a_table_are_what_they_are_as_test_rows(run: Run, tmp_path) -> None:
    _, rows = split_rows()
    expected = run.data.test[:]
    for given in (rows, torch.from_numpy(rows), list(rows), rows[:, None], (rows, rows[:, 0] > 0)):
        given = (given[0], given[1].astype(int)) if isinstance(given, tuple) else given
        assert torch.equal(run.split_of(given)[:], expected)
    assert torch.equal(run.split_of(rows[3])[:], expected[3:4])
    np.save(tmp_path / "rows.npy", rows)
    other = run.other_data(Arrays(path=tmp_path / "rows.npy"))
    assert torch.equal(other.all[:], expected[np.argsort(other_order(len(rows)))])


def other_order(count: int) -> np.ndarray:
    """Where `Data.all` has each row: training, validation and test rows follow each other."""
    order, tenth = fixed_order(count).numpy(), count // 10
    where = np.concatenate([order[2 * tenth :], order[tenth : 2 * tenth], order[:tenth]])
    return np.argsort(where)


def conditional(run: Run, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E[x_m|x_o] and the standard deviation of each entry, in the units of the table.

    Of a normal distribution with the mean and covariance of the model, by the textbook's formula.
    """
    model: Any = run.model
    loadings, sigma = model.loadings.detach().double(), model.log_scale.detach().double().exp()
    covariance = (loadings @ loadings.T + sigma**2 * torch.eye(COLUMNS)).numpy()
    centre = model.mean.detach().double().numpy()
    mean, deviation = map(np.array, run.facts.moments)
    made, spread = rows.copy(), np.zeros_like(rows)
    for row, (values, out) in enumerate(zip((rows - mean) / deviation, made, strict=True)):
        m, o = np.isnan(values), ~np.isnan(values)
        gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        left = covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]
        out[m] = mean[m] + deviation[m] * (centre[m] + gain @ (values[o] - centre[o]))
        spread[row, m] = deviation[m] * np.sqrt(np.diag(left))
    return made, spread


@pytest.fixture(scope="module")
def with_holes() -> np.ndarray:
    _, rows = split_rows()
    hidden = np.random.default_rng(2).random(rows.shape) < 0.4
    hidden[np.arange(len(rows)), np.arange(len(rows)) % COLUMNS] = False
    return np.where(hidden, np.nan, rows)


def test_imputation_is_the_closed_form_in_the_units_of_the_table(run: Run, with_holes) -> None:
    restored = restore(
        run, with_holes, corruption=Masked(), method="importance", draws=DRAWS, particles=4000
    )
    expected, spread = conditional(run, with_holes)
    missing = np.isnan(with_holes)
    seen = (restored.mean - with_holes) / UNITS
    assert abs(seen[~missing]).max() < 1e-4  # float32 has 1e-7 of a column's mean
    apart = (restored.mean - expected)[missing] / spread[missing]
    # E[x|z, y] is averaged over draws of z, of which x has no more variance than `spread`.
    assert abs(apart).max() < 4.5 / DRAWS**0.5
    assert (apart**2).mean() < 1.3 / DRAWS
    ratio = restored.standard_deviation[missing] / spread[missing]
    np.testing.assert_allclose(ratio, 1, atol=4.5 * (0.5 / DRAWS) ** 0.5)


def test_scores_of_a_table_are_in_standardised_units(run: Run, tmp_path) -> None:
    options = {"method": "importance", "draws": 50, "particles": 500}
    found = restore(run, corruption=Masked(fraction=0.4), corrupt=True, **options)
    numbers = found.numbers["restoration"]
    hidden = np.isnan(found.corrupted)
    deviation = np.array(run.data.moments[1])
    errors = ((found.mean - found.original) / deviation) ** 2 * hidden
    some = hidden.any(1)
    mean = (errors.sum(1)[some] / hidden.sum(1)[some]).mean()
    assert numbers["squared_error_per_value"] == pytest.approx(mean, rel=1e-4)
    # Of a calibrated normal the CRPS is 1 / sqrt(pi) = 0.56 standard deviations, of hidden entries;
    # over all entries, of which 60 % are known, it would be 0.23.
    assert 0.45 < numbers["crps"] / mean**0.5 < 0.65
    assert "psnr_decibels" not in numbers
    assert "ssim" not in numbers
    np.testing.assert_allclose(found.original, split_rows()[1], rtol=1e-4, atol=1e-3)
    assert [path.name for path in write(found, tmp_path)] == [
        "restoration.json", "restoration.npz",
    ]  # fmt: skip
    noisy = restore(run, corruption=GaussianNoise(0.5), corrupt=True, count=5, **options)
    noise = (noisy.corrupted - noisy.original) / deviation
    assert 0.2 < noise.std() < 0.9
    for corruption in (SaltAndPepper(0.1), Downsampled(2)):
        with refused("choose Masked or GaussianNoise"):
            restore(run, corruption=corruption, corrupt=True)


def test_samples_and_reconstructions_have_the_units_of_the_table(run: Run) -> None:
    drawn = sample(run, count=4000)
    assert drawn["draw"].shape == drawn["mean"].shape == (4000, COLUMNS)
    train_rows, rows = split_rows()
    error = train_rows.std(0) / 4000**0.5
    assert (abs(drawn["draw"].mean(0) - train_rows.mean(0)) / error < 4.5).all()
    assert (abs(drawn["draw"].std(0) / train_rows.std(0) - 1) < 4.5 / 8000**0.5).all()
    # x of the model at E_q[z|x], in the units of the table.
    z = run.encode(rows)
    expected = run.facts.in_units(run.model.decode(z).mean).detach()
    assert torch.equal(run.reconstruct(rows), expected)
    mean, deviation = map(torch.tensor, run.facts.moments)
    by_hand = (z @ run.model.loadings.T + run.model.mean) * deviation + mean
    torch.testing.assert_close(expected, by_hand.detach())


def test_log_p_is_that_of_the_standardised_rows(run: Run, tmp_path) -> None:
    result = evaluate(run, particles=10, out=tmp_path)
    exact = run.model.log_likelihood(run.data.test[:]).mean().item()
    assert result["log_likelihood_nats_per_datum"] == pytest.approx(exact, abs=1e-3)
    assert "standardised column by column" in result["reference_measure"]


def test_verbs_write_no_pictures_of_rows(run: Run, tmp_path) -> None:
    for what in ("sample", "reconstruct", "traverse", "interpolate", "manifold"):
        written = generate(run, what, out=tmp_path / "generated")
        assert [path.suffix for path in written] == [".npz"]
        assert all(path.is_file() for path in written)
    detect(run, out=tmp_path / "detection", particles=4)
    features(run, out=tmp_path / "features")
    found = {path.name for path in tmp_path.rglob("*.*") if path.is_file()}
    assert found == {
        "sample.npz", "reconstruct.npz", "traverse.npz", "interpolate.npz", "manifold.npz",
        "scores.csv", "detection.json", "histograms.png",
        "features.json", "features.npz", "features.png",
    }  # fmt: skip
    with np.load(tmp_path / "generated" / "traverse.npz") as arrays:
        assert arrays["mean"].shape == (2, 1, 11, COLUMNS)


def test_the_report_has_no_pictures_of_rows(run: Run, tmp_path) -> None:
    result = posterior(run, out=tmp_path, **QUICK)
    assert not any(result[name]["failed"] for name in ("guide", "gap", "calibration", "latent"))
    assert "total_ink_mean" not in result["calibration"]
    # Distances to the nearest training row are those of standardised rows.
    train_rows = run.data.train[:].flatten(1)
    chosen = run.data.test[result["images"]].flatten(1)
    nearest = torch.cdist(chosen, train_rows).min(1).values / COLUMNS**0.5
    median = result["calibration"]["nearest_training_distance_data_median"]
    assert median == pytest.approx(nearest.median().item(), rel=1e-5)
    samples = result["calibration"]["nearest_training_distance_samples_median"]
    assert samples == pytest.approx(median, rel=0.5)


def test_other_columns_are_refused(run: Run, tmp_path) -> None:
    np.save(tmp_path / "few.npy", TABLE[:, :4])
    with refused("expected rows of 6 columns, as the run's table has; got 4"):
        run.split_of(TABLE[:, :4])
    with refused("expected 6 columns, as the run's table has; that of Arrays has 4"):
        run.other_data(Arrays(path=tmp_path / "few.npy"))
    with refused(r"are: an array, or one \.npy or \.npz file; got pictures or other files"):
        run.split_of("picture.png")
