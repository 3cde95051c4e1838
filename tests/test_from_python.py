"""The functions of the verbs: a run or its path, numbers of NumPy, and any modes of torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny, without_pictures

from models import MLP, Gaussian
from ppl_vae import load
from ppl_vae.data import ImageFolder
from ppl_vae.errors import InputError
from ppl_vae.evaluate import evaluate
from ppl_vae.features import features
from ppl_vae.fit import fit, resume
from ppl_vae.generate import generate, reconstruct, sample, traverse
from ppl_vae.posterior import posterior
from ppl_vae.runs.run import Run

pytestmark = pytest.mark.usefixtures("no_pictures")


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


def results(folder: Path) -> dict[str, Any]:
    """The numbers of everything that a person does with a run."""
    run = tiny(folder / "run", patience=5, seed=3, likelihood=Gaussian)
    resume(run)
    loaded = load(run.path)
    measured = evaluate(loaded, particles=3, data_points=20)
    compared = features(loaded, train_points=50, data_points=20, clusters=3, out=folder)
    arrays = {**sample(loaded, count=3), **reconstruct(loaded, count=3)}
    return {
        "metrics": (run.path / "metrics.csv").read_text(),
        "elbo": measured["elbo_nats_per_datum"],
        "scores": _errors(compared),
        **{name: value.tolist() for name, value in arrays.items()},
        **{name: value.tolist() for name, value in run.model.state_dict().items()},
    }


def _errors(compared: dict[str, Any]) -> list[float | None]:
    rows = compared["representations"]
    return [row.get("reconstruction_squared_error_per_pixel") for row in rows]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with without_pictures():
        return results(tmp_path_factory.mktemp("outside"))


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        partial(torch.autocast, "cpu", dtype=torch.bfloat16),
        float64,
        partial(default_device, "meta"),
        partial(torch.device, "meta"),
    ],
)
def test_the_same_numbers_inside_any_mode_of_torch(
    tmp_path: Path, outside: dict[str, Any], mode: Callable[[], Any]
) -> None:
    with mode():
        inside = results(tmp_path)
        # What the caller has set is as it was.
        assert torch.is_grad_enabled() == (mode not in (torch.no_grad, torch.inference_mode))
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert torch.get_default_dtype() == (torch.float64 if mode is float64 else torch.float32)
        meta = isinstance(mode, partial) and "meta" in mode.args
        assert torch.empty(0).device.type == ("meta" if meta else "cpu")
    assert inside == outside


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with without_pictures():
        return tiny(tmp_path_factory.mktemp("python") / "run")


def test_every_function_takes_a_run_or_its_path(run: Run, tmp_path: Path) -> None:
    few = {"particles": 2, "data_points": 5, "out": tmp_path}
    calls: list[Callable[[Any], Any]] = [
        lambda run: evaluate(run, **few)["elbo_nats_per_datum"],
        lambda run: sample(run, count=2)["mean"].tolist(),
        lambda run: reconstruct(run, count=2)["mean"].tolist(),
        lambda run: traverse(run, steps=2, latents=1)["mean"].tolist(),
        lambda run: generate(run, "manifold", rows=2, out=tmp_path)[1].read_bytes(),
        lambda run: _errors(features(run, train_points=20, data_points=5, out=tmp_path)),
        lambda run: resume(run).summary["validation_elbo_nats_per_datum"],
    ]
    for call in calls:
        assert call(run) == call(run.path) == call(str(run.path))


def test_numbers_of_numpy_are_numbers(run: Run, tmp_path: Path) -> None:
    options = {"epochs": 2, "batch_size": 100, "learning_rate": 0.25, "seed": 3, "latent_dim": 2}
    as_numpy = {name: np.asarray(value)[()] for name, value in options.items()}
    assert all(isinstance(value, np.generic) for value in as_numpy.values())
    first = tiny(tmp_path / "first", **options)
    second = tiny(
        tmp_path / "second",
        device=torch.device("cpu"),
        checkpoint_seconds=np.float32(9),
        **as_numpy,
    )
    for file in ("metrics.csv", "config.yaml"):
        written = [(path / file).read_text() for path in (first.path, second.path)]
        written[1] = written[1].replace("device: cpu", "device: auto").replace("9.0", "15.0")
        assert written[0] == written[1]
    assert load(run.path, device=torch.device("cpu")).device == torch.device("cpu")

    five = np.int64(5)
    plain = {"particles": 5, "data_points": 5, "seed": 5}
    given = dict.fromkeys(plain, five)
    results = [evaluate(run, out=str(tmp_path), **each) for each in (plain, given)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
    paths = generate(run, "reconstruct", images=np.arange(3), seed=five, out=str(tmp_path))
    assert paths == [tmp_path / "reconstruct.png", tmp_path / "reconstruct.npz"]
    np.testing.assert_array_equal(np.load(paths[1])["images"], [0, 1, 2])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: evaluate(run, split="tst"), "--split: expected one of train, validation, te"),
        (lambda run: evaluate(run, particles=2.5), "expected --particles >= 1, a whole number"),
        (lambda run: evaluate(run, data_points="3"), "--data_points: expected 1 to 300"),
        (lambda run: evaluate(run, out=5), "expected --out as a path; got int"),
        (lambda run: evaluate(run, engine="fast"), "--engine: expected one of auto, eager, comp"),
        (lambda run: evaluate(5), "expected a run as a path; got int"),
        (lambda run: load(run), "expected a run as a path; got Run"),
        (lambda run: resume(None), "expected a run as a path; got None"),
        (lambda run: sample(run, count=True), "expected --count >= 1, a whole number; got True"),
        (lambda run: sample(run, seed=0.5), "--seed: expected 0 <= seed < 2^32, a whole number"),
        (lambda run: traverse(run, steps=2.5), "expected --steps >= 2, a whole number; got 2.5"),
        (lambda run: generate(run, "sampel"), "expected sample, reconstruct, manifold"),
        (lambda run: generate(run, "reconstruct", images=3), "expected a list of indices; got 3"),
        (lambda run: generate(run, "reconstruct", images=[0.5]), "expected 0 to 299; got 0.5"),
        (lambda run: features(run, clusters=2.5), "expected 2 to 1,297, a whole number; got 2.5"),
        (lambda run: features(run, train_points="all"), "expected --train_points >= 2, a whole"),
        (lambda run: posterior(run, split="tst"), "--split: expected one of train, validation"),
        (lambda run: posterior(run, choose="best"), "--choose: expected one of random, worst, fi"),
        (lambda run: posterior(run, draws=100.0), "expected --draws >= 100, a whole number"),
        (lambda run: posterior(run, run), "expected others as a list of runs; got Run"),
        (lambda run: fit(epochs=1.0), "expected --epochs >= 1, a whole number; got 1.0"),
        (lambda run: fit(device="gpu"), "--device: expected auto, cpu, cuda or cuda:N"),
        (lambda run: load(run.path, allow_code="no"), "--allow_code of True or False; got 'no'"),
        (lambda run: fit(overwrite="no"), "expected --overwrite of True or False; got 'no'"),
        (lambda run: fit(run=5), "expected --run as a path; got int"),
        (lambda run: fit(model="VAE"), "model: expected a subclass of Model, or functools.partial"),
        (lambda run: fit(guide=run.guide), "DiagonalNormal, without its arguments"),
        (lambda run: fit(prior=MLP), "prior: expected a subclass of Prior"),
        (lambda run: fit(network=lambda i, o: None), "network: expected a subclass of Network"),
        (lambda run: fit(data=5), "data: expected an array or a tensor of shape (N, H, W)"),
        (lambda run: fit(data=ImageFolder), "data: ImageFolder needs path; give an instance"),
        (lambda run: fit(objective=5), "objective: expected a subclass of Objective, or an instan"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_in_one_line(
    run: Run, empty_folder: Path, call: Callable[[Run], Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        call(run)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert not any(empty_folder.iterdir())


def test_a_run_and_its_data_are_shown_in_a_line(run: Run) -> None:
    elbo = run.summary["validation_elbo_nats_per_datum"]
    assert repr(run) == (
        f"Run {run.path}: Digits as binary data, VAE with guide DiagonalNormal, latent_dim 2, "
        f"epochs 2, device cpu, validation ELBO {elbo:.2f} nats per datum"
    )
    assert repr(run.data) == f"Data {run.data.note}"
    assert repr(run.data.test) == "Split of 300 images of 1 x 8 x 8, with labels"
    assert f"<th>validation ELBO</th><td>{elbo:.2f} nats per datum</td>" in run._repr_html_()
