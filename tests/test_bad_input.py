"""Bad input ends in one clear line and exit code 2, and leaves nothing behind."""

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_runs import OPTIONS, exit_code, tree
from torch import nn

import ppl_vae.fit
from guides import DiagonalNormal, Guide
from models import MLP, Bernoulli, Network
from ppl_vae.training import preparation


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch, no_pictures: None, empty_folder: Path) -> None:
    """These classes under a module name, and nothing else in the folder."""
    monkeypatch.setitem(sys.modules, "classes_of_bad_input", sys.modules[__name__])


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `fit` with arguments that must be refused, saying all of what is named."""

    def run(arguments: list[str], *said: str) -> str:
        before = tree()
        capsys.readouterr()
        assert exit_code(ppl_vae.fit, *OPTIONS, *arguments) == 2
        output = capsys.readouterr()
        # The notes on the data may have been printed before; the error is the last line.
        *notes, line = output.err.splitlines()
        assert line.startswith("error: ")
        assert not any(word in line for word in ("Union", "NestedArg", "NoneType", "class_path"))
        assert all(note.startswith(("Digits: ", "Arrays: ", "ImageFolder: ")) for note in notes)
        assert output.out == ""
        for part in said:
            assert part in line, line
        assert tree() == before
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # Classes
        (["--guide", "DiagonalNorml"], ["--guide", "did you mean DiagonalNormal?"]),
        (["--prior", "Normal"], ["--prior", "StandardNormal"]),
        (["--likelihood", "bernoulli"], ["--likelihood", "did you mean Bernoulli?"]),
        (["--network", "CNN"], ["--network", "Convolutional", "Linear", "MLP"]),
        (["--data", "MNISTT"], ["--data", "did you mean MNIST?"]),
        (["--model", "Vae"], ["--model", "did you mean VAE?"]),
        (["--objective", "IWEA"], ["--objective", "ELBO"]),
        (["--guide", "nowhere.Guide"], ["cannot import nowhere.Guide", "PYTHONPATH"]),
        (["--guide", "models.VAE"], ["models.VAE is not a subclass of guides.Guide"]),
        # Options
        (["--latentdim", "3"], ["--latentdim", "did you mean --latent_dim?"]),
        (["--latent", "3"], ["no option --latent"]),
        (["--guide.flows", "3"], ["DiagonalNormal", "'flows'"]),
        (["--likelihood", "Gaussian", "--likelihood.scal", "x"], ["did you mean scale?"]),
        (
            ["--likelihood", "Gaussian", "--likelihood.floor", "x"],
            ["--likelihood.floor: expected float; got x"],
        ),
        (["--prior", "Flow", "--prior.flows", ""], ["--prior.flows: expected int; got ''"]),
        (["--prior", "Flow", "--prior.flows", "null"], ["expected flows >= 1, a whole number"]),
        (
            ["--likelihood", "BetaBinomial", "--likelihood.floor", "1e400"],
            ["BetaBinomial: expected floor > 0, a finite number; got inf"],
        ),
        (["--patience", "x"], ["--patience: expected int; got x"]),
        (
            ["--likelihood", "Gaussian", "--likelihood.scale", "foo"],
            ["--likelihood.scale: expected one of 'shared', 'pixel', 'network'; got foo"],
        ),
        (["--prior", "MixtureOfNormals", "--prior.compo", "3"], ["did you mean components?"]),
        (["--likelihood", "Gaussian", "--likelihood.floor", "-1"], ["expected floor > 0"]),
        (["--guide.flows"], ["--guide.flows: expected a value; got none"]),
        (["--epochs"], ["--epochs: expected one argument; got none"]),
        (["--warmup_epochs", "x"], ["--warmup_epochs: expected float; got x"]),
        (["--allow_code", "maybe"], ["--allow_code: expected bool; got maybe"]),
        (["--data", "Arrays"], ["expected --data.path; got none"]),
        (
            ["--guide", "SemiAmortized", "--guide.guide", "IAF", "--guide.guide.flows", "x"],
            ["--guide.guide.flows: expected int; got x"],
        ),
        (
            ["--guide", "SemiAmortized", "--guide.guide", "IAF", "--guide.guide.flos", "2"],
            ["--guide.guide: unknown option of IAF: got 'flos' (did you mean flows?)"],
        ),
        (
            ["--guide", "SemiAmortized", "--guide.guide.flows", "2"],
            ["--guide.guide: unknown option of DiagonalNormal: got 'flows'; it has none"],
        ),
        (["--network.hidden", "[0]"], ["hidden", "0"]),
        (["--network.hidden", "abc"], ["expected list, as in '[1, 2]'; got abc"]),
        (["stray"], ["no more arguments", "stray"]),
        # Numbers
        (["--epochs", "0"], ["expected --epochs >= 1; got 0"]),
        (["--epochs", "1.5"], ["--epochs: expected int; got 1.5"]),
        (["--batch_size", "1298"], ["--batch_size: expected at most 1,297", "got 1,298"]),
        (
            ["--objective", "MMD", "--batch_size", "1"],
            ["--batch_size: expected at least 2, 2 images for each process with --objective MMD"],
        ),
        (["--learning_rate", "nan"], ["--learning_rate"]),
        (["--warmup_epochs", "-1"], ["expected --warmup_epochs >= 0; got -1"]),
        (["--warmup_epochs", "3", "--epochs", "3"], ["--warmup_epochs < --epochs 3; got 3"]),
        (["--seed", "-1"], ["--seed: expected 0 <= seed < 2^32; got -1"]),
        (
            ["--model", "SemiSupervised", "--guide", "SemiSupervisedNormal", "--labels", "5"],
            ["--labels: expected at least 10, one for each class; got 5"],
        ),
        (["--objective.particles", "0"], ["expected particles >= 1; got 0"]),
        # Places
        (["--device", "tpu"], ["--device", "'cuda'", "tpu"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["--config", "."], ["expected a config file; Is a directory"]),
        (["--data", "Arrays", "--data.path", "a.npy"], ["expected a file at a.npy"]),
        (["--data", "ImageFolder", "--data.path", "nowhere"], ["nowhere"]),
        (["--data", "MNIST", "--data.root", "nowhere"], ["nowhere"]),
        # Pieces that do not fit
        (
            ["--data.binarize", "none", "--likelihood", "Bernoulli"],
            ["a likelihood for binary data does not fit", "--data.binarize dynamic"],
        ),
        (["--data.binarize", "dynmic"], ["--data.binarize", "'dynamic'", "dynmic"]),
        (
            ["--model", "Hierarchical", "--prior", "VampPrior", "--prior.components", "5"],
            ["is one for the sites ['z'], the model has ['z1', 'z2']; choose one of BottomUp, L"],
        ),
        (
            ["--guide", "ConditionalNormal"],
            ["takes the class of each image", "--guide DiagonalNormal, or --model Conditional"],
        ),
        *(
            (
                ["--model", "Mixture", "--guide", "SemiSupervisedNormal", "--objective", objective],
                [f"{objective} cannot be computed", "takes every class", "--objective ELBO"],
            )
            for objective in ("ScoreFunction", "WakeSleep", "MMD")
        ),
        (
            ["--model", "ProbabilisticPCA", "--prior", "StandardNormal"],
            ["ProbabilisticPCA has no prior to choose; leave out --prior"],
        ),
        (
            ["--model", "ProbabilisticPCA", "--latent_dim", "64"],
            ["expected latent_dim < 64, the number of pixels; got 64"],
        ),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_a_bad_argument(refused: Callable[..., str], arguments: list[str], said: list[str]) -> None:
    refused(arguments, *said)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--guide", "ConditionalNormal"],
        ["--model", "Conditional"],
        ["--model", "SemiSupervised"],
        ["--labels", "20"],
        ["--model", "Hierarchical"],
        ["--model", "Autoencoder"],
        ["--model", "Mixture", "--guide", "SemiSupervisedNormal", "--objective", "WakeSleep"],
        ["--model", "SemiSupervised", "--guide", "SemiSupervisedNormal", "--objective", "MMD"],
        ["--model", "ProbabilisticPCA", "--prior", "StandardNormal"],
        ["--data.binarize", "none", "--likelihood", "Bernoulli"],
        ["--data", "Arrays", "--data.path", "images.npy", "--model", "Conditional"],
        ["--network", "classes_of_bad_input.Tied", "--precision", "bfloat16"],
    ],
    ids=" ".join,
)
def test_a_remedy_is_followed_to_the_end(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Step by step, as a person would who does what the line says."""
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (200, 4, 4), dtype=np.uint8))
    steps = 0
    while exit_code(ppl_vae.fit, *OPTIONS, *arguments) != 0:
        line = capsys.readouterr().err.splitlines()[-1]
        steps += 1
        assert steps < 4, line
        left_out = re.search(r"leave out (--\w+)$", line)
        guides = re.search(r"(?:choose one of|guides for .*:) (\w+)", line)
        chosen = re.search(r"(?:choose|add|or) (--[\w.]+) (\w+)", line)
        if left_out:
            place = arguments.index(left_out[1])
            arguments = arguments[:place] + arguments[place + 2 :]
        elif guides:
            arguments = [*arguments, "--guide", guides[1]]
        elif chosen:
            arguments = [*arguments, chosen[1], chosen[2]]
        else:
            assert "choose another --precision" in line
            arguments = [*arguments, "--precision", "float32"]
    assert steps


def test_no_cuda_device(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(["--device", "cuda"], "no usable CUDA device", "--device cpu")


def test_resume_takes_no_other_option(refused: Callable[..., str]) -> None:
    refused(["--resume", "run"], "--resume takes everything else", "leave out --network.hidden")


def test_resume_of_what_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for name, said in (("nowhere", "there is no such folder"), ("empty", "it has no config.yaml")):
        assert exit_code(ppl_vae.fit, "--resume", name) == 2
        line = capsys.readouterr().err
        assert line == f"error: {name}: expected a run directory; {said}\n"


def test_an_existing_run(refused: Callable[..., str]) -> None:
    assert exit_code(ppl_vae.fit, *OPTIONS, "--run", "run") == 0
    refused(["--run", "run"], "run exists", "--resume run", "another name with --run")
    assert exit_code(ppl_vae.fit, "--resume", "run") == 0
    assert exit_code(ppl_vae.fit, *OPTIONS, "--run", "another") == 0
    Path("file").touch()
    refused(["--run", "file"], "file exists")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file/run", "Not a directory"),
        ("/proc/run", "No such file or directory"),
        ("/proc/deep/er/run", "No such file or directory"),
        ("long" * 100, "File name too long"),
        ("a" * 250, "File name too long"),  # fits, but not with what is added while it is written
    ],
)
def test_a_place_where_nothing_can_be_written(
    refused: Callable[..., str], place: str, said: str
) -> None:
    Path("file").touch()
    refused(["--run", place], "cannot write ", f"{place}: {said}; choose another place")


# Data


def save(array: np.ndarray) -> list[str]:
    np.save("images.npy", array)
    return ["--data", "Arrays", "--data.path", "images.npy"]


IMAGES = np.random.default_rng(0).random((200, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (np.where(IMAGES < 0.01, np.nan, IMAGES), [], ["NaN"]),
        (IMAGES[:, 0], [], ["(N, H, W)", "(200, 4)"]),
        (IMAGES, ["--likelihood", "Bernoulli"], ["--data.binarize dynamic"]),
        (IMAGES[:100], [], ["--batch_size: expected at most 80", "got 100"]),
    ],
    ids=range(4),
)
def test_bad_arrays(
    refused: Callable[..., str], array: np.ndarray, options: list[str], said: list[str]
) -> None:
    refused([*save(array), *options], *said)


def test_a_damaged_file(refused: Callable[..., str]) -> None:
    arguments = save(IMAGES)
    Path("images.npy").write_bytes(Path("images.npy").read_bytes()[:-7])
    refused(arguments, "images.npy")
    Path("pictures").mkdir()
    Path("pictures/1.png").write_bytes(b"no picture")
    refused(["--data", "ImageFolder", "--data.path", "pictures"], "pictures/1.png")


# Pairs


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "Conditional", "--guide", "ConditionalNormal"],
        ["--labels", "10"],
        ["--objective", "SemiSupervisedELBO"],
    ],
)
def test_one_step_leads_to_a_semi_supervised_pair(refused, arguments: list[str]) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(60, 5, 4), dtype=np.uint8)
    np.savez("images.npz", images=pixels, labels=np.arange(60) % 4 - 1)
    data = ["--data", "Arrays", "--data.path", "images.npz", "--batch_size", "20"]
    said = refused(
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
        ("WrongSite", ["samples ['zz']", "the model samples ['z']"]),
        ("ExtraSite", ["samples ['w', 'z']", "the model samples ['z']"]),
        ("StrayParameter", ["pyro.param belongs to no module", "PyroParam"]),
        ("Complex", ["the guide's parameter phase is complex", "real and imaginary part"]),
        ("Breaks", ["Breaks does not run on images (1, 8, 8)"]),
        ("Incomplete", ["Incomplete is not complete", "q(z|x) of Incomplete is not one"]),
        ("ConstructorRefuses", ["ConstructorRefuses: expected another spec"]),
    ],
)
def test_a_guide_that_does_not_fit(refused: Callable[..., str], name: str, said: list[str]) -> None:
    refused(["--guide", f"classes_of_bad_input.{name}"], *said)


def test_a_pair_that_is_not_finite_before_training(refused: Callable[..., str]) -> None:
    refused(["--likelihood", "classes_of_bad_input.NanFromTheStart"], "site 'x' in the model")


class Batched(Network):
    """A network that cannot do with a single image."""

    def __init__(self, inputs, outputs, hidden: Sequence[int] = (8,)) -> None:
        super().__init__(inputs, outputs)
        self.layers = nn.Sequential(
            nn.Linear(math.prod(inputs), 8), nn.BatchNorm1d(8), nn.Linear(8, math.prod(outputs))
        )

    def compute(self, x):
        return self.layers(x.flatten(1))


class Tied(Network):
    """A network that has one layer under two names, which its cast parameters do not reach."""

    def __init__(self, inputs, outputs, hidden: Sequence[int] = (8,)) -> None:
        super().__init__(inputs, outputs)
        self.first, self.last = nn.Linear(math.prod(inputs), 8), nn.Linear(8, math.prod(outputs))
        self.middle = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def compute(self, x):
        return self.last(self.middle(self.first(x.flatten(1))))


def test_a_batch_of_one_image_where_a_network_takes_none(refused) -> None:
    """1,297 images in batches of 162 leave one."""
    network = "classes_of_bad_input.Batched"
    said = "cannot be trained on a batch of 1: Expected more than 1 value per channel"
    refused(["--network", network, "--batch_size", "162"], said, "another --batch_size")


def test_a_network_that_cannot_compute_in_bfloat16(refused, monkeypatch) -> None:
    # A CPU without bfloat16 takes float32 instead; here it is to emulate it.
    monkeypatch.setattr(preparation, "slow_precision", lambda dtype, device: False)
    network = "classes_of_bad_input.Tied"
    refused(
        ["--network", network, "--precision", "bfloat16"],
        "cannot be trained on a batch of", "in bfloat16", "choose another --precision",
    )  # fmt: skip
