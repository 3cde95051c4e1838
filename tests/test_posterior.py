"""The report: its page, its numbers, what it says where it has no answer, and what it refuses."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from functools import partial
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import MeanField

import ppl_vae.fit
import ppl_vae.posterior as verb
import ppl_vae.report.gap
from guides import ConditionalNormal, DiagonalNormal, FullRankNormal
from models import MLP, Conditional, Gaussian, Linear, ProbabilisticPCA, Spec
from ppl_vae.data import Arrays, Digits
from ppl_vae.densities.weights import log_weights
from ppl_vae.errors import InputError
from ppl_vae.fit import fit
from ppl_vae.inference.bridge import bridge_log_likelihood
from ppl_vae.inference.gaps import Gaps, gap_decomposition
from ppl_vae.inference.netcdf import read_datatree
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.posterior import main, posterior
from ppl_vae.report.calibrated import verdict
from ppl_vae.report.comparison import comparable
from ppl_vae.report.gap import gap
from ppl_vae.report.inspection import Effort, Inspection, choose_images
from ppl_vae.report.latent import _label
from ppl_vae.report.page import page
from ppl_vae.report.predicted import nearest, pixel_differences
from ppl_vae.report.section import Section, Table
from ppl_vae.runs.run import Run

QUICK: dict[str, Any] = {
    "count": 12,
    "draws": 100,
    "predictive_draws": 8,
    "particles": 50,
    "gap_images": 3,
    "gap_steps": 10,
    "shown": 2,
    "nuts_draws": 8,
    "temperatures": 4,
    "simulations": 100,
}
SECTIONS = ("guide", "gap", "posterior", "log_likelihood", "calibration", "latent", "comparison")


def train(path: Path, **options: Any) -> Run:
    chosen = {"network": partial(MLP, hidden=(8,)), "latent_dim": 2, "epochs": 2, "device": "cpu"}
    return fit(run=path, **{"data": Digits(), **chosen, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
        folder = tmp_path_factory.mktemp("runs")
        first = train(folder / "first")
        return [first, train(folder / "second", guide=FullRankNormal, seed=1)]


@pytest.fixture(scope="module")
def result(runs: list[Run]) -> dict[str, Any]:
    return posterior(runs[0], [runs[1]], **QUICK)


def test_every_question_is_answered(runs: list[Run], result: dict[str, Any]) -> None:
    assert json.loads((runs[0].path / "posterior.json").read_text()) == result
    for name in SECTIONS:
        assert result[name]["unanswered"] is None, name
        assert len(result[name]) > 4, name


def test_the_page_needs_nothing_but_itself(runs: list[Run], result: dict[str, Any]) -> None:
    text = (runs[0].path / "posterior.html").read_text()
    assert "http" not in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    pictures = [b64decode(source.partition(",")[2]) for source in sources if source[0] != "#"]
    assert len(pictures) >= 15
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    for name in SECTIONS:
        assert f'<section id="{name}">' in text
    assert "nan" not in re.sub(r'"data:[^"]*"', "", text).lower().split()


def test_the_numbers_are_those_of_the_tree(runs: list[Run], result: dict[str, Any]) -> None:
    tree = read_datatree(runs[0].path / "posterior.nc")
    assert tree["posterior"]["image"].values.tolist() == result["images"]
    statistics = {
        name: torch.as_tensor(tree["sample_stats"][name].values.reshape(100, 12)).double()
        for name in tree["sample_stats"].data_vars
    }
    weights = statistics["log_weight"]
    diagnosis = pareto_k(weights)
    assert result["guide"]["k_hat"] == diagnosis.k_hat.tolist()
    assert result["guide"]["ess"] == diagnosis.ess.tolist()
    worst = result["images"][diagnosis.k_hat.argmax()]
    assert result["guide"]["worst_images"][0] == worst
    rate = (statistics["log_guide"] - statistics["log_prior"]).mean().item()
    assert result["latent"]["rate_nats_per_datum"] == pytest.approx(rate, abs=1e-5)
    elbo = weights.mean().item()
    latent = result["latent"]
    total = -(latent["rate_nats_per_datum"] + latent["distortion_nats_per_datum"])
    assert total == pytest.approx(elbo, abs=1e-4)
    labels = runs[0].data.test.labels
    assert labels is not None
    assert tree["constant_data"]["label"].values.tolist() == labels[result["images"]].tolist()


def test_the_gaps_sum_to_the_whole(result: dict[str, Any]) -> None:
    gaps = {name: result["gap"][f"{name}_nats_per_datum"] for name in (
        "log_likelihood", "elbo", "approximation_gap", "amortization_gap", "gap"
    )}  # fmt: skip
    assert gaps["gap"] == pytest.approx(gaps["log_likelihood"] - gaps["elbo"], abs=1e-8)
    parts = gaps["approximation_gap"] + gaps["amortization_gap"]
    assert gaps["gap"] == pytest.approx(parts, abs=1e-8)
    for name in ("approximation_gap", "amortization_gap"):
        errors = result["gap"][f"{name}_nats_standard_error"]
        assert len(errors) == len(result["gap"][f"{name}_nats"])
        assert all(error > 0 for error in errors)


def test_the_gap_is_whole_where_the_family_is_poor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean-field guide on a posterior correlated in six dimensions: log p(x) is known."""
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    run = train(tmp_path / "run", model=ProbabilisticPCA, network=Linear, latent_dim=6, epochs=1)
    with torch.no_grad():
        run.model.loadings.copy_(torch.randn(64, 1) + 0.2 * torch.randn(64, 6))
        run.model.log_scale.zero_()
    effort = Effort(**{name: QUICK[name] for name in Effort.__annotations__})
    effort = replace(effort, gap_images=8, gap_steps=400, temperatures=1600)
    run = replace(run, guide=MeanField(run.model, 0.0))
    inspection = Inspection(run, [], "test", torch.arange(8), None, effort, 0)  # type: ignore[arg-type]
    section = Section("gap", "?")
    gap(inspection, section)
    exact = run.model.log_likelihood(inspection.batch()[0]).mean().item()
    assert section.numbers["k_hat_above_0_7_fraction"] > 0.5
    gaps = gap_decomposition(run.model, run.guide, inspection.batch(), particles=2000, steps=400)
    sampled = gaps.log_likelihood.mean().item()
    found = section.numbers["log_likelihood_nats_per_datum"]
    assert abs(found - exact) < abs(sampled - exact) / 2
    assert found == pytest.approx(exact, abs=0.5)


def test_intervals_cover_a_likelihood_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilistic PCA: every method, and the two bounds on simulated images."""
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    run = train(tmp_path / "run", model=ProbabilisticPCA, network=Linear)
    run = replace(run, guide=MeanField(run.model, 0.05))
    monkeypatch.setattr(verb, "_QUESTIONS", verb._QUESTIONS[3:4])
    effort = {"particles": 3000, "nuts_draws": 100, "temperatures": 200, "shown": 5}
    found = posterior(run, **QUICK | effort)["log_likelihood"]
    assert found["unanswered"] is None
    exact = run.model.log_likelihood(run.data.test[found["images"]]).tolist()
    covered = [
        low <= known <= high
        for name in ("importance_sampling", "ais", "ais_from_guide", "appendix_d")
        for low, known, high in zip(
            found[f"{name}_lower_nats"], exact, found[f"{name}_upper_nats"], strict=True
        )
    ]
    assert sum(covered) >= 19
    np.testing.assert_allclose(found["appendix_d_nats"], exact, atol=0.1)
    np.testing.assert_allclose(found["ais_from_guide_nats"], exact, atol=0.3)
    error = found["bidirectional_gap_nats_standard_error"]
    assert abs(found["bidirectional_gap_nats"]) < 4 * error + 0.05
    assert len(found["bidirectional_above_nats"]) == found["bidirectional_images"] == 10


def test_a_gap_below_zero_hangs_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked on a negative gap, the other would cover it and end too low."""
    figures: list[Any] = []
    monkeypatch.setattr(ppl_vae.report.gap, "picture_of", lambda figure, _: figures.append(figure))
    zeros = dict.fromkeys(Gaps.__annotations__, torch.zeros(3))
    gaps = {
        "approximation_gap": torch.tensor([0.2, -0.1, -0.1]),
        "amortization_gap": torch.tensor([0.3, 0.2, -0.2]),
    }
    ppl_vae.report.gap._bars(Gaps(**zeros | gaps))
    blue, orange = figures[0].axes[0].containers
    spans = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in orange]
    np.testing.assert_allclose(spans, [(0.2, 0.5), (0, 0.2), (-0.1, -0.3)], atol=1e-6)
    np.testing.assert_allclose([bar.get_height() for bar in blue], [0.2, -0.1, -0.1], atol=1e-6)


def test_a_model_given_the_class_is_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    run = train(tmp_path / "run", model=Conditional, guide=ConditionalNormal)
    monkeypatch.setattr(verb, "_QUESTIONS", verb._QUESTIONS[:2] + verb._QUESTIONS[4:6])
    found = posterior(run, **QUICK)
    assert all(found[name]["unanswered"] is None for name in ("guide", "gap", *SECTIONS[4:6]))


def test_runs_are_compared_on_the_same_images(runs: list[Run], result: dict[str, Any]) -> None:
    """The paired difference against a computation from scratch, within the noise of the draws."""
    comparison = result["comparison"]
    x = runs[0].data.test[result["images"]]
    with torch.no_grad():
        first, second = (
            (log_weights(run.model, run.guide, x, 5000).logsumexp(0) - log(5000)).double()
            for run in runs
        )
    difference = first - second
    (pair,) = comparison["differences"]
    assert pair["nats_per_datum"] == pytest.approx(difference.mean().item(), abs=0.2)
    error = (difference.std() / sqrt(12)).item()
    assert pair["nats_per_datum_standard_error"] == pytest.approx(error, rel=0.5)
    by_run = comparison["log_likelihood_nats_per_datum"]
    sums = {row["run"]: row["elpd"] / 12 for row in comparison["arviz"]}
    assert sums == pytest.approx(by_run)
    assert sum(row["weight"] for row in comparison["arviz"]) == pytest.approx(1)
    assert [row["beta"] for row in result["latent"]["runs"]] == [1.0, 1.0]  # the ELBO's


@pytest.mark.slow
def test_one_seed_gives_one_result(runs: list[Run], result: dict[str, Any]) -> None:
    again = posterior(runs[0], [runs[1]], **QUICK)

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(each) for key, each in value.items() if key != "seconds"}
        return value

    assert timeless(again) == timeless(result)


def test_without_labels_and_two_dimensions_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((60, 4, 4)).astype("float32"))
    run = train(
        tmp_path / "run",
        data=Arrays(path=tmp_path / "images.npy"),
        likelihood=Gaussian,
        network=Linear,
        latent_dim=3,
        batch_size=20,
    )
    monkeypatch.setattr(verb, "_QUESTIONS", verb._QUESTIONS[4:])
    found = posterior(run, **QUICK | {"count": 4})
    text = (run.path / "posterior.html").read_text()
    assert "There is no scatter" in text
    assert "one run was given" in found["comparison"]["unanswered"]
    assert all(found[name]["unanswered"] is None for name in SECTIONS[4:-1])
    assert "constant_data" not in read_datatree(run.path / "posterior.nc").children
    with pytest.raises(InputError, match="has no labels"):
        posterior(run, label=1, **QUICK)


def test_runs_of_the_same_beta_are_told_apart() -> None:
    rows = [
        {"run": f"runs/{name}", "beta": beta}
        for name, beta in zip("abcd", (1, 1, 4, None), strict=True)
    ]
    labels = [_label(row, rows) for row in rows]
    assert labels == ["a, β = 1", "b, β = 1", "β = 4", "d"]


def test_one_latent_outside_its_band_is_no_verdict() -> None:
    """One histogram in twenty leaves its band by chance."""
    assert verdict(0, 10, 2000).startswith("In all 10 active latents")
    assert "chance" in verdict(1, 10, 2000)
    assert verdict(4, 10, 2000).startswith("No: of 10 active latents, the ranks of 4")


def test_a_run_on_other_data_is_not_compared(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    other = train(tmp_path / "other", data=Digits(binarize="threshold"))
    third = train(tmp_path / "third", likelihood=Gaussian)
    inspection: Any = Inspection(
        runs[0], [], "test", torch.arange(5), None, None, 0  # type: ignore[arg-type]
    )  # fmt: skip
    assert comparable(inspection, runs[1]) is None
    assert "its images are not the same" in str(comparable(inspection, other))
    assert "with respect to" in str(comparable(inspection, third))


def test_images_are_chosen(runs: list[Run]) -> None:
    run, data = runs[0], runs[0].data.test
    assert data.labels is not None

    def chosen(
        count: int = 5, images=None, label=None, choose="random", seed: int = 0
    ) -> list[int]:
        return choose_images(run, data, count, images, label, choose, seed).tolist()

    assert chosen(images=[7, 2]) == [7, 2]
    assert chosen(choose="first") == [0, 1, 2, 3, 4]
    assert chosen() == chosen() != chosen(seed=1)
    fours = chosen(label=4)
    assert len(fours) == 5
    assert (data.labels[fours] == 4).all()
    worst = chosen(choose="worst")
    pool = choose_images(run, data, 20, None, None, "random", 0).tolist()
    assert set(worst) <= set(pool)


def test_a_run_twice_is_refused(runs: list[Run]) -> None:
    first = replace(runs[0], path=runs[0].path / ".." / runs[0].path.name)
    with pytest.raises(InputError, match="every run once"):
        posterior(runs[0], [runs[1], first], **QUICK)


def test_help_asks_for_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "Runs to compare it with. (type" in told
    assert "The run directory. (required" in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--images", "[300]"], "--images: expected 0 to 299; got 300"),
        (["--images", "[-1]"], "--images: expected 0 to 299; got -1"),
        (["--images", "[]"], "at least one index"),
        (["--images", "[1, 1]"], "each image once"),
        (["--images", "[1]", "--label", "2"], "got both"),
        (["--label", "12"], "--label: expected one of 0, 1, 2"),
        (["--count", "0"], "--count: expected at least 1; got 0"),
        (["--draws", "8"], "--draws: expected at least 100; got 8"),
        (["--draws", "102"], "multiple of 4"),
        (["--simulations", "5"], "--simulations: expected at least 100; got 5"),
        (["--choose", "best"], "random"),
    ],
)
def test_bad_input_is_one_line(
    runs: list[Run], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(runs[0].path), *options])
    error = capsys.readouterr().err.strip()
    assert left.value.code == 2
    assert error.startswith("error: ")
    assert "\n" not in error
    assert said in error


def test_a_guide_without_density_is_refused(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiagonalNormal, "has_density", False, raising=False)
    with pytest.raises(InputError, match="has no density"):
        posterior(runs[0], **QUICK)


def test_without_arviz_the_remedy_is_named(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    with pytest.raises(InputError, match=r"arviz_plots is not installed.*ppl-vae\[arviz\]"):
        posterior(runs[0], **QUICK)


def test_bridge_sampling_finds_log_p() -> None:
    """Probabilistic PCA, a guide that is too narrow and beside the mark: the truth is known."""
    spec = Spec((1, 3, 3), "real", latent_dim=3)
    model = ProbabilisticPCA(spec, initial_scale=0.7).double()
    with torch.no_grad():
        x = model(size=6).double()
        exact = model.posterior(x)
        q = torch.distributions.Independent(
            torch.distributions.Normal(exact.mean + 0.1, 0.5 * exact.variance.sqrt()), 1
        )

        def weights(z: torch.Tensor) -> torch.Tensor:
            return model.prior().log_prob(z) + model.decode(z).log_prob(x) - q.log_prob(z)

        found = torch.stack(
            [
                bridge_log_likelihood(weights(q.sample((2000,))), weights(exact.sample((500,))))
                for _ in range(20)
            ]
        )
        error = found.std(0) / sqrt(20)
        assert (abs(found.mean(0) - model.log_likelihood(x)) < 4 * error + 2e-3).all()


def test_bridge_sampling_of_a_constant_is_exact() -> None:
    weights = torch.full((7, 2), -90.25)
    found = bridge_log_likelihood(weights, weights[:3])
    torch.testing.assert_close(found, torch.full((2,), -90.25, dtype=torch.float64))
    with pytest.raises(InputError, match="expected log-weights"):
        bridge_log_likelihood(weights, weights[:, :1])


def test_the_nearest_training_image(runs: list[Run]) -> None:
    train = runs[0].data.train
    object.__setattr__(train, "prepare", lambda raw: raw.float())
    x = train[[5, 900, 1290]] + 0.01
    distance, index = nearest(x, train, rows=100)
    brute = (x[:, None] - train[:][None]).square().flatten(2).mean(2).sqrt()
    torch.testing.assert_close(distance, brute.min(1).values, atol=1e-3, rtol=0)
    assert torch.equal(brute.gather(1, index[:, None])[:, 0], brute.min(1).values)


def test_pixels_of_one_distribution_differ_by_chance_alone() -> None:
    """Also pixels so dark that the data have none of them: standard normal, or nearly so."""
    generator = np.random.default_rng(0)
    share = np.repeat([0.0, 0.005, 0.3, 1.0], 200)
    data, drawn = (
        (generator.random((size, 1, 4, 200)) < share.reshape(1, 4, 200)).astype("uint8")
        for size in (500, 20_000)
    )
    apart = pixel_differences(data, drawn)[0]
    assert (apart[[0, 3]] == 0).all()
    assert (np.abs(apart[1:3]).max(1) < 4.5).all()
    np.testing.assert_allclose(apart[1:3].std(1), 1, atol=0.2)
    drawn[:, :, 2] = generator.random((20_000, 1, 200)) < 0.5
    assert (pixel_differences(data, drawn)[0, 2] > 5).all()


def test_text_is_escaped() -> None:
    section = Section("a", "b", text=["x < y & z"], tables=[Table("<t>", ["<c>"], [["<d>"]])])
    text = page("<run>", ["<fact>"], [section])
    assert "x &lt; y &amp; z" in text
    for raw in ("<run>", "<fact>", "<t>", "<c>", "<d>"):
        assert raw not in text
