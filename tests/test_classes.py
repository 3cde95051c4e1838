"""Labels kept, classes scored, and pictures by class."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import ppl_vae
from guides import ClassifyingNormal, ConditionalNormal, SemiSupervisedNormal
from models import Conditional, LabelledMixture, Mixture, SemiSupervised
from ppl_vae.data import Arrays, Digits, Split
from ppl_vae.data.source import fixed_order
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.fit import fit
from ppl_vae.generate import generate, interpolate, reconstruct, sample, traverse
from ppl_vae.latents.views_by_class import analogies, clusters
from ppl_vae.objectives import SemiSupervisedELBO
from ppl_vae.pictures import plots

PAIRS = {
    "m2": {
        "model": SemiSupervised,
        "guide": SemiSupervisedNormal,
        "objective": SemiSupervisedELBO(),
        "labels": 100,
    },
    "clusters": {"model": Mixture},
    "labelled clusters": {
        "model": LabelledMixture,
        "guide": ClassifyingNormal,
        "objective": SemiSupervisedELBO(),
        "labels": 100,
    },
    "conditional": {"model": Conditional, "guide": ConditionalNormal},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    common = {"epochs": 1, "batch_size": 400, "latent_dim": 3, "device": "cpu"}
    return {name: fit(**PAIRS[name], **common, run=folder / name) for name in PAIRS}


def split_of(labels: list[int]) -> Split:
    return Split(torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), lambda raw: raw)


def test_labels_are_kept_evenly_and_by_the_seed() -> None:
    train = Digits().load("binary", 0).train
    before = torch.get_rng_state()
    kept = train.keep_labels(103, 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    counts = torch.bincount(kept.labels[kept.labels >= 0], minlength=10)
    assert counts.sum() == 103
    assert set(counts.tolist()) == {10, 11}
    known = kept.labels >= 0
    assert torch.equal(kept.labels[known], train.labels[known])
    assert torch.equal(kept.labels, train.keep_labels(103, 10, seed=1).labels)
    assert not torch.equal(kept.labels, train.keep_labels(103, 10, seed=2).labels)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "expected 2, one for each class, to 4"),
        (1, "expected 2, one for each class, to 4"),
        (5, "expected 2, one for each class, to 4"),
        (4, "at most 2, since class 1 has 1"),
    ],
)
def test_labels_that_are_not_there_cannot_be_kept(count: int, said: str) -> None:
    split = split_of([0, 0, 0, 1, -1])
    with pytest.raises(InputError, match=said):
        split.keep_labels(count, 2, seed=0)
    assert sorted(split.keep_labels(2, 2, seed=0).labels.tolist()) == [-1, -1, -1, 0, 1]
    with pytest.raises(InputError, match="class 2 has no training image with a label"):
        split.keep_labels(3, 3, seed=0)


@pytest.mark.parametrize(
    "numbers", [np.arange(1, 11), np.array([0, 2, 3, 5, 7, 11, 13, 17, 19, 23])]
)
def test_labels_that_skip_numbers_name_their_classes(tmp_path, numbers) -> None:
    pixels = np.random.default_rng(0).random((400, 4, 4)) < 0.5
    labels = numbers[np.arange(400) % 10]
    labels[7] = -1
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    data = Arrays(path=tmp_path / "images.npz").load("binary", 0)
    assert data.classes == 10
    assert data.class_names == tuple(map(str, numbers))
    order = fixed_order(400)
    given = np.concatenate([getattr(data, s).labels for s in ("test", "validation", "train")])
    names = np.array([*numbers, -1])
    np.testing.assert_array_equal(names[given], labels[order])
    kept = data.train.keep_labels(100, data.classes, seed=0).labels
    assert torch.bincount(kept[kept >= 0]).tolist() == [10] * 10
    assert data.label_of(int(numbers[3])) == 3
    with pytest.raises(InputError, match=r"expected one of .*; got 4000"):
        data.label_of(4000)


def test_labelled_images_are_repeated() -> None:
    raw = torch.arange(5.0).reshape(5, 1, 1, 1)
    split = Split(raw, torch.tensor([-1, 1, -1, 0, -1]), lambda raw: raw)
    again = split.repeat_labelled(3)
    assert again[:].flatten().tolist() == [0, 1, 2, 3, 4, 1, 3, 1, 3]
    assert again.labels is not None
    assert again.labels.tolist() == [-1, 1, -1, 0, -1, 1, 0, 1, 0]
    same = split.repeat_labelled(1)
    assert torch.equal(same[:], split[:])


def test_a_run_has_its_labels_so_often(tmp_path: Path) -> None:
    common = {"epochs": 1, "batch_size": 400, "latent_dim": 3, "device": "cpu", "label_repeats": 5}
    run = fit(**PAIRS["m2"], **common, run=tmp_path / "run")
    assert run.summary["training_images"] == 1297 + 4 * 100
    for wrong, said in (
        ({"label_repeats": 0}, ">= 1"),
        ({"labels": None}, "expected --labels too"),
    ):
        with pytest.raises(InputError, match=f"--label_repeats.* {said}"):
            fit(**{**PAIRS["m2"], **common, **wrong}, run=tmp_path / "refused")


def test_evaluate_scores_the_classes(runs) -> None:
    for name, run in runs.items():
        evaluate(ppl_vae.load(run.path, "cpu"), particles=2)
        result = json.loads((run.path / "evaluation.json").read_text())
        assert ("classification_error_percent" in result) == (name in ("m2", "labelled clusters"))
        assert ("clustering_accuracy_percent" in result) == (name == "clusters")
    run = runs["m2"]
    guessed = run.guide.classify(run.data.test[:]).probs.argmax(-1)
    expected = 100 - 100 * accuracy_score(run.data.test.labels, guessed)
    result = json.loads((run.path / "evaluation.json").read_text())
    assert result["classification_error_percent"] == pytest.approx(expected)
    share = expected / 100
    error = 100 * np.sqrt(share * (1 - share) / 299)
    assert result["classification_error_percent_standard_error"] == pytest.approx(error)


@pytest.mark.parametrize("name", PAIRS)
def test_every_way_to_look_works_with_classes(runs, name: str) -> None:
    run = runs[name]
    shape = run.data.image_shape
    assert sample(run, 5)["mean"].shape == (5, *shape)
    assert reconstruct(run, count=3)["mean"].shape == (3, *shape)
    assert traverse(run, count=2, steps=3)["mean"].shape == (3, 2, 3, *shape)
    assert interpolate(run, count=2, steps=4)["mean"].shape == (2, 4, *shape)
    drawn = sample(run, 4, label=7)
    assert drawn["y"].tolist() == [7] * 4
    with pytest.raises(InputError, match=r"label of 0 to 9|--label: expected one of 0, 1, 2, 3, 4"):
        sample(run, label=10)


def test_an_analogy_is_the_decoder_at_each_class(runs) -> None:
    run = runs["conditional"]
    arrays = analogies(run, count=4)
    assert arrays["mean"].shape == (4, 10, *run.data.image_shape)
    assert arrays["y"].tolist() == run.data.test.labels[:4].tolist()
    z = torch.from_numpy(arrays["z"])
    with torch.no_grad():
        expected = run.model.decode(z, torch.full((4,), 6)).mean
    np.testing.assert_allclose(arrays["mean"][:, 6], expected, rtol=1e-4, atol=1e-6)
    assert [path.name for path in generate(run, "analogies", count=2)] == [
        "analogies.png",
        "analogies.npz",
    ]
    for other in ("clusters", "labelled clusters"):
        with pytest.raises(InputError, match="Mixture's does not"):
            analogies(runs[other])


def test_pictures_of_a_class_say_which(runs, tmp_path, monkeypatch) -> None:
    titles: list[tuple] = []
    of_a_cluster = ("$E[x|z]$,  $z \\sim p(z|y=3)$", "$x \\sim p(x|z)$,  the same $z$")
    monkeypatch.setattr(plots, "image_grid", lambda *_, **o: titles.append(o["block_titles"]))
    for name, mean, draw in (
        ("conditional", "$E[x|z, y=3]$,  $z \\sim p(z)$", "$x \\sim p(x|z, y=3)$,  the same $z$"),
        ("m2", "$E[x|z, y=3]$,  $z \\sim p(z)$", "$x \\sim p(x|z, y=3)$,  the same $z$"),
        ("clusters", *of_a_cluster),
        ("labelled clusters", *of_a_cluster),
    ):
        written = generate(runs[name], "sample", count=4, label=3, out=tmp_path / name)
        assert [path.name for path in written] == ["sample-label-3.png", "sample-label-3.npz"]
        generate(runs[name], "sample", count=4, out=tmp_path / name)
        assert titles.pop(0) == (mean, draw)
        assert titles.pop() == tuple(
            t.replace("y=3", "y").replace("|y)", ")") for t in (mean, draw)
        )
        assert not (runs[name].path / "generated" / "sample-label-3.npz").exists()


@pytest.mark.parametrize("name", ["$^{", "a $ b", "$x$", "\\frac"])
def test_class_names_are_text(runs, tmp_path, name: str) -> None:
    run = replace(runs["conditional"])
    run.data = replace(run.data, class_names=(name,) * 10)
    assert generate(run, "analogies", count=2, out=tmp_path)[0].read_bytes()[:4] == b"\x89PNG"


def test_clusters_are_drawn_from_their_normals(runs) -> None:
    run = runs["clusters"]
    arrays = clusters(run, count=2_000)
    assert (np.diff(arrays["probabilities"]) <= 0).all()
    order = torch.from_numpy(arrays["order"])
    mean, scale = run.model.loc[order].detach(), run.model.log_scale[order].exp().detach()
    error = (torch.from_numpy(arrays["z"]).mean(1) - mean) / (scale / 2_000**0.5)
    assert (error.abs() < 4.5).all()
    with pytest.raises(InputError, match="--model Mixture"):
        clusters(runs["m2"])
    with pytest.raises(InputError, match="--label is for sample"):
        generate(run, "clusters", label=1)


def test_data_without_labels_are_refused_before_training(arrays, tmp_path) -> None:
    data = arrays(np.zeros((30, 4, 4), dtype=bool))
    common = {"data": data, "batch_size": 5, "run": tmp_path / "run"}
    for pair, remedy in (("m2", "Mixture"), ("conditional", "VAE")):
        with pytest.raises(InputError, match=f"these data have none; .*{remedy}"):
            fit(**{**PAIRS[pair], **common})
    with pytest.raises(InputError, match="VAE takes no labels; leave it out"):
        fit(labels=3, run=tmp_path / "run")
    with pytest.raises(InputError, match=r"Conditional needs the label .* SemiSupervised"):
        fit(**PAIRS["conditional"], labels=100, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_without_a_label_among_others(tmp_path) -> None:
    labels = np.arange(60) % 3
    labels[::2] = -1
    pixels = np.random.default_rng(0).random((60, 4, 4)) < 0.5
    np.savez(tmp_path / "some.npz", images=pixels, labels=labels)
    data = Arrays(path=tmp_path / "some.npz")
    run = fit(
        **{**PAIRS["m2"], "labels": None}, data=data, epochs=1, batch_size=10, run=tmp_path / "run"
    )
    assert run.spec.classes == 3
    assert evaluate(run, particles=2)["classification_error_percent"] is not None
