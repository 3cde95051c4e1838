"""Features of runs beside PCA and k-means, against direct calls of scikit-learn."""

import json
import shutil
from dataclasses import replace
from functools import partial
from math import sqrt

import numpy as np
import pytest
import torch
from oracles import refused
from reports import ended, train
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import ppl_vae
from guides import ConditionalNormal
from models import MLP, Conditional, Gaussian
from ppl_vae.data import Arrays
from ppl_vae.features import features, main
from ppl_vae.latents.baselines import linear_probe
from ppl_vae.measures.clustering import clustering_accuracy
from ppl_vae.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    options = {"network": partial(MLP, hidden=(16,)), "latent_dim": 3, "epochs": 20}
    return train(tmp_path_factory.mktemp("runs") / "run", **options)


@pytest.fixture(scope="module")
def result(run: Run) -> dict:
    return features(run)


def named(result: dict) -> dict[str, dict]:
    return {row["name"]: row for row in result["representations"]}


def pixels_and_labels(run: Run) -> tuple:
    """What the run sees; training images are binarised from seed 0 as the verb does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [split[start : start + 1000] for split in (run.data.train, run.data.test)
                 for start in range(0, len(split), 1000)]  # fmt: skip
    images = torch.cat(parts).flatten(1).numpy()
    count = len(run.data.train)
    labels = run.data.train.labels.numpy(), run.data.test.labels.numpy()
    return images[:count], images[count:], *labels


def test_the_rows(run, result):
    names = ["pixels", "k-means-10", "PCA-3", str(run.path)]
    assert [row["name"] for row in result["representations"]] == names
    assert [row["dimension"] for row in result["representations"]] == [64, None, 3, 3]
    assert (result["data_points"], result["train_points"], result["clusters"]) == (300, 1297, 10)
    assert result["without_labels"] is None


def test_pca_and_k_means_are_those_of_scikit_learn(run, result):
    train_x, test_x, _, test_y = pixels_and_labels(run)
    rows = named(result)
    fitted = PCA(3).fit(train_x)
    codes = fitted.transform(test_x)
    errors = ((fitted.inverse_transform(codes) - test_x) ** 2).mean(1)
    score = "reconstruction_squared_error_per_pixel"
    assert rows["PCA-3"][score] == pytest.approx(errors.mean(), rel=1e-4)
    standard_error = rows["PCA-3"][f"{score}_standard_error"]
    assert standard_error == pytest.approx(errors.std(ddof=1) / sqrt(300), rel=1e-3)
    means = KMeans(10, n_init=10, random_state=0).fit(train_x)
    assigned = means.predict(test_x)
    errors = ((means.cluster_centers_[assigned] - test_x) ** 2).mean(1)
    row = rows["k-means-10"]
    assert row[score] == pytest.approx(errors.mean(), rel=1e-4)
    assert row["normalized_mutual_information"] == pytest.approx(
        normalized_mutual_info_score(test_y, assigned), abs=1e-6
    )
    assert row["adjusted_rand_index"] == pytest.approx(
        adjusted_rand_score(test_y, assigned), abs=1e-6
    )
    assert "linear_probe_accuracy" not in row


def test_the_runs_features_are_its_posterior_means(run, result):
    train_x, test_x, train_y, test_y = pixels_and_labels(run)
    with torch.no_grad():
        x = [torch.from_numpy(part).unflatten(1, (1, 8, 8)) for part in (train_x, test_x)]
        z = [run.guide.posterior(part).mean for part in x]
        errors = (run.model.decode(z[1]).mean - x[1]).square().flatten(1).mean(1)
    row = named(result)[str(run.path)]
    assert row["reconstruction_squared_error_per_pixel"] == pytest.approx(errors.mean().item())
    arrays = np.load(run.path / "features.npz")
    np.testing.assert_allclose(arrays["train"], z[0], atol=1e-5)
    np.testing.assert_allclose(arrays["test"], z[1], atol=1e-5)
    np.testing.assert_array_equal(arrays["train_labels"], train_y)
    np.testing.assert_array_equal(arrays["test_labels"], test_y)


@pytest.mark.parametrize("which", ["pixels", "PCA-3", "run"])
def test_the_probe_is_logistic_regression(run, result, which):
    train_x, test_x, train_y, test_y = pixels_and_labels(run)
    if which == "PCA-3":
        fitted = PCA(3).fit(train_x)
        train_x, test_x = fitted.transform(train_x), fitted.transform(test_x)
    elif which == "run":
        arrays = np.load(run.path / "features.npz")
        train_x, test_x = arrays["train"], arrays["test"]
    mean, scale = train_x.mean(0), train_x.std(0)
    scale[scale < 1e-6] = 1
    probe = LogisticRegression(max_iter=2000).fit((train_x - mean) / scale, train_y)
    accuracy = probe.score((test_x - mean) / scale, test_y)
    row = named(result)[str(run.path) if which == "run" else which]
    assert row["linear_probe_accuracy"] == pytest.approx(accuracy, abs=1.5 / 300)
    assert row["linear_probe_converged"]
    p = row["linear_probe_accuracy"]
    assert row["linear_probe_accuracy_standard_error"] == pytest.approx(sqrt(p * (1 - p) / 299))


def test_what_is_written_is_what_comes_back(run, result):
    assert json.loads((run.path / "features.json").read_text()) == result
    for name in ("features.png", "features_reconstructions.png"):
        assert (run.path / "pictures" / name).read_bytes().startswith(b"\x89PNG")


def test_one_seed_gives_one_result_and_leaves_the_random_state(tmp_path):
    run = train(tmp_path / "run", epochs=1)
    state = torch.get_rng_state()
    first, again, other = (
        features(run, train_points=100, data_points=30, clusters=3, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert named(first) == named(again)
    assert named(first) != named(other)


def test_a_probe_that_did_not_converge_says_so(monkeypatch):
    monkeypatch.setattr("ppl_vae.latents.baselines._ITERATIONS", 1)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), np.arange(50) % 3
    assert not linear_probe(x, y, x, y)["linear_probe_converged"]


def test_data_without_labels(arrays, tmp_path, capsys):
    images = np.random.default_rng(0).random((60, 5, 4)).astype(np.float32)
    run = train(
        tmp_path / "run", data=arrays(images), likelihood=Gaussian, batch_size=20, latent_dim=3
    )
    assert ended(main, run.path, "--train_points", "30", "--clusters", "4") == 0
    printed = capsys.readouterr().out
    assert "no clustering scores and no linear probe: the data have no labels" in printed
    result = json.loads((run.path / "features.json").read_text())
    assert (result["classes"], result["clusters"], result["train_points"]) == (0, 4, 30)
    assert set(named(result)) == {"pixels", "k-means-4", "PCA-3", str(run.path)}
    for name, row in named(result).items():
        assert "linear_probe_accuracy" not in row
        assert "clustering_accuracy" not in row
        assert ("reconstruction_squared_error_per_pixel" in row) == (name != "pixels")
    assert set(np.load(run.path / "features.npz")) == {"train", "test"}


def test_images_without_a_label_are_left_out_of_the_scores_that_need_one(tmp_path, monkeypatch):
    """Half of the labels are unknown: the scores are those of the other half."""
    rng = np.random.default_rng(0)
    images = (rng.random((300, 4, 4)) < 0.5).astype(bool)
    labels = np.where(images[:, 0, 0], 1 + images[:, 0, 1], 0)
    images[labels == 0] ^= images[labels == 0][:, ::-1]
    labels[rng.random(300) < 0.5] = -1
    np.savez(tmp_path / "some.npz", images=images, labels=labels)
    run = train(tmp_path / "run", data=Arrays(path=tmp_path / "some.npz"), batch_size=20)
    sheets = []
    monkeypatch.setattr(
        "ppl_vae.features.plots.image_grid", lambda tiles, *_, **__: sheets.append(tiles)
    )
    row = named(features(run))[str(run.path)]
    arrays = np.load(run.path / "features.npz")
    known = {part: arrays[f"{part}_labels"] >= 0 for part in ("train", "test")}
    assert {part: (~mask).any() for part, mask in known.items()} == {"train": True, "test": True}
    (x, y), (test, truth) = (
        (arrays[part][mask], arrays[f"{part}_labels"][mask]) for part, mask in known.items()
    )
    expected = linear_probe(x, y, test, truth)
    assert row["linear_probe_accuracy"] == expected["linear_probe_accuracy"]
    clusters = KMeans(3, n_init=10, random_state=0).fit(arrays["train"]).predict(test)
    assert row["clustering_accuracy"] == pytest.approx(clustering_accuracy(truth, clusters))
    assert len(sheets[0][0]) == len(np.unique(truth))  # one image of each class in the picture


def test_other_places_and_names_with_dollars(run, tmp_path):
    """matplotlib would read what stands between two dollars as mathematics."""
    path = tmp_path / "a$_{$b"
    shutil.copytree(run.path, path)
    other = ppl_vae.load(path)
    out = tmp_path / "out"
    features(run, other, data_points=30, train_points=60, out=out)
    names = ["features-2.npz", "features.json", "features.npz", "features.png"]
    assert sorted(file.name for file in out.iterdir()) == [*names, "features_reconstructions.png"]
    (tmp_path / "file").touch()
    with refused(r"cannot write to .*--out"):
        features(run, out=tmp_path / "file")


def test_several_runs_on_the_same_images(run, tmp_path, capsys):
    other = train(tmp_path / "other")
    assert ended(main, run.path, other.path, "--data_points", "50", "--train_points", "200") == 0
    rows = named(json.loads((run.path / "features.json").read_text()))
    assert list(rows)[2:] == ["PCA-2", "PCA-3", str(run.path), str(other.path)]
    assert (other.path / "features.npz").exists()
    assert not (other.path / "features.json").exists()
    printed = capsys.readouterr().out
    assert f"{rows['PCA-2']['clustering_accuracy']:.4f} +- " in printed


def test_runs_on_other_images_are_refused(run, tmp_path):
    other = train(tmp_path / "other", likelihood=Gaussian)
    with refused(r"same images; .*run has binary Digits, .*has real Digits"):
        features(run, other)


def test_a_run_that_is_told_the_class_is_refused(run, tmp_path):
    told = train(tmp_path / "told", model=Conditional, guide=ConditionalNormal)
    with refused(r"encode images alone; Conditional of .*told is given"):
        features(run, told)


def test_a_list_of_runs_is_refused(run):
    with refused(r"^expected each run by itself, as in features\(run, other\); got a list$"):
        features([run, run.path])


def test_one_test_image_is_too_few(run, monkeypatch):
    monkeypatch.setattr(run, "data", replace(run.data, test=run.data.test.first(1)))
    least = "expected at least 2 training images and 2 test images"
    with refused(f"^{least}; the data set has 1,297 and 1$"):
        features(run)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_points": 1}, "expected --train_points >= 2; got 1"),
        ({"data_points": 301}, "--data_points: expected 2 to 300; got 301"),
        ({"data_points": 0}, "--data_points: expected 2 to 300; got 0"),
        ({"clusters": 0}, "--clusters: expected 2 to 1,297; got 0"),
        ({"clusters": 1}, "--clusters: expected 2 to 1,297; got 1"),
        ({"train_points": 5, "clusters": 6}, "--clusters: expected 2 to 5; got 6"),
        ({"seed": -1}, "--seed: expected 0 <= seed"),
    ],
)
def test_numbers_out_of_range_are_refused(run, options, said):
    with refused(said):
        features(run, **options)
