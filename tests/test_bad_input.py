"""Bad input ends in one clear line and exit code 2, and leaves nothing behind."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny_runs import OPTIONS, exit_code

import ppl_vae.fit
from ppl_vae import evaluate, features, posterior

pytestmark = pytest.mark.usefixtures("no_pictures", "empty_folder")


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
        (
            ["--guide.flows", "3"],
            ["option of DiagonalNormal: got 'flows'; it has none; classes with this option: IAF"],
        ),
        (["--likelihood", "Gaussian", "--likelihood.scal", "x"], ["did you mean scale?"]),
        (
            ["--likelihood", "Gaussian", "--likelihood.floor", "x"],
            ["--likelihood.floor: expected a number; got x"],
        ),
        (
            ["--prior", "Flow", "--prior.flows", ""],
            ["--prior.flows: expected a whole number; got ''"],
        ),
        (["--prior", "Flow", "--prior.flows", "null"], ["expected flows >= 1, a whole number"]),
        (
            ["--likelihood", "BetaBinomial", "--likelihood.floor", "1e400"],
            ["BetaBinomial: expected floor > 0, a finite number; got inf"],
        ),
        (["--patience", "x"], ["--patience: expected a whole number; got x"]),
        (
            ["--likelihood", "Gaussian", "--likelihood.scale", "foo"],
            ["--likelihood.scale: expected one of 'shared', 'pixel', 'network'; got foo"],
        ),
        (["--prior", "MixtureOfNormals", "--prior.compo", "3"], ["did you mean components?"]),
        (["--likelihood", "Gaussian", "--likelihood.floor", "-1"], ["expected floor > 0"]),
        (["--guide.flows"], ["--guide.flows: expected a value; got none"]),
        (["--epochs"], ["--epochs: expected one argument; got none"]),
        (["--warmup_epochs", "x"], ["--warmup_epochs: expected a number; got x"]),
        (["--allow_code", "maybe"], ["--allow_code: expected true or false; got maybe"]),
        (["--data", "Arrays"], ["expected --data.path PATH; got none"]),
        (
            ["--guide", "SemiAmortized", "--guide.guide", "IAF", "--guide.guide.flows", "x"],
            ["--guide.guide.flows: expected a whole number; got x"],
        ),
        (
            ["--guide", "SemiAmortized", "--guide.guide", "IAF", "--guide.guide.flos", "2"],
            ["--guide.guide: unknown option of IAF: got 'flos' (did you mean flows?)"],
        ),
        (
            ["--guide", "SemiAmortized", "--guide.guide.flows", "2"],
            ["--guide.guide: unknown option of DiagonalNormal: got 'flows'; it has none"],
        ),
        (["--network.hidden", "[0]"], ["--network MLP: expected hidden of sizes >= 1; got [0]"]),
        (
            ["--guide", "IAF", "--guide.flows", "0"],
            ["--guide IAF: expected flows >= 1; got 0"],
        ),
        # An option without the class that has it
        (
            ["--likelihood.scale", "pixel"],
            ["--likelihood.scale: expected a class that has this option beside it: --likelihood G"],
        ),
        (
            ["--prior.components=5"],
            ["class that has this option beside it: --prior MixtureOfNormals or --prior VampPrior"],
        ),
        (
            ["--prior.component", "5"],
            ["--prior: no class has this option: got 'component' (did you mean components?)"],
        ),
        (["--guide.help", "Zzyzx"], ["--guide: got 'Zzyzx'; expected one of ", "BottomUp, Class"]),
        (["--prior.help=Vamp"], ["--prior: got 'Vamp' (did you mean VampPrior?); expected one of"]),
        (["--network.hidden", "abc"], ["expected a list, as '[1, 2]'; got abc"]),
        (["stray"], ["no more arguments", "stray"]),
        # Numbers
        (["--epochs", "0"], ["expected --epochs >= 1; got 0"]),
        (["--epochs", "1.5"], ["--epochs: expected a whole number; got 1.5"]),
        (["--batch_size", "1298"], ["--batch_size: expected at most 1,297", "got 1,298"]),
        (
            ["--objective", "MMD", "--batch_size", "1"],
            ["--batch_size: expected at least 2, 2 images for each process with --objective MMD"],
        ),
        (["--learning_rate", "nan"], ["--learning_rate: expected a finite number; got nan"]),
        (["--learning_rate", ".nan"], ["expected --learning_rate > 0, a finite number; got nan"]),
        (["--epochs", "1e3"], ["--epochs: expected a whole number; got 1e3"]),
        (["--objective.particles=1e3"], ["particles: expected a whole number; got 1e3"]),
        (["--warmup_epochs", "-1"], ["expected --warmup_epochs >= 0; got -1"]),
        (["--warmup_epochs", "3", "--epochs", "3"], ["--warmup_epochs < --epochs 3; got 3"]),
        (["--seed", "-1"], ["--seed: expected 0 <= seed < 2^32; got -1"]),
        (
            ["--model", "SemiSupervised", "--guide", "SemiSupervisedNormal", "--labels", "5"],
            ["--labels: expected 10, one for each class, to 1,297", "; got 5"],
        ),
        (["--objective.particles", "0"], ["expected particles >= 1; got 0"]),
        # Places
        (["--device", "tpu"], ["--device: expected auto, cpu, cuda or cuda:N; got 'tpu'"]),
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
def test_a_bad_argument(
    fit_refuses: Callable[..., str], arguments: list[str], said: list[str]
) -> None:
    fit_refuses(arguments, *said)


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
        ["--network", "tiny_runs.Tied", "--precision", "bfloat16"],
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


def test_no_cuda_device(fit_refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fit_refuses(["--device", "cuda"], "no usable CUDA device", "--device cpu")


def test_a_precision_of_gpus(fit_refuses: Callable[..., str]) -> None:
    fit_refuses(["--precision", "tensorfloat32"], "expected a GPU", "got cpu; choose float32 or")


def test_resume_takes_no_other_option(fit_refuses: Callable[..., str]) -> None:
    fit_refuses(["--resume", "run"], "--resume takes everything else", "leave out --network.hidden")


def test_resume_of_what_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for name, said in (("nowhere", "there is no such folder"), ("empty", "it has no config.yaml")):
        assert exit_code(ppl_vae.fit, "--resume", name) == 2
        line = capsys.readouterr().err
        assert line == f"error: {name}: expected a run directory; {said}\n"


def test_an_existing_run(fit_refuses: Callable[..., str]) -> None:
    assert exit_code(ppl_vae.fit, *OPTIONS, "--run", "run") == 0
    fit_refuses(["--run", "run"], "run exists", "--resume run", "another name with --run")
    assert exit_code(ppl_vae.fit, "--resume", "run") == 0
    assert exit_code(ppl_vae.fit, *OPTIONS, "--run", "another") == 0
    Path("file").touch()
    fit_refuses(["--run", "file"], "file exists")


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
    fit_refuses: Callable[..., str], place: str, said: str
) -> None:
    Path("file").touch()
    fit_refuses(["--run", place], "cannot write ", f"{place}: {said}; choose another place")


# Data


def save(array: np.ndarray) -> list[str]:
    np.save("images.npy", array)
    return ["--data", "Arrays", "--data.path", "images.npy"]


IMAGES = np.random.default_rng(0).random((200, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (np.where(IMAGES < 0.01, np.inf, IMAGES), [], ["NaN where a pixel is missing", "infinite"]),
        (np.where(IMAGES[:, :1, :1] < 0.02, np.nan, IMAGES), [], ["5 of 200", "at index 38, 84"]),
        (IMAGES[:, 0, 0], [], ["(N, H, W)", "(200,)"]),
        (IMAGES, ["--likelihood", "Bernoulli"], ["--data.binarize dynamic"]),
        (IMAGES[:100], ["--batch_size", "100"], ["--batch_size: expected at most 80", "got 100"]),
    ],
    ids=range(5),
)
def test_bad_arrays(
    fit_refuses: Callable[..., str], array: np.ndarray, options: list[str], said: list[str]
) -> None:
    fit_refuses([*save(array), *options], *said)


def test_a_damaged_file(fit_refuses: Callable[..., str]) -> None:
    arguments = save(IMAGES)
    Path("images.npy").write_bytes(Path("images.npy").read_bytes()[:-7])
    fit_refuses(arguments, "images.npy")
    Path("pictures").mkdir()
    Path("pictures/1.png").write_bytes(b"no picture")
    fit_refuses(["--data", "ImageFolder", "--data.path", "pictures"], "pictures/1.png")


@pytest.mark.parametrize("verb", [evaluate, features, posterior])
def test_a_verb_without_a_run(verb: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(verb) == 2
    example = f"python -m {verb.__name__} runs/Digits-VAE-1"
    said = f"error: expected the run directory, as in {example}; got none\n"
    assert capsys.readouterr().err == said
