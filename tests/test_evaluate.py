"""What `evaluate` reports, against closed forms, and the arithmetic of each number."""

import json
from collections.abc import Iterable
from functools import partial
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import Posterior
from reports import ended, train
from torch import nn

from guides import ConditionalNormal
from models import MLP, Conditional, Linear, ProbabilisticPCA
from ppl_vae.data import Arrays, Digits
from ppl_vae.densities.weights import log_terms
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate, main
from ppl_vae.measures import estimates
from ppl_vae.measures.scores import bits_per_dim
from ppl_vae.runs.run import Run

TERMS = ("elbo", "rate", "distortion", "log_likelihood")


@pytest.fixture
def linear(tmp_path: Path) -> Run:
    """Probabilistic PCA with D = 2 and a diagonal guide, on 3 x 2 images; in float64."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(500, 6))
    np.save(tmp_path / "images.npy", images.reshape(500, 3, 2).astype(np.float32))
    run = train(
        tmp_path / "run",
        data=Arrays(path=tmp_path / "images.npy"),
        model=partial(ProbabilisticPCA, initial_scale=0.7),
        network=Linear,
        epochs=3,
        learning_rate=0.02,
    )
    for split in ("train", "validation", "test"):
        images = getattr(run.data, split)
        object.__setattr__(images, "prepare", lambda raw: raw.double())
    run.model.double().requires_grad_(False)
    run.guide.double().requires_grad_(False)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return train(tmp_path / "run", epochs=1)


def test_every_term_against_its_closed_form(linear: Run) -> None:
    """On a model where E_q log p(x|z), KL(q || p(z)) and log p(x) are all known."""
    particles = 2000
    result = evaluate(linear, particles=particles)
    x = linear.data.test[:]
    model = linear.model
    q = linear.guide.posterior(x)
    loc, var = q.mean, q.variance
    variance = (2 * model.log_scale).exp()
    error = x.flatten(1) - model.mean - loc @ model.loadings.mT
    spread = var @ model.loadings.square().sum(0)
    distortion = 0.5 * (6 * (2 * torch.pi * variance).log())
    distortion = distortion + 0.5 * (error.square().sum(1) + spread) / variance
    rate = -0.5 * (1 + var.log() - loc.square() - var).sum(1)
    exact = {"rate": rate, "distortion": distortion, "elbo": -(rate + distortion)}
    assert result["data_points"] == len(x) == 50
    terms = log_terms(model, linear.guide, x, particles)
    draws = {
        "rate": terms.log_guide - terms.log_prior,
        "distortion": -terms.log_likelihood,
        "elbo": terms.log_weights,
    }
    for name, values in exact.items():
        # The reported error has the choice of images in it; against these very images, that of
        # the draws is left.
        mean = result[f"{name}_nats_per_datum"]
        standard_error = draws[name].var(0).sum().sqrt().item() / (50 * sqrt(particles))
        assert abs(mean - values.mean().item()) < 4 * standard_error, name
        reported = result[f"{name}_nats_per_datum_standard_error"]
        assert reported == pytest.approx(values.std().item() / sqrt(50), rel=0.1)
    log_p = model.log_likelihood(x)
    relative = (terms.log_weights - log_p).exp()  # of mean 1
    # To first order in 1 / K the logarithm of their mean is Var / 2K too low.
    bias = relative.var(0).mean().item() / (2 * particles)
    standard_error = relative.var(0).sum().sqrt().item() / (50 * sqrt(particles))
    log_p = log_p.mean().item()
    tolerance = 4 * standard_error + 2 * bias
    assert tolerance < 0.05
    assert abs(result["log_likelihood_nats_per_datum"] - log_p) < tolerance
    assert result["elbo_nats_per_datum"] < result["log_likelihood_nats_per_datum"]
    bits = -log_p / (6 * log(2))
    assert result["bits_per_dim"] == pytest.approx(bits, abs=tolerance / (6 * log(2)))


@pytest.mark.parametrize(("split", "count"), [("train", 400), ("validation", 50), ("test", 50)])
@pytest.mark.parametrize("wanted", [None, 10])
def test_the_exact_posterior_reports_log_p(linear, split, count, wanted) -> None:
    linear.guide = Posterior(linear.model)
    images = getattr(linear.data, split)
    assert len(images) == count
    result = evaluate(linear, split=split, particles=3, data_points=wanted)
    assert (result["split"], result["data_points"]) == (split, wanted or count)
    log_p = linear.model.log_likelihood(images[: wanted or count])
    for name in ("elbo_nats_per_datum", "log_likelihood_nats_per_datum"):
        assert result[name] == pytest.approx(log_p.mean().item(), abs=1e-8)
        error = np.std(log_p.numpy(), ddof=1) / sqrt(len(log_p))
        assert result[f"{name}_standard_error"] == pytest.approx(error, rel=1e-8)


@pytest.mark.parametrize("particles", [1, 7])
def test_the_bound_is_minus_rate_and_distortion(linear: Run, particles: int) -> None:
    result = evaluate(linear, particles=particles, split="validation")
    elbo, rate, distortion = (result[f"{name}_nats_per_datum"] for name in TERMS[:3])
    assert elbo == pytest.approx(-(rate + distortion), abs=1e-12)


def test_a_seed_gives_one_result_and_the_generators_stay(run: Run) -> None:
    torch.manual_seed(12)
    before = torch.get_rng_state()
    results = [evaluate(run, particles=20, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    differences = {name for name in results[0] if results[0][name] != results[2][name]}
    expected = {f"{name}_nats_per_datum" for name in TERMS} | {"bits_per_dim", "seed"}
    assert differences >= expected


def test_the_report(run: Run) -> None:
    result = evaluate(run, particles=3, data_points=20)
    measured = [*(f"{name}_nats_per_datum" for name in TERMS), "bits_per_dim", "active_units"]
    circumstances = ["data", "split", "reference_measure", "quantity", "particles", "data_points"]
    assert set(result) == {
        *measured,
        *(f"{name}_standard_error" for name in measured),
        *circumstances,
        "posterior_collapse",
        "seconds",
        "seed",
        "device",
    }
    assert json.loads((run.path / "evaluation.json").read_text()) == result
    assert result["reference_measure"] == "counting measure on {0, 1}"
    single = evaluate(run, particles=3, data_points=1)
    assert json.loads((run.path / "evaluation.json").read_text()) == single
    assert single["elbo_nats_per_datum_standard_error"] is None
    assert single["active_units"] is None


def test_bits_per_dim_of_binary_data(run: Run) -> None:
    data = run.data
    nats = torch.tensor([-64 * log(2), -32 * log(2)], dtype=torch.float64)
    np.testing.assert_allclose(bits_per_dim(nats, data), [1.0, 0.5], rtol=1e-12)


def test_bits_per_dim_of_dequantised_data() -> None:
    """A model that is uniform on [0, 1] gives each of 17 levels the mass 1/17."""
    data = Digits().load("real", 0)
    assert data.dequantize == "uniform"
    bits = bits_per_dim(torch.zeros(3, dtype=torch.float64), data)
    np.testing.assert_allclose(bits, np.log2(17), rtol=1e-12)
    # A density twice as high on every pixel saves one bit of each.
    bits = bits_per_dim(torch.full((3,), 64 * log(2), dtype=torch.float64), data)
    np.testing.assert_allclose(bits, np.log2(17) - 1, rtol=1e-12)
    raw = Digits(dequantize="none").load("real", 0)
    np.testing.assert_allclose(bits_per_dim(torch.zeros(3, dtype=torch.float64), raw), 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--particles", "0"], "expected --particles >= 1; got 0"),
        (["--data_points", "0"], "--data_points: expected 1 to 300, the images of the test split"),
        (["--data_points", "301"], "expected 1 to 300, the images of the test split; got 301"),
        (["--seed", "-1"], "--seed: expected 0 <= seed < 2^32; got -1"),
        (["--seed", "99999999999999999999"], "--seed: expected 0 <= seed < 2^32"),
        (
            ["--split", "tset"],
            "--split: expected one of 'train', 'validation', 'test', 'all'; got tset",
        ),
        (["--partcles", "3"], "no option --partcles (did you mean --particles?)"),
        (["--device", "cuda"], "no usable CUDA device"),
    ],
)
def test_bad_input(run, capsys, arguments, said) -> None:
    before = sorted(run.path.rglob("*"))
    capsys.readouterr()
    assert ended(main, run.path, *arguments) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert output.count("\n") == 1
    assert said in output
    assert sorted(run.path.rglob("*")) == before
    if arguments[0] == "--particles":
        with pytest.raises(InputError):
            evaluate(run, particles=0)


def test_the_command_prints_what_it_writes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert ended(main, run.path, "--particles", "4", "--data_points", "30") == 0
    result = json.loads((run.path / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    for name in TERMS:
        mean = result[f"{name}_nats_per_datum"]
        error = result[f"{name}_nats_per_datum_standard_error"]
        assert f"{mean:.2f} +- {error:.2g} nats per datum" in printed
    assert "bits per dim  " in printed
    assert str(run.path / "evaluation.json") in printed
    assert not any(f"{word}_per" in printed for word in ("nats", "bits", "error"))


def test_what_is_given_the_class_says_so(tmp_path, capsys) -> None:
    run = train(tmp_path / "run", model=Conditional, guide=ConditionalNormal)
    assert evaluate(run, particles=2, data_points=20)["quantity"] == "log p(x|y)"
    capsys.readouterr()
    ended(main, run.path, "--particles", "2", "--data_points", "20")
    printed = capsys.readouterr().out
    assert "log p(x|y), 2 particles" in printed
    assert "ELBO of log p(x|y)" in printed
    assert "log p(x)" not in printed


def test_both_engines_measure_the_same(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    results = [evaluate(run, particles=40, data_points=50, engine=e) for e in ("eager", "compiled")]
    for name in ("elbo", "rate", "distortion", "log_likelihood"):
        values = [result[f"{name}_nats_per_datum"] for result in results]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert "engine: " not in capsys.readouterr().err
    with pytest.raises(InputError, match="--engine: expected one of auto, eager, compiled"):
        evaluate(run, engine="fast")


def test_larger_networks_compile_from_fewer_draws_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def record(what: str, modules: Iterable[nn.Module], example: object) -> list[nn.Module]:
        compiled.append(what)
        return list(modules)

    monkeypatch.setattr(estimates, "compiled_if_possible", record)
    monkeypatch.setattr(estimates, "_WORTH_COMPILING_BYTES", 40 * 50 * 10_000)
    for hidden, times in ((16, 0), (4096, 1)):
        run = train(tmp_path / str(hidden), network=partial(MLP, hidden=[hidden]), epochs=1)
        evaluate(run, particles=40, data_points=50)
        assert compiled == ["measuring"] * times
