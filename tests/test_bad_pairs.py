"""Pairs that do not fit are refused in one clear line before they train."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_runs import OPTIONS, exit_code
from torch import nn

import ppl_vae.fit
from guides import DiagonalNormal, Guide
from models import MLP, Bernoulli, Network
from ppl_vae.training import preparation


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch, no_pictures: None, empty_folder: Path) -> None:
    """These classes under a module name, and nothing else in the folder."""
    monkeypatch.setitem(sys.modules, "classes_of_bad_pairs", sys.modules[__name__])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "Conditional", "--guide", "ConditionalNormal"],
        ["--labels", "10"],
        ["--objective", "SemiSupervisedELBO"],
    ],
)
def test_one_step_leads_to_a_semi_supervised_pair(fit_refuses, arguments: list[str]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(60, 5, 4), dtype=np.uint8)
    np.savez("images.npz", images=pixels, labels=np.arange(60) % 4 - 1)
    data = ["--data", "Arrays", "--data.path", "images.npz", "--batch_size", "20"]
    said = fit_refuses(
        [*data, *arguments], "choose --model SemiSupervised --guide SemiSupervisedNormal"
    )
    remedy = said.partition("choose ")[2].partition(",")[0].split()
    assert exit_code(ppl_vae.fit, *OPTIONS, *data, *arguments, *remedy) == 0


class WrongSite(DiagonalNormal):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("zz", self.posterior(x))


class ExtraSite(DiagonalNormal):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("w", dist.Normal(torch.zeros(()), 1))
            return pyro.sample("z", self.posterior(x))


class StrayParameter(DiagonalNormal):
    def forward(self, x):
        pyro.param("stray", torch.zeros(()))
        return super().forward(x)


class Breaks(DiagonalNormal):
    def posterior(self, x):
        return super().posterior(x[..., :3])


class Complex(DiagonalNormal):
    def __init__(self, spec, network=MLP):
        super().__init__(spec, network)
        self.phase = nn.Parameter(torch.ones(spec.latent_dim, dtype=torch.complex64))

    def posterior(self, x):
        q = super().posterior(x)
        return dist.Normal(q.mean * self.phase.real, q.stddev).to_event(1)


class Incomplete(Guide):
    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", self.posterior(x))


class ConstructorRefuses(DiagonalNormal):
    def __init__(self, spec, network=None):
        raise ValueError("expected another spec")


class NanFromTheStart(Bernoulli):
    def forward(self, features):
        return super().forward(features / features.sum() * torch.inf)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WrongSite", ["samples ['zz']", "the model ['z']"]),
        ("ExtraSite", ["samples ['w', 'z']", "the model ['z']"]),
        ("StrayParameter", ["pyro.param belongs to no module", "PyroParam"]),
        ("Complex", ["the guide's parameter phase is complex", "real and imaginary part"]),
        ("Breaks", ["Breaks does not run on images (1, 8, 8)"]),
        ("Incomplete", ["Incomplete is not complete", "q(z|x) of Incomplete is not one"]),
        ("ConstructorRefuses", ["ConstructorRefuses: expected another spec"]),
    ],
)
def test_a_guide_that_does_not_fit(
    fit_refuses: Callable[..., str], name: str, said: list[str]
) -> None:
    fit_refuses(["--guide", f"classes_of_bad_pairs.{name}"], *said)


def test_a_pair_that_is_not_finite_before_training(fit_refuses: Callable[..., str]) -> None:
    fit_refuses(["--likelihood", "classes_of_bad_pairs.NanFromTheStart"], "site 'x' in the model")


class Batched(Network):
    """A network that cannot do with a single image."""

    def __init__(self, inputs, outputs, hidden: Sequence[int] = (8,)) -> None:
        super().__init__(inputs, outputs)
        self.layers = nn.Sequential(
            nn.Linear(math.prod(inputs), 8), nn.BatchNorm1d(8), nn.Linear(8, math.prod(outputs))
        )

    def compute(self, x):
        return self.layers(x.flatten(1))


def test_a_batch_of_one_image_where_a_network_takes_none(fit_refuses) -> None:
    """1,297 images in batches of 162 leave one."""
    network = "classes_of_bad_pairs.Batched"
    said = "cannot be trained on a batch of 1: Expected more than 1 value per channel"
    fit_refuses(["--network", network, "--batch_size", "162"], said, "another --batch_size")


def test_a_network_that_cannot_compute_in_bfloat16(fit_refuses, monkeypatch) -> None:
    # A CPU without bfloat16 takes float32 instead; here it is to emulate it.
    monkeypatch.setattr(preparation, "slow_precision", lambda precision, device: False)
    network = "tiny_runs.Tied"
    fit_refuses(
        ["--network", network, "--precision", "bfloat16"],
        "cannot be trained on a batch of", "in bfloat16", "choose another --precision",
    )  # fmt: skip
