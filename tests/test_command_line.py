"""The command line: order, configs, errors and exit codes."""

import os
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import jsonargparse
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from tiny_runs import OPTIONS, exit_code, python

import ppl_vae.__main__
import ppl_vae.fit
from guides import IAF
from ppl_vae.command_line import parser
from ppl_vae.command_line.verbs import run_verb
from ppl_vae.errors import InputError
from ppl_vae.pairs.descriptions import describe
from ppl_vae.pairs.pieces import resolve_class

HOME = Path(ppl_vae.__file__).resolve().parent.parent

Run = Callable[..., int]
Printed = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("no_pictures", "empty_folder")


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """The config of a run with such options, which is not trained."""
    configs: list[dict] = []

    def prepare(path: Path, config: dict, *rest: object) -> None:
        configs.append(config)
        raise InputError("it would be trained")

    def fit(*arguments: str) -> dict:
        monkeypatch.setattr(ppl_vae.fit, "prepare", prepare)
        assert exit_code(ppl_vae.fit, *arguments) == 2
        return configs.pop()

    return fit


@pytest.mark.parametrize(
    "arguments",
    [
        ["--likelihood.scale", "pixel", "--likelihood", "Gaussian"],
        ["--likelihood", "Gaussian", "--likelihood.scale", "pixel"],
        ["--likelihood.scale=pixel", "--likelihood=Gaussian"],
        ["--likelihood", "models.Gaussian", "--likelihood.scale", "pixel"],
        ["--likelihood.scale", "pixel", "--config", "base.yaml"],
        ["--config=base.yaml", "--likelihood.scale=pixel"],
    ],
    ids=" ".join,
)
def test_the_order_of_options_does_not_matter(configured, arguments: list[str]) -> None:
    Path("base.yaml").write_text("likelihood:\n  class_path: models.Gaussian\n")
    likelihood = configured(*OPTIONS, *arguments)["likelihood"]
    assert likelihood["class_path"] == "models.Gaussian"
    assert likelihood["init_args"]["scale"] == "pixel"


def test_the_printed_config_is_one(capsys: Printed) -> None:
    options = [*OPTIONS, "--likelihood", "Gaussian", "--likelihood.scale", "pixel", "--seed", "4"]
    assert exit_code(ppl_vae.fit, *options, "--print_config") == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert os.listdir() == ["printed.yaml"]
    assert exit_code(ppl_vae.fit, "--config", "printed.yaml", "--run", "one") == 0
    assert exit_code(ppl_vae.fit, *options, "--run", "two") == 0
    for name in ("config.yaml", "metrics.csv"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    assert yaml.safe_load(Path("one/config.yaml").read_text())["seed"] == 4


def test_a_fit_ends_with_a_table(capsys: Printed) -> None:
    assert exit_code(ppl_vae.fit, *OPTIONS) == 0
    printed = capsys.readouterr().out
    run = Path("runs/Digits-VAE-1")
    last = (run / "metrics.csv").read_text().splitlines()[-1].split(",")
    for value in last[-3:]:
        assert f"{float(value):.2f} nats per datum" in printed
    assert f"python -m ppl_vae.evaluate {run}" in printed


def test_a_bad_option_of_the_command_itself() -> None:
    process = python("-m", "ppl_vae.fit", "--latentdim", "3", cwd=Path.cwd())
    assert process.returncode == 2
    assert process.stderr == (
        "error: there is no option --latentdim (did you mean --latent_dim?); "
        "--help lists those there are\n"
    )
    assert process.stdout == ""
    assert not os.listdir()


@pytest.mark.parametrize("package", ["jsonargparse", "torch"])
def test_the_installed_version_is_one_that_was_tried(package: str) -> None:
    """The wording of jsonargparse's errors and private functions of torch may change with each."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    (needed,) = (r for r in map(Requirement, project["dependencies"]) if r.name == package)
    assert "<" in str(needed.specifier)
    assert version(package) in needed.specifier


def test_the_wording_of_errors_that_are_taken_apart() -> None:
    """`ppl_vae.command_line.parser` reads it; jsonargparse is pinned to it in pyproject.toml."""
    raw = jsonargparse.ArgumentParser(exit_on_error=False)
    raw.add_argument("--number", type=int)
    raw.add_argument("--choice", type=Literal["a", "b"])
    raw.add_argument("place", type=int)
    for arguments, key, wording in (
        (["--number", "x", "1"], "number", "Expected a <class 'int'>. Got value: x"),
        (["--choice", "x", "1"], "choice", "Expected a typing.Literal['a', 'b']. Got value: x"),
        (["1", "2"], None, parser._STRAY + "2"),
        ([], None, parser._REQUIRED + "place"),
    ):
        with pytest.raises(jsonargparse.ArgumentError) as caught:
            raw.parse_args(arguments)
        assert wording in str(caught.value)
        if key:
            assert str(caught.value).startswith(f'{parser._KEY}{key}"')
            assert str(caught.value.__cause__.__cause__) == wording


# Other systems

# asyncio asks os.sysconf as it is imported, since Python 3.12.
ELSEWHERE = """
import asyncio, os, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.sched_getaffinity, os.sysconf
import numpy
numpy.save("images.npy", numpy.zeros((200, 4, 4), dtype="uint8"))
import ppl_vae.fit
for name, where in (("on disk", ["--data.memory_gib", "0"]), ("in memory", [])):
    try:
        ppl_vae.fit.main([*sys.argv[1:], *where, "--run", name])
    except SystemExit as end:
        assert end.code == 0
"""


def test_a_system_without_what_only_linux_has() -> None:
    """No fcntl and no resource, as on Windows; no word on cores and free memory, as on macOS."""
    options = [*OPTIONS, "--data", "Arrays", "--data.path", "images.npy"]
    process = python("-c", ELSEWHERE, *options, cwd=Path.cwd())
    assert process.returncode == 0, process.stderr
    for name in ("on disk", "in memory"):
        assert Path(name, "summary.json").is_file()


# Exit codes


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("expected this; got that"), 2, "error: expected this; got that\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("stopped; go on"), 130, "stopped; go on\n"),
        (
            OSError(28, "No space left on device", "a.csv"),
            2,
            "error: cannot write a.csv: No space left on device; choose another place\n",
        ),
        (
            OSError(30, "Read-only file system", "a.csv"),
            2,
            "error: cannot write a.csv: Read-only file system; choose another place\n",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
            2,
            "error: out of memory (CUDA out of memory. Tried to allocate 20 GiB); choose fewer "
            "images or draws at a time, as a smaller --batch_size, or another --device\n",
        ),
        (BrokenPipeError(), 0, ""),
    ],
    ids=repr,
)
def test_how_a_verb_ends(
    error: BaseException,
    code: int,
    said: str,
    capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def verb(arguments: list[str]) -> None:
        raise error

    if isinstance(error, BrokenPipeError):
        monkeypatch.setattr(sys.stderr, "close", lambda: None)  # it is pytest's
    assert exit_code(lambda arguments: run_verb(verb, arguments)) == code
    assert capsys.readouterr().err == said


def test_a_defect_keeps_its_traceback() -> None:
    def verb(arguments: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_verb(verb, [])


@pytest.mark.parametrize(
    ("options", "role", "name", "kept"),
    [
        ([], "objective", "ELBO", {}),
        (["--objective", "IWAE"], "objective", "IWAE", {}),
        (["--objective", "ScoreFunction"], "objective", "ScoreFunction", {}),
        (["--objective=Renyi", "--objective.alpha", "0.3"], "objective", "Renyi", {"alpha": 0.3}),
        (["--network", "Residual"], "network", "Residual", {}),
        (["--config", "one.yaml"], "objective", "IWAE", {"gradient": "stl"}),
        (["--config", "one.yaml", "--objective", "Renyi"], "objective", "Renyi", {}),
        (["--config", "one.yaml", "--objective", "IWAE"], "objective", "IWAE", {"gradient": "stl"}),
        (["--config", "two.yaml", "--objective", "Renyi"], "objective", "Renyi", {}),
        (["--config", "two.yaml"], "objective", "ELBO", {"particles": 7}),
        (["--config", "two.yaml", "--guide.guide", "IAF"], "guide", "SemiAmortized", {}),
    ],
    ids=str,
)
def test_a_class_that_is_named_has_its_own_defaults(
    configured, options: list[str], role: str, name: str, kept: dict
) -> None:
    Path("one.yaml").write_text("objective: {class_path: IWAE, init_args: {gradient: stl}}\n")
    Path("two.yaml").write_text(
        "objective: {class_path: ELBO, init_args: {particles: 7}}\n"
        "guide: {class_path: SemiAmortized, init_args: {guide: {class_path: IAF}}}\n"
    )
    got = configured(*OPTIONS[2:], *options)[role]
    cls = resolve_class(role, name)
    own = describe(cls)
    assert got["class_path"] == own["class_path"]
    if name == "SemiAmortized":
        own["init_args"]["guide"] = describe(IAF)
    assert got["init_args"] == own["init_args"] | kept
