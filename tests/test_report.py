"""The sections of the report against numbers that are known, and the words that go with them."""

from dataclasses import replace
from math import inf, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracles import MeanField, Posterior, mean_field_gap, ppca
from reports import QUICK, first_images, inspection_of, train
from scipy.special import logsumexp

import ppl_vae.posterior as verb
import ppl_vae.report.gap
import ppl_vae.report.true_posterior
from guides import ClassifyingNormal, ConditionalNormal, SemiSupervisedNormal
from models import (
    Conditional,
    Gaussian,
    LabelledMixture,
    Linear,
    ProbabilisticPCA,
    SemiSupervised,
    Spec,
)
from ppl_vae.data import Digits
from ppl_vae.densities.joint import Joint
from ppl_vae.inference.gaps import Gaps, gap_decomposition
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import SemiSupervisedELBO
from ppl_vae.pictures.figures import INK, ORANGE
from ppl_vae.posterior import posterior
from ppl_vae.report.calibrated import verdict
from ppl_vae.report.comparison import _arviz, comparable, comparison
from ppl_vae.report.gap import gap
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.intervals import _importance, intervals
from ppl_vae.report.latent import _label, information_bounds, latent
from ppl_vae.report.page import number, page, rendered
from ppl_vae.report.section import Section
from ppl_vae.report.true_posterior import true_posterior
from ppl_vae.runs.run import Run

# Of ArviZ and pandas; `posterior` hides them too.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def inspection(runs: list[Run]) -> Inspection:
    quick = inspection_of(runs[0], 12)
    tree = verb._draw(runs[0], "test", first_images(runs[0], 12), 100, 8, 0)
    return replace(quick, tree=tree)


def words(inspection: Inspection, section: Section) -> str:
    """The text of a section in one line, without its pictures."""
    which = inspection.selection.phrase
    x = "x, y" if inspection.log_p == "log p(x|y)" else "x"
    html = rendered(section, log_p=inspection.log_p, x=x, which=which, split=inspection.split_name)
    return " ".join(html.split())


def test_the_gap_is_whole_where_the_family_is_poor(tmp_path: Path) -> None:
    """A mean-field guide on a posterior correlated in six dimensions: log p(x) is known."""
    run = train(tmp_path / "run", model=ProbabilisticPCA, network=Linear, latent_dim=6, epochs=1)
    with torch.no_grad():
        run.model.loadings.copy_(torch.randn(64, 1) + 0.2 * torch.randn(64, 6))
        run.model.log_scale.zero_()
    run = replace(run, guide=MeanField(run.model, 0.0))
    inspection = inspection_of(run, 8, gap_images=8, gap_steps=400, temperatures=1600)
    section = Section("gap", "?")
    gap(inspection, section)
    exact = run.model.log_likelihood(inspection.batch()[0]).mean().item()
    assert section.numbers["k_hat_above_0_7_fraction"] > 0.5
    gaps = gap_decomposition(run.model, run.guide, inspection.batch(), particles=2000, steps=400)
    sampled = gaps.log_likelihood.mean().item()
    found = section.numbers["log_likelihood_nats_per_datum"]
    assert abs(found - exact) < abs(sampled - exact) / 2
    assert found == pytest.approx(exact, abs=0.5)
    # The gap is known too: on each image within four of the errors that annealing claims.
    known = mean_field_gap(run.model, inspection.batch()[0])
    for value, error, truth in zip(
        section.numbers["approximation_gap_nats"],
        section.numbers["approximation_gap_nats_standard_error"],
        known.tolist(),
        strict=True,
    ):
        assert abs(value - truth) < 4 * error + 0.1


def test_intervals_cover_a_likelihood_that_is_known(tmp_path, monkeypatch) -> None:
    """Probabilistic PCA: every method, and the two bounds on simulated images."""
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


def test_the_marginals_have_a_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(ppl_vae.report.true_posterior, "picture_of", figures.append)
    draws = np.random.default_rng(0).normal(size=(2, 4, 100, 1, 2))
    run = SimpleNamespace(model=ProbabilisticPCA(Spec((1, 2, 2), "real", 2)))
    some: Any = SimpleNamespace(images=torch.tensor([3]), run=run)
    ppl_vae.report.true_posterior._marginals(some, *draws, [0, 1])
    (legend,) = figures[0].legends
    lines = zip(legend.get_texts(), legend.get_lines(), strict=True)
    said = {text.get_text(): line.get_color() for text, line in lines}
    assert said == {"true posterior (NUTS)": INK, "guide": ORANGE}


def test_a_gap_below_zero_hangs_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked on a negative gap, the other would cover it and end too low."""
    figures: list[Any] = []
    monkeypatch.setattr(ppl_vae.report.gap, "picture_of", figures.append)
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


def test_a_model_given_the_class_says_so_everywhere(runs: list[Run], tmp_path: Path) -> None:
    run = train(tmp_path / "run", model=Conditional, guide=ConditionalNormal)
    assert comparable(inspection_of(runs[0], 5), run) == (
        "estimates log p(x|y), which is another quantity than log p(x)"
    )
    found = posterior(run, [runs[0]], **QUICK)
    assert found["quantity"] == "log p(x|y)"
    for name in ("guide", "gap", "posterior", "log_likelihood", "calibration", "latent"):
        assert found[name]["unanswered"] is found[name]["failed"] is None, name
    assert "another quantity than log p(x|y)" in found["comparison"]["unanswered"]
    page = (run.path / "posterior.html").read_text()
    assert page.count("log p(x)") == 1  # of the other run
    assert "q(z|x)" not in page


@pytest.mark.parametrize(
    ("model", "guide"),
    [(LabelledMixture, ClassifyingNormal), (SemiSupervised, SemiSupervisedNormal)],
)
def test_a_model_of_some_labels_is_inspected_without_them(tmp_path: Path, model, guide) -> None:
    objective = SemiSupervisedELBO()
    run = train(tmp_path / "run", model=model, guide=guide, objective=objective, labels=100)
    found = posterior(run, **QUICK)
    assert found["quantity"] == "log p(x)"
    for name in ("guide", "gap", "posterior", "log_likelihood", "calibration", "latent"):
        assert found[name]["failed"] is None, name
        no_answer = name == "gap" and model is SemiSupervised
        assert (found[name]["unanswered"] is not None) == no_answer, name
    page = (run.path / "posterior.html").read_text()
    assert ("of z and the class" in page) == (model is SemiSupervised)
    # With the labels it would be log p(x, y), lower by more than a nat after two epochs.
    images = run.data.test.select(torch.tensor(found["images"]))
    with seeded(run.device, 1):
        elbo = estimate(run.model, run.guide, images, 500).elbo.mean().item()
    terms = (found["latent"][f"{name}_nats_per_datum"] for name in ("rate", "distortion"))
    assert -sum(terms) == pytest.approx(elbo, abs=0.3)


def test_a_run_on_other_data_is_not_compared(runs: list[Run], tmp_path: Path) -> None:
    other = train(tmp_path / "other", data=Digits(binarize="threshold"))
    third = train(tmp_path / "third", likelihood=Gaussian)
    for split in ("test", "train"):
        inspection = inspection_of(runs[0], 5, split)
        assert comparable(inspection, runs[1]) is None
        assert "its images are not the same" in str(comparable(inspection, other))
        assert "with respect to" in str(comparable(inspection, third))


@pytest.mark.parametrize("level", [-2000.0, 2000.0])
def test_stacking_weights_of_densities_that_have_no_exponential(level: float) -> None:
    """The weights depend on differences; those of two equal halves are one half each."""
    difference = np.where(np.arange(200) % 2, 3.0, -3.0)
    rows, _ = _arviz({"$a": level + difference, "b": level - difference}, 10)
    assert {row["run"] for row in rows} == {"$a", "b"}
    for row in rows:
        assert row["weight"] == pytest.approx(0.5, abs=1e-3)
        assert row["elpd"] == pytest.approx(200 * level)
        assert row["se"] == pytest.approx(np.sqrt(200) * difference.std(ddof=1))
    assert rows[1]["dse"] == pytest.approx(np.sqrt(200) * 2 * difference.std(ddof=1))


def bounds_of(model: ProbabilisticPCA, size: int, seed: int) -> Any:
    """The bounds from images and an exact posterior."""
    x, guide = model(size=size), Posterior(model)
    looked_at: Any = SimpleNamespace(
        images=torch.arange(size),
        joint=lambda count: Joint.of(model, guide, x[:count]),
        run=SimpleNamespace(device=torch.device("cpu")),
        seed=seed,
    )
    return information_bounds(looked_at)


def test_the_bounds_of_the_mutual_information_enclose_it_within_their_errors() -> None:
    """I(x; z) = log det(1 + W^T W / sigma^2) / 2 under the exact posterior."""
    model = ppca()
    ratio = model.loadings.mT @ model.loadings / (2 * model.log_scale).exp()
    exact = 0.5 * torch.logdet(torch.eye(2, dtype=torch.float64) + ratio).item()
    found = [bounds_of(model, 60, seed) for seed in range(60)]
    assert {(each.images, each.draws) for each in found} == {(60, 10)}
    covered = [
        each.lower[0] - 2 * each.lower[1] <= exact <= each.upper[0] + 2 * each.upper[1]
        for each in found
    ]
    assert sum(covered) >= 55  # 95 %, less two standard errors
    bare = [each.lower[0] <= exact <= each.upper[0] for each in found]
    assert sum(bare) <= 40
    for end in ("lower", "upper"):
        values, errors = np.transpose([getattr(each, end) for each in found])
        assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.35)
    assert np.mean([each.lower[0] for each in found]) < exact
    assert np.mean([each.upper[0] for each in found]) > exact
    assert bounds_of(model, 1, 0).upper == (inf, None)


def test_an_interval_is_open_above_where_k_hat_is_large() -> None:
    """One heavy weight puts the estimate five nats too high; the interval allows for it."""
    weights = torch.randn(5000, 2, dtype=torch.float64)
    weights[0, 0] = log(5000) + 5
    value, lower, upper = _importance(weights, torch.tensor([1.2, 0.1]), 0.99)
    truth = 0.5
    assert value[0] > truth + 4
    assert lower[0] < truth < upper[0] == inf
    assert lower[1] < truth < upper[1] < truth + 0.1
    assert number(-0.004) == "0.00"
    assert number(inf) == "∞"
    assert number(-inf) == "−∞"


def test_the_words_fit_the_numbers(inspection: Inspection) -> None:
    section = Section("log_likelihood", "?")
    intervals(inspection, section)
    for value, error, said in (
        (-0.07, 0.05, "cross by 0.07 nats (± 0.05), which is noise: there it is off by"),
        (0.5, 0.1, "are 0.50 nats apart (± 0.10): there it is off by no more than"),
    ):
        section.numbers["bidirectional_gap_nats"] = value
        section.numbers["bidirectional_gap_nats_standard_error"] = error
        assert said in words(inspection, section)
    section = Section("posterior", "?")
    true_posterior(inspection, section)
    mixed = sum(row[2] <= "1.010" for row in section.facts["rows"])
    said = f"R-hat is at most 1.010 in all latents of {mixed} of 2"
    assert said in words(inspection, section)


def test_a_collapse_is_said(inspection: Inspection) -> None:
    section = Section("latent", "?")
    latent(inspection, section)
    assert section.numbers["collapse"] is None  # of 12 images
    section.numbers["collapse"] = "posterior collapse: the rate is nothing"
    assert "Posterior collapse: the rate is nothing." in words(inspection, section)
    section.numbers["collapse"] = None
    assert "collapse" not in words(inspection, section)


def test_a_collapse_heeds_what_many_draws_gain(inspection: Inspection, monkeypatch) -> None:
    asked: list[tuple[float, ...]] = []

    def advice(*values: float) -> str:
        asked.append(values)
        return "posterior collapse: as was said"

    monkeypatch.setattr("ppl_vae.report.latent.collapse", advice)
    section = Section("latent", "?")
    latent(inspection, section)
    rate, active, images, gain = asked[0]
    assert (rate, active, images) == (
        section.numbers["rate_nats_per_datum"],
        section.numbers["active_units"],
        12,
    )
    weights = inspection.statistic("log_weight").numpy()
    bound = logsumexp(weights, axis=0, b=1 / len(weights))
    assert gain == pytest.approx((bound - weights.mean(0)).mean())
    assert gain > 0
    assert section.numbers["collapse"] == "posterior collapse: as was said"


def test_unknown_labels_are_no_class_in_the_scatter(inspection, monkeypatch) -> None:
    legends: list[list[str]] = []

    def keep(figure: Any) -> None:
        (axes,) = figure.axes
        legends.append([text.get_text() for text in axes.get_legend().get_texts()])

    monkeypatch.setattr("ppl_vae.report.latent.picture_of", keep)
    monkeypatch.setattr(Inspection, "labels", np.array([-1, 0, 1, 1, 0, -1, 2, 2, 2, 0, 1, 0]))
    data = replace(inspection.run.data, class_names=("a$b$", "_", "c"))
    monkeypatch.setattr(inspection.run, "data", data)
    ppl_vae.report.latent._scatter(inspection)
    assert legends[0][:2] == ["unknown", r"a\$b\$"]
    assert len(legends[0]) >= 3


def test_text_is_escaped(inspection: Inspection) -> None:
    section = Section("guide", "a < b", unanswered="x < y & z")
    text = page("<run>", ["<fact>"], "<verdict>", [section], "worst", "<split>")
    assert "x &lt; y &amp; z" in text
    run = replace(inspection.run, path=Path("<other>"))
    section = Section("comparison", "?")
    comparison(replace(inspection, others=[run]), section)
    text += words(inspection, section)
    assert "&lt;other&gt;" in text
    for raw in ("<run>", "<fact>", "a < b", "<split>", "<other>"):
        assert raw not in text


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
