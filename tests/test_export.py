"""Exported programs give the numbers of the pair, for any number of images."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_runs import TINY, tiny
from torch import Tensor

from guides import (
    IAF,
    ClassifyingNormal,
    ConditionalNormal,
    Delta,
    FullRankNormal,
    Ladder,
    SemiAmortized,
    SemiSupervisedNormal,
)
from models import (
    MLP,
    Autoencoder,
    BetaBinomial,
    Conditional,
    ContinuousBernoulli,
    Convolutional,
    DiscretizedLogistic,
    GatedMLP,
    Gaussian,
    Hierarchical,
    LabelledMixture,
    Mixture,
    Network,
    ProbabilisticPCA,
    Residual,
    SemiSupervised,
    VampPrior,
)
from ppl_vae import load
from ppl_vae.data import Arrays
from ppl_vae.errors import InputError
from ppl_vae.measures import decoded_mean, posterior_mean
from ppl_vae.runs.export import pixel_rule
from ppl_vae.runs.run import Run

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL = (4, 8)
CASES = {
    "mlp": {},
    "convolutional": {"network": partial(Convolutional, channels=SMALL)},
    "conditional": {"model": Conditional, "guide": ConditionalNormal},
    "full-rank": {"guide": FullRankNormal, "likelihood": partial(Gaussian, scale="network")},
    "bytes": {"likelihood": BetaBinomial},
}
MORE = {
    "gated": {"network": partial(GatedMLP, hidden=SMALL)},
    "residual": {"network": partial(Residual, channels=SMALL)},
    "logistic": {"likelihood": DiscretizedLogistic},
    "unit": {"likelihood": ContinuousBernoulli},
    "gaussian": {"likelihood": Gaussian},
    "autoencoder": {"model": Autoencoder, "guide": Delta},
    "semi-supervised": {"model": SemiSupervised, "guide": SemiSupervisedNormal},
    "mixture": {"model": Mixture},
    "labelled": {
        "model": partial(LabelledMixture, full_rank=True),
        "guide": ClassifyingNormal,
    },
    "ppca": {"model": ProbabilisticPCA},
    "vamp": {"prior": partial(VampPrior, components=3)},
}


def outputs(folder: Path, name: str, *batch: Tensor) -> list[dict[str, np.ndarray]]:
    """What onnxruntime and torch.export make of a batch, by the names of the ONNX file."""
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    given = [entry.name for entry in session.get_inputs()]
    names = [entry.name for entry in session.get_outputs()]
    feed = dict(zip(given, (part.numpy() for part in batch), strict=True))
    program = torch.export.load(folder / f"{name}.pt2").module()
    with torch.no_grad():
        loaded = [part.numpy() for part in program(*batch)]
    onnx = session.run(names, feed)
    return [dict(zip(names, values, strict=True)) for values in (onnx, loaded)]


def check(run: Run, folder: Path) -> None:
    paths = run.export(folder)
    assert sorted(paths) == sorted(folder.iterdir())
    description = json.loads((folder / "export.json").read_text())
    assert description["domain"] == run.spec.domain
    for count in (1, 5):
        x, *y = run.data.test.batch(slice(count), run.model.labelled)
        expected: dict[str, dict[str, Tensor]] = {}
        with torch.no_grad():
            posterior = run.guide.posterior(x, *y)
            z = posterior_mean(run.model, run.guide, x, *y)
            decoded = run.model.decode(z, *y)
            expected["encoder"] = {"mean": z}
            if hasattr(getattr(posterior, "base_dist", None), "scale"):
                expected["encoder"]["scale"] = posterior.stddev
            expected["decoder"] = {"mean": decoded_mean(run.model, z, *y)}
            if run.spec.domain == "real":
                expected["decoder"]["scale"] = decoded.stddev
            if "classifier" in description["programs"]:
                expected["classifier"] = {"log_probability": run.guide.classify(x).logits}
        batches: dict[str, Any] = {"encoder": (x, *y), "decoder": (z, *y), "classifier": (x,)}
        assert description["programs"].keys() == expected.keys()
        for name, numbers in expected.items():
            said = description["programs"][name]
            for got in outputs(folder, name, *batches[name]):
                assert list(got) == list(said["outputs"]) == list(numbers)
                for key, value in numbers.items():
                    assert [*got[key].shape] == [count, *said["outputs"][key]["shape"][1:]]
                    near = 1e-5 * float(value.abs().max())
                    np.testing.assert_allclose(got[key], value.numpy(), 1e-5, near)
            for given, part in zip(said["inputs"].values(), batches[name], strict=True):
                assert given["shape"] == ["batch", *part.shape[1:]]
                assert f"torch.{given['type']}" == str(part.dtype)


@pytest.mark.parametrize("name", CASES)
def test_programs_give_the_numbers_of_the_pair(tmp_path: Path, name: str) -> None:
    run = tiny(tmp_path / "run", epochs=1, **{"network": TINY} | CASES[name])
    check(load(run.path), tmp_path / "deep" / "export")
    with pytest.raises(InputError, match="exists, and is no empty folder"):
        run.export(tmp_path / "deep" / "export")


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_programs_of_further_pairs(tmp_path: Path, name: str) -> None:
    check(tiny(tmp_path / "run", epochs=1, **MORE[name]), tmp_path / "export")


class Noisy(MLP):
    def compute(self, x: Tensor) -> Tensor:
        return super().compute(x) + torch.randn(x.shape[0], 1)


class Reads(MLP):
    def compute(self, x: Tensor) -> Tensor:
        return super().compute(x) * (2 if x.sum() > 3 else 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"guide": IAF}, "the encoder cannot be exported: the mean of q"),
        ({"model": Hierarchical, "guide": Ladder}, "the encoder cannot be exported: q"),
        ({"guide": SemiAmortized}, "the encoder cannot be exported"),
        ({"network": Noisy}, "the encoder cannot be exported: its graph gives other numbers"),
        ({"network": Reads}, "the encoder cannot be exported as one graph"),
    ],
)
def test_a_pair_without_a_program_is_refused(tmp_path: Path, options: Any, said: str) -> None:
    network: type[Network] = options.get("network", MLP)
    run = tiny(tmp_path / "run", epochs=1, **options | {"network": partial(network, hidden=(8,))})
    with pytest.raises(InputError) as caught:
        run.export(tmp_path / "export")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny(tmp_path / "run", epochs=1)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'ppl-vae\[export\]'"):
        run.export(tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("options", "levels", "rule"),
    [
        ({}, 17, "x = 1 with probability v / 16, else 0; without chance, 1 where v >= 8"),
        ({"likelihood": Gaussian}, 17, "x = (v + u) / 17, u uniform on [0, 1); without chance"),
        ({"likelihood": BetaBinomial}, 17, "x = 255 v / 16, rounded"),
        ({"likelihood": ContinuousBernoulli}, 17, "x = v / 16"),
    ],
)
def test_the_description_says_how_pixels_become_x(
    tmp_path: Path, options: Any, levels: int, rule: str
) -> None:
    run = tiny(tmp_path / "run", epochs=1, **options)
    said = pixel_rule(run.data)
    assert said["levels"] == levels
    assert said["rule"].startswith(rule)


def test_the_rule_of_standardised_pixels_is_the_runs(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(60, 4, 4)).astype("float32")
    np.save(tmp_path / "images.npy", values)
    data = Arrays(path=tmp_path / "images.npy", scale="standard").load("real", 0)
    rule = pixel_rule(data)["rule"].removeprefix("x = ")
    raw = data.train.raw[0]
    x = eval(rule, {"v": raw})
    torch.testing.assert_close(x, data.train[:1][0])
