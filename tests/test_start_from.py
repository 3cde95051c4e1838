"""New runs that begin with the parameters of another, or take its place."""

import shutil
from functools import partial
from math import sqrt
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from tiny_runs import exit_code, metrics, tiny, tree
from torch import Tensor

import ppl_vae.fit
from guides import ClassifyingNormal
from models import MLP, LabelledMixture, Mixture, Spec, VampPrior
from models.mixture import _LEAST_VARIANCE
from ppl_vae import load
from ppl_vae.errors import InputError
from ppl_vae.fit import resume
from ppl_vae.objectives import IWAE, SemiSupervisedELBO
from ppl_vae.runs.directory import locked
from ppl_vae.training.step import SVIStep

pytestmark = pytest.mark.usefixtures("no_pictures")

small = partial(tiny, epochs=1, batch_size=400)


@pytest.fixture
def first_steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The parameters and the optimizer's state before each step."""
    states: list[dict[str, Tensor]] = []
    original = SVIStep.__call__

    def call(self: SVIStep, *arguments) -> Tensor:
        state = self.pair.state_dict() | self.state()
        states.append({name: value.detach().clone() for name, value in state.items()})
        return original(self, *arguments)

    monkeypatch.setattr(SVIStep, "__call__", call)
    return states


def test_clusters_begin_where_a_vae_has_its_codes(
    tmp_path: Path, first_steps: list[dict[str, Tensor]]
) -> None:
    other = small(tmp_path / "other", epochs=30, batch_size=100, learning_rate=0.01)
    mixture = partial(Mixture, components=4)
    first_steps.clear()
    run = small(tmp_path / "run", model=mixture, start_from=other, seed=5)
    clusters = ("logits", "loc", "log_scale")
    first = {name: first_steps[0].pop(f"model.{name}") for name in clusters}
    for program in (other.model, other.guide):
        role = "model" if program is other.model else "guide"
        for name, value in program.state_dict().items():
            assert torch.equal(first_steps[0][f"{role}.{name}"], value), name
    (x,) = other.data.train.batch(slice(None), labelled=False)
    q = other.guide.posterior(x).base_dist
    # At a stationary point of the likelihood the mean and spread of the mixture are those of q(z).
    weights, error = first["logits"].softmax(0), 5 / len(x) ** 0.5  # standard errors of q(z)'s mean
    assert torch.allclose(weights @ first["loc"], q.mean.mean(0), atol=error)
    squares = first["loc"] ** 2 + (2 * first["log_scale"]).exp()
    assert torch.allclose(weights @ squares, (q.mean**2 + q.variance).mean(0), rtol=2 * error)
    again = small(tmp_path / "again", model=mixture, start_from=other, seed=5)
    assert metrics(again.path) == metrics(run.path)
    small(tmp_path / "further", model=mixture, start_from=run)  # which has clusters of its own


def test_clusters_fit_dimensions_that_hold_nothing(tmp_path: Path) -> None:
    """There the means of q(z|x) hardly vary, and its draws are those of N(0, 1)."""
    train = partial(small, latent_dim=20, batch_size=100)
    other = train(tmp_path / "other", epochs=30, learning_rate=0.01)
    model = partial(Mixture, components=4)
    run = train(tmp_path / "run", model=model, start_from=other, learning_rate=1e-9)
    assert metrics(other.path)[-1]["validation_rate_nats_per_datum"] < 10
    before, after = (metrics(r.path)[-1]["validation_elbo_nats_per_datum"] for r in (other, run))
    assert after > before - 0.5  # of a prior that fits q(z) at least about as well


@pytest.mark.parametrize("full_rank", [False, True])
def test_clusters_are_those_that_codes_were_drawn_from(full_rank: bool) -> None:
    """Three thin slabs, one over the other, which k-means in z would cut across."""
    torch.manual_seed(0)
    y = torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), 1000, replacement=True)
    codes = torch.tensor([9.0, 9.0, 1.0]) * torch.rand(1000, 3)
    codes[:, 2] += 4 * y
    codes[:, 1] += codes[:, 0]
    across = KMeans(3, n_init=5, random_state=0).fit_predict(codes.numpy())
    assert adjusted_rand_score(y, across) < 0.7
    model = Mixture(Spec((1, 2, 2), "binary", 3), components=3, full_rank=full_rank)
    model.fit_codes(codes, labels=None, seed=0)
    near = partial(torch.testing.assert_close, rtol=1e-5, atol=10 * _LEAST_VARIANCE)
    for slab, place in enumerate(model.logits.argsort()):
        own, cluster = codes[y == slab], model.component(place)
        near(model.logits.exp()[place], torch.tensor(len(own) / len(codes)))
        near(cluster.mean, own.mean(0))
        near(cluster.variance, own.var(0, correction=0))
        if full_rank:
            near(cluster.covariance_matrix, own.T.cov(correction=0))


@pytest.mark.parametrize("full_rank", [False, True])
def test_clusters_with_labels_begin_where_their_labels_spread(full_rank: bool) -> None:
    """A ring around a blob, one label each: nearest to a label is not what is of its class."""
    torch.manual_seed(0)
    angles = 2 * torch.pi * torch.rand(700)
    ring = 4 * torch.stack([angles.cos(), angles.sin()], -1) + 0.1 * torch.randn(700, 2)
    blob = 0.5 * torch.randn(300, 2)
    codes, labels = torch.cat([blob, ring]), torch.full((1000,), -1)
    labels[0], labels[300] = 1, 0
    nearer = (codes - codes[300]).norm(dim=-1) < (codes - codes[0]).norm(dim=-1)
    assert nearer[300:].float().mean() < 0.7
    far = 100 + torch.randn(50, 2)  # which no label reaches
    model = LabelledMixture(Spec((1, 2, 2), "binary", 2, 2), full_rank=full_rank)
    model.fit_codes(torch.cat([codes, far]), torch.cat([labels, -torch.ones(50)]).long(), seed=0)
    near = partial(torch.testing.assert_close, rtol=1e-5, atol=10 * _LEAST_VARIANCE)
    within = torch.cat([ring - ring.mean(0), blob - blob.mean(0)]).var(0, correction=0)
    for y, own in ((0, ring), (1, blob)):
        cluster = model.component(torch.tensor(y))
        near(model.logits.exp()[y], torch.tensor(len(own) / 1000))
        near(cluster.mean, own.mean(0))
        near(cluster.variance, (len(own) * own.var(0, correction=0) + 2 * within) / (len(own) + 2))
    labels[0] = -1
    with pytest.raises(ValueError, match=r"a label of each class among 1,000 .* number 1 has none"):
        model.fit_codes(codes, labels, seed=0)


def test_a_label_that_its_neighbours_overrule_stays_in_its_class() -> None:
    """One image of class 1 amid many of class 0: its cluster has that image, and a width."""
    torch.manual_seed(0)
    codes, labels = torch.randn(200, 3), torch.zeros(200).long()
    labels[7] = 1
    model = LabelledMixture(Spec((1, 2, 2), "binary", 3, 2), full_rank=True)
    model.fit_codes(codes, labels, seed=0)
    torch.testing.assert_close(model.loc[1], codes[7])
    assert (model.component(torch.tensor(1)).stddev > 0.5).all()


def test_clusters_of_unseen_classes_are_no_start_for_classes(tmp_path: Path) -> None:
    model = partial(Mixture, components=10)
    other = small(tmp_path / "other", model=model)
    pieces = {"model": LabelledMixture, "guide": ClassifyingNormal, "labels": 20}
    pieces["objective"] = SemiSupervisedELBO()
    with pytest.raises(InputError, match="its clusters are not numbered as the classes"):
        small(tmp_path / "run", start_from=other, **pieces)
    first = small(tmp_path / "first", **pieces)
    small(tmp_path / "second", start_from=first, **pieces)


def test_labels_that_are_repeated_spread_once(tmp_path: Path, monkeypatch) -> None:
    other = small(tmp_path / "other")
    seen: list[tuple[Tensor, Tensor]] = []
    fit_codes = LabelledMixture.fit_codes

    def fit(self: LabelledMixture, z: Tensor, labels: Tensor, seed: int) -> None:
        seen.append((z, labels))
        fit_codes(self, z, labels, seed)

    monkeypatch.setattr(LabelledMixture, "fit_codes", fit)
    pieces = {"model": LabelledMixture, "guide": ClassifyingNormal}
    labels = {"labels": 20, "label_repeats": 7, "objective": SemiSupervisedELBO()}
    run = small(tmp_path / "run", start_from=other, **pieces, **labels)
    ((z, known),) = seen
    assert z.shape == (1297, 2)
    assert len(z.unique(dim=0)) == 1297
    assert (known[:20] >= 0).all()
    assert torch.bincount(known[:20]).tolist() == [2] * 10
    assert (known[20:] == -1).all()
    assert run.summary["training_images"] == 1297 + 6 * 20


def test_a_cluster_of_one_image_and_one_dimension_starts() -> None:
    codes = torch.tensor([[0.0], [0.1], [9.0]])
    for full_rank in (False, True):
        model = Mixture(Spec((1, 2, 2), "binary", 1), components=2, full_rank=full_rank)
        model.fit_codes(codes, labels=None, seed=0)
        order = model.loc[:, 0].argsort()
        variances = (2 * model.log_scale[order, 0]).exp()
        torch.testing.assert_close(variances, torch.tensor([0.05**2, 0]) + _LEAST_VARIANCE)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_clusters_of_full_rank_learn_from_where_they_start(
    tmp_path: Path, first_steps: list[dict[str, Tensor]], engine: str
) -> None:
    other = small(tmp_path / "other")
    first_steps.clear()
    pieces = {"model": partial(Mixture, components=3, full_rank=True), "engine": engine}
    run = small(tmp_path / "run", start_from=other, batch_size=100, average=0.5, **pieces)
    for name, value in run.model.state_dict().items():
        began = first_steps[0][f"model.{name}"]
        assert not torch.equal(began, value), name
        if name in Mixture.of_codes:
            # 13 steps, each at most (1 - b1) / sqrt(1 - b2) of the rate (Kingma and Ba, 2015, 2.1).
            furthest = 13 * 1e-3 * 0.1 / sqrt(0.001)
            torch.testing.assert_close(began, value, rtol=0, atol=furthest)
    above = torch.triu(torch.ones(2, 2)).bool()
    assert (run.model.below[:, above] == 0).all()


@pytest.mark.parametrize("options", [{}, {"patience": 1}, {"average": 0.9}], ids=str)
def test_a_run_begins_where_another_ended(
    tmp_path: Path, first_steps: list[dict[str, Tensor]], options: dict
) -> None:
    """With an optimizer, a seed and an objective of its own; a prior does not begin again."""
    other = small(tmp_path / "other", prior=partial(VampPrior, components=3), **options)
    first_steps.clear()
    run = small(
        tmp_path / "run", prior=partial(VampPrior, components=3), start_from=other,
        objective=IWAE(particles=2), seed=5, learning_rate=0.01, batch_size=100,
    )  # fmt: skip
    kept = load(other.path)
    for program in (kept.model, kept.guide):
        role = "model" if program is kept.model else "guide"
        for name, value in program.state_dict().items():
            assert torch.equal(first_steps[0][f"{role}.{name}"], value), name
    counts = [value for name, value in first_steps[0].items() if name.startswith("step.")]
    assert counts
    assert all(count == 0 for count in counts)
    assert run.config["start_from"] == str(other.path)
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == run.config
    assert run.summary["steps"] == 13


def test_it_goes_on_without_the_other_run(tmp_path: Path) -> None:
    other = small(tmp_path / "other").path
    path = small(tmp_path / "run", start_from=other).path
    shutil.rmtree(other)
    resume(path, epochs=2)
    assert len(metrics(path)) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latent_dim": 3}, r"\.weight of shape \(8, 3\); got \(8, 2\)"),
        ({"network": MLP}, r"weight of shape \(500, 2\); got \(8, 2\)"),
        ({"model": Mixture, "network": MLP}, r"weight of shape \(500, 2\); got \(8, 2\)"),
        ({"prior": VampPrior}, r"model\.prior\.\w+ of shape .*; got none"),
        ({"start_from": "nowhere"}, "nowhere: expected a run directory"),
    ],
)
def test_a_pair_of_another_shape_is_refused(tmp_path: Path, options: dict, said: str) -> None:
    other = small(tmp_path / "other").path
    with pytest.raises(InputError, match=said) as caught:
        small(tmp_path / "run", **({"start_from": other} | options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "remedy"),
    [({}, "choose the pieces of that run"), ({"model": Mixture}, "with the prior StandardNormal")],
)
def test_a_parameter_too_many_is_refused(tmp_path: Path, options: dict, remedy: str) -> None:
    other = small(tmp_path / "other", prior=VampPrior).path
    with pytest.raises(InputError, match=rf"model\.prior\.\w+ of .* none; got \(500.*{remedy}"):
        small(tmp_path / "run", start_from=other, **options)


def test_more_clusters_than_images_are_refused(tmp_path: Path) -> None:
    other = small(tmp_path / "other").path
    said = "at most 1,297 components, as many as training images; got 1,298"
    with pytest.raises(InputError, match=said):
        small(tmp_path / "run", model=partial(Mixture, components=1298), start_from=other)
    assert not (tmp_path / "run").exists()


# A run in the place of another


def test_a_run_takes_the_place_of_another(tmp_path: Path) -> None:
    path = small(tmp_path / "run", epochs=2).path
    (path / "evaluation.json").write_text("{}")
    small(path, overwrite=True, start_from=path)
    assert len(metrics(path)) == 1
    assert not (path / "evaluation.json").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    assert small(tmp_path / "new", overwrite=True).path == tmp_path / "new"


def test_the_old_run_stays_where_the_new_one_cannot_start(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(Path("run")).path
    before = tree()
    for wrong in ({"batch_size": 5000}, {"start_from": path, "latent_dim": 3}):
        with pytest.raises(InputError):
            small(path, overwrite=True, **wrong)
        assert tree() == before
    with locked(path), pytest.raises(InputError, match="trained by another process"):
        small(path, overwrite=True)
    assert tree() == before
    with pytest.raises(InputError, match=r"run exists; .* replace it with --overwrite true"):
        small(path)

    def full(*arguments) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ppl_vae.training.state.write_metrics", full)
    with pytest.raises(InputError, match="No space left on device"):
        small(path, overwrite=True)
    assert tree() == before


def test_only_a_run_is_replaced(empty_folder: Path) -> None:
    run = small(Path("run")).path
    Path("photos").mkdir()
    Path("photos/one.png").write_bytes(b"1")
    Path("mine").mkdir()
    shutil.copy(run / "config.yaml", "mine")
    Path("file").write_text("1")
    Path("link").symlink_to(run)
    before = tree()
    for name in ("photos", "mine", "file", "link"):
        with pytest.raises(InputError, match="--overwrite replaces runs only") as caught:
            small(Path(name), overwrite=True)
        assert "\n" not in str(caught.value)
        assert tree() == before


def test_on_the_command_line(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(Path("run"))
    same = ["--network.hidden", "[8]", "--latent_dim", "2", "--epochs", "2"]
    place = ["--run", "run", "--overwrite", "true"]
    assert exit_code(ppl_vae.fit, *same, *place, "--start_from", "run") == 0
    assert load("run").config["start_from"] == "run"
    assert len(metrics(Path("run"))) == 2
    assert exit_code(ppl_vae.fit, *same, "--overwrite", "true") == 2
    assert "--overwrite: expected --run too" in capsys.readouterr().err
    assert exit_code(ppl_vae.fit, "--resume", "run", "--start_from", "run") == 2
    assert "leave out --start_from" in capsys.readouterr().err
