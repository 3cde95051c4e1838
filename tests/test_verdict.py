"""The verdict of the report: what its sections allow to say, branch by branch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import MeanField, exact_guide
from reports import QUICK, train

from models import Linear, ProbabilisticPCA
from ppl_vae.measures.scores import collapse
from ppl_vae.posterior import posterior
from ppl_vae.report.calibrated import beyond_chance
from ppl_vae.report.verdict import verdict
from ppl_vae.runs.run import Run

pytestmark = pytest.mark.filterwarnings("ignore")

GOOD: dict[str, dict[str, Any]] = {
    "guide": {"k_hat": [0.2] * 100, "iwae_gain_nats_per_datum": [0.0, 0.1, 0.15]},
    "gap": {
        "images": 32,
        "gap_nats_per_datum": 0.2,
        "gap_nats_per_datum_standard_error": 0.01,
        "approximation_gap_nats_per_datum": 0.1,
        "approximation_gap_nats_per_datum_standard_error": 0.01,
        "amortization_gap_nats_per_datum": 0.1,
        "amortization_gap_nats_per_datum_standard_error": 0.01,
    },
    "posterior": {"r_hat_largest": [1.0, 1.0104]},
    "log_likelihood": {
        "bidirectional_images": 4,
        "bidirectional_gap_nats": 0.1,
        "bidirectional_gap_nats_standard_error": 0.2,
    },
    "calibration": {
        "active_latents": [0, 1, 2],
        "latents_outside_the_band": [],
        "ends_over_uniform": [1.0, 1.0, 1.0],
    },
    "latent": {"rate_nats_per_datum": 9.0, "active_units": 3},
}
TRUSTED = "The ELBO, log p(x) and q(z|x) can be trusted, on 100 images."
SAMPLED = "k-hat is at most 0.7 on 100 of 100 images."
UNIFORM = "In simulations the ranks of the latents are uniform."
BELOW = (
    "The ELBO is a bound, 0.20 nats (± 0.01) below log p(x) on 32 images, which is also how far "
    "the guide is from the true posterior."
)
NARROW = (
    "In simulations the ranks of 3 of 3 active latents are not uniform: the guide is too narrow."
)


def judged(family: str = "DiagonalNormal", **changes: dict[str, Any]) -> dict[str, Any]:
    """The verdict where some numbers of some sections are others."""
    sections = {name: numbers | changes.get(name, {}) for name, numbers in GOOD.items()}
    return verdict(sections, "log p(x)", "100 images", family)


def test_sites_that_hold_nothing_are_named() -> None:
    rates = {"z1": 0.0, "z2": -0.01, "z3": 9.0}
    said = judged(latent={"rate_by_site_nats_per_datum": rates})["text"]
    assert "z1 and z2 hold hardly anything, less than 0.05 nats each" in said
    assert "Nothing needs to be done" not in said
    said = judged(latent={"rate_by_site_nats_per_datum": rates | {"z2": 0.2}})["text"]
    assert "z1 holds hardly anything" in said
    said = judged(latent={"rate_by_site_nats_per_datum": {"z1": 0.3, "z2": 9.0}})["text"]
    assert "hardly anything" not in said
    assert "Nothing needs to be done" in said


@pytest.mark.parametrize(
    ("log_p", "q"),
    [
        ("log p(x_observed)", "q(z|x)"),
        ("log p(x|y)", "q(z|x, y)"),
        ("log p(x_observed|y)", "q(z|x, y)"),
    ],
)
def test_the_guide_takes_a_class_where_the_likelihood_does(log_p: str, q: str) -> None:
    said = verdict(GOOD, log_p, "100 images", "DiagonalNormal")["text"]
    assert said.startswith(f"The ELBO, {log_p} and {q} can be trusted, on 100 images.")


def gap_of(family: float, network: float) -> dict[str, Any]:
    return {
        "gap_nats_per_datum": family + network,
        "gap_nats_per_datum_standard_error": 0.02,
        "approximation_gap_nats_per_datum": family,
        "amortization_gap_nats_per_datum": network,
    }


def narrow(ends: float = 2.0) -> dict[str, Any]:
    return {
        "latents_outside_the_band": [0, 1, 2],
        "ends_over_uniform": [ends] * 3,
        "counts": [[20, 10, 20]] * 3,
    }


def test_all_is_well() -> None:
    assert judged() == {
        "elbo": True,
        "log_likelihood": True,
        "posterior": True,
        "images": 100,
        "with_k_hat_at_most_0_7": 100,
        "text": f"{TRUSTED} {SAMPLED} {UNIFORM} {BELOW} Nothing needs to be done.",
    }


@pytest.mark.parametrize(
    ("changes", "trusted", "said"),
    [
        # The share of images with a large k-hat
        ({"guide": {"k_hat": [0.8] * 5 + [0.7] * 95}}, "elp", "at most 0.7 on 95 of 100 images."),
        (
            {"guide": {"k_hat": [0.8] * 6 + [0.7] * 94}},
            "e",
            "The ELBO can be trusted; log p(x) and q(z|x) cannot, on 100 images. k-hat is at most "
            "0.7 on 94 of 100 images; on the others take log p(x) from annealing, off by at most "
            "about 0.50 nats on average on 4 simulated images. ",
        ),
        ({"guide": {"k_hat": [0.8] * 100}}, "e", "tails of the guide are too light: try another"),
        # The gap
        ({"gap": gap_of(0.23, 0.23)}, "elp", "0.46 nats (± 0.02) below log p(x)"),
        (
            {"gap": gap_of(0.9, 0.1)},
            "l",
            "Of these 0.90 nats are the family's, 0.10 the network's: try another family than "
            "DiagonalNormal, such as --guide FullRankNormal or IAF.",
        ),
        (
            {"gap": gap_of(0.1, 0.9)},
            "l",
            "0.10 nats are the family's, 0.90 the network's: try a larger --network or more "
            "--epochs, or --guide SemiAmortized.",
        ),
        (
            {"gap": gap_of(0.51, 0.5)},
            "l",
            "try another family than DiagonalNormal, such as --guide FullRankNormal or IAF, and a "
            "larger --network or more --epochs.",
        ),
        # Calibration
        ({"calibration": narrow()}, "el", NARROW),
        # Of 51 and 13 ranks at the ends the difference is 4.75 standard errors, of 30 and 25 0.67.
        (
            {"calibration": narrow() | {"counts": [[51, 10, 13], [30, 10, 25], [16, 10, 39]]}},
            "el",
            f"{NARROW[:-1]}, and shifted in 2 of them.",
        ),
        ({"calibration": narrow(0.5)}, "el", "not uniform: the guide is too wide."),
        ({"calibration": narrow(1.0)}, "el", "not uniform: the guide is shifted or skewed."),
        (
            {"calibration": narrow()},
            "el",
            "Weight draws from the guide by their importance weights, or try another family than "
            "DiagonalNormal, such as --guide FullRankNormal or IAF, and a larger --network or more "
            "--epochs.",
        ),
        (
            {"calibration": narrow(), "gap": gap_of(0.0, 0.3)},
            "el",
            "by their importance weights, or try a larger --network or more --epochs, or --guide "
            "SemiAmortized.",
        ),
        (
            {"calibration": narrow(), "gap": gap_of(0.3, 0.0)},
            "el",
            "weights, or try another family than DiagonalNormal, such as --guide FullRankNormal or "
            "IAF.",
        ),
        (
            {"calibration": {"latents_outside_the_band": [1]}},
            "elp",
            "In simulations the ranks of 1 of 3 active latents leave their band, as chance allows.",
        ),
        # The curve of bounds
        (
            {"guide": {"iwae_gain_nats_per_datum": [0.0, 0.3, 0.41]}},
            "elp",
            "The bound still rises with the number of draws: more --particles for log p(x).",
        ),
        # NUTS
        (
            {"posterior": {"r_hat_largest": [1.0, 1.0106, 1.2]}},
            "elp",
            "NUTS has not mixed on 2 of 3 images, so that the true posterior there is not known: "
            "raise --nuts_draws.",
        ),
        # Collapse
        (
            {"latent": {"collapse": collapse(0.05, 0)}},
            "elp",
            f"{BELOW} Posterior collapse: the rate is 0.05 nats and 0 latents are active, so that "
            "z says nothing about x; try --objective Beta",
        ),
        (
            {"latent": {"collapse": collapse(0.14, 9)}},
            "elp",
            f"{BELOW} Near posterior collapse: the rate is 0.14 nats and 9 latents are active, "
            "below one bit: z says almost nothing about x; try more --epochs, --objective Beta",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_trusted_and_what_to_do(changes: dict, trusted: str, said: str) -> None:
    found = judged(**changes)
    assert "".join(n[0] for n in ("elbo", "log_likelihood", "posterior") if found[n]) == trusted
    assert said in found["text"]
    all_well = trusted == "elp" and not {"latent"} & {*changes} and "more --particles" not in said
    assert ("Nothing needs to be done." in found["text"]) == all_well


def test_nothing_is_trusted() -> None:
    changes = {"guide": {"k_hat": [0.9] * 60 + [0.1] * 40}, "gap": gap_of(1.0, 3.0)}
    found = judged(family="IAF", calibration=narrow(), **changes)
    assert found["text"].startswith(
        "The ELBO, log p(x) and q(z|x) cannot be trusted, on 100 images. k-hat is at most 0.7 on "
        "40 of 100 images;"
    )
    assert judged(family="IAF", gap=gap_of(3.0, 0.0))["text"].endswith(
        "another family than IAF, such as IAF with more --guide.flows."
    )


@pytest.mark.parametrize("missing", ["guide", "gap", "calibration"])
def test_a_section_without_an_answer_leaves_open_what_rests_on_it(missing: str) -> None:
    sections = GOOD | {missing: {"unanswered": None, "failed": "it broke"}}
    found = verdict(sections, "log p(x)", "100 images", "DiagonalNormal")
    rests = {"guide": "log_likelihood", "gap": "elbo", "calibration": "posterior"}[missing]
    assert found[rests] is None
    assert found["posterior"] is None
    assert "it is not known, on 100 images." in found["text"]
    assert "Nothing needs" not in found["text"]


@pytest.mark.parametrize(
    ("gain", "trusted", "said"),
    [
        (0.3, True, "0.30 nats (± 0.05) below log p(x) on 64 images"),
        (
            0.9,
            False,
            "Try another family than DiagonalNormal, such as --guide FullRankNormal or IAF, and a "
            "larger --network or more --epochs.",
        ),
    ],
)
def test_without_its_parts_the_gap_is_from_importance_sampling(gain, trusted, said) -> None:
    guide = GOOD["guide"] | {
        "iwae_gain_nats_per_datum": [0.0, gain],
        "iwae_gain_nats_per_datum_standard_error": [0.0, 0.05],
        "iwae_images": 64,
    }
    unsplit = {"unanswered": "it has classes", "failed": None}
    sections = GOOD | {"guide": guide, "gap": unsplit}
    found = verdict(sections, "log p(x)", "100 images", "DiagonalNormal")
    assert found["elbo"] is trusted
    assert said in found["text"]
    heavy = guide | {"k_hat": [0.9] * 100}  # then the bound of all draws is not log p(x)
    assert verdict(sections | {"guide": heavy}, "log p(x)", "100", "IAF")["elbo"] is None


def test_only_models_that_it_takes_are_offered_refinement() -> None:
    sections = GOOD | {"gap": GOOD["gap"] | gap_of(0.1, 0.9)}
    for refinable, end in ((True, "--epochs, or --guide SemiAmortized."), (False, "--epochs.")):
        text = verdict(sections, "log p(x)", "100", "ClassifyingNormal", refinable)["text"]
        assert text.endswith(f"try a larger --network or more {end}")


def test_chance_lets_some_histograms_leave_their_band() -> None:
    assert [beyond_chance(failed, 20) for failed in (0, 1, 3, 4)] == [False, False, False, True]


# Runs

EFFORT = QUICK | {
    "count": 20, "draws": 400, "particles": 200, "gap_images": 6, "gap_steps": 100,
    "simulations": 400,
}  # fmt: skip


@pytest.fixture(scope="module")
def principal(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Probabilistic PCA, whose posterior is known."""
    path: Path = tmp_path_factory.mktemp("principal") / "run"
    run = train(path, model=ProbabilisticPCA, network=Linear, latent_dim=2, epochs=1)
    with torch.no_grad():
        run.model.loadings.copy_(0.4 * torch.randn(64, 2))
        run.model.log_scale.fill_(-0.5)
    return run


def test_the_exact_guide_is_trusted_in_all(principal: Run) -> None:
    found = posterior(replace(principal, guide=exact_guide(principal.model)), **EFFORT)["verdict"]
    assert (found["elbo"], found["log_likelihood"], found["posterior"]) == (True, True, True)
    assert found["with_k_hat_at_most_0_7"] == found["images"] == 20
    assert found["text"].startswith(
        "The ELBO, log p(x) and q(z|x) can be trusted, on 20 images of the test split. "
    )
    assert "Nothing needs to be done." in found["text"]


def test_a_bad_guide_is_not(principal: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = posterior(replace(principal, guide=MeanField(principal.model, 0.5)), **EFFORT)
    assert not any(found["verdict"][name] for name in ("elbo", "log_likelihood", "posterior"))
    text = (principal.path / "posterior.html").read_text()
    assert f'<p class="verdict">{found["verdict"]["text"].split(" (")[0]}' in text
    assert text.index('class="verdict"') < text.index("<nav>")
