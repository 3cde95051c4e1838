"""What the command line says of itself, and what it loads for that."""

from importlib.metadata import version

import pytest
from tiny_runs import exit_code, python

import ppl_vae.__main__
import ppl_vae.fit
from ppl_vae import evaluate, generate
from ppl_vae.pairs.pieces import ROLES, is_outside, subclasses

HEAVY = {
    "arviz", "arviz_base", "arviz_stats", "arviz_plots", "matplotlib", "torchvision", "PIL",
    "networkx", "rich", "scipy", "sklearn", "tensorboard",
}  # fmt: skip

Printed = pytest.CaptureFixture[str]


def own_subclasses(base: type) -> list[type]:
    return [cls for cls in subclasses(base) if not is_outside(f"{cls.__module__}.")]


@pytest.fixture(autouse=True)
def no_pieces_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that other test modules define are pieces too, once those are collected."""
    monkeypatch.setattr("ppl_vae.command_line.help.subclasses", own_subclasses)


@pytest.mark.parametrize(
    ("verb", "option", "said"),
    [
        (
            ppl_vae.fit,
            ["--help"],
            [
                "usage: python -m ppl_vae.fit [--PIECE CLASS] [--PIECE.OPTION VALUE] [--OPTION",
                "data: --data CLASS The data set: ",
                "model: --model CLASS The model p(x, z): ",
                "MixtureOfNormals, StandardNormal, VampPrior, ",
                "guide: --guide CLASS The guide q(z|x): ",
                ", or a dotted path to a class of yours (default: DiagonalNormal)",
                "training: --objective CLASS What is minimised: Beta, ",
                "at its peak. (a number; default: 0.001)",
                "run: --seed SEED The seed of all random numbers. (a whole number; default: 0)",
                "--run RUN The run directory to write; the first free one of runs/DATA-MODEL-1, ",
                "--guide.help lists the guides with a line each",
            ],
        ),
        (
            evaluate,
            ["--help"],
            [
                "--particles",
                "--data.path DIR where its files have moved",
                "--version Print the v",
                "--traceback {true,false} Whether an error shows its whole traceback.",
                "and all of other data. (train, validation, test, all)",
            ],
        ),
        (generate, ["--help"], ["usage: "]),
        (
            ppl_vae.fit,
            ["--likelihood.help", "Gaussian"],
            ["--likelihood.scale", ".floor"],
        ),
        (
            ppl_vae.fit,
            ["--guide.help", "IAF"],
            [
                "usage: python -m ppl_vae.fit --guide IAF [--guide.OPTION VALUE ...] IAF: N(mu, ",
                "--guide.flows FLOWS T, how many maps",
            ],
        ),
        (
            ppl_vae.fit,
            ["--guide", "SemiAmortized", "--guide.guide.help", "IAF"],
            ["python -m ppl_vae.fit --guide.guide IAF [", "--guide.guide.flows FLOWS T, how many"],
        ),
        (ppl_vae.fit, ["--data.help", "Arrays"], ["--data.path", "--data.binarize"]),
    ],
)
def test_help(verb, option: list[str], said: list[str], capsys: Printed) -> None:
    assert exit_code(verb, *option) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert not any(word in printed for word in ("Error", "CLASS_PATH", "class '", "| null"))
    assert option != ["--help"] or printed.startswith(f"usage: python -m {verb.__name__}")
    for part in said:
        assert part in printed


@pytest.mark.parametrize("role", ROLES)
def test_the_classes_of_a_piece_have_a_line_each(role: str, capsys: Printed) -> None:
    assert exit_code(ppl_vae.fit, f"--{role}.help", "--seed", "1") == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == f"--{role} takes one of these; --{role}.help NAME lists its options"
    for cls, line in zip(own_subclasses(ROLES[role]), lines, strict=True):
        name, said = line.split(maxsplit=1)
        assert (name, said) == (cls.__name__, cls.__doc__.partition("\n")[0])


@pytest.mark.parametrize("verb", [ppl_vae.fit, evaluate])
def test_the_version(verb, capsys: Printed) -> None:
    assert exit_code(verb, "--version") == 0
    assert capsys.readouterr().out == f"ppl-vae {version('ppl-vae')}\n"


HELP = """
import contextlib, importlib, io, sys
for verb in sys.argv[1:]:
    module = importlib.import_module(f"ppl_vae.{verb}")
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            module.main(["--help"])
        except SystemExit as end:
            assert end.code == 0
    assert "usage: " in text.getvalue()
print(*sys.modules)
"""


def test_help_loads_nothing_heavy() -> None:
    """Nor torch's compiler, for which only a run that compiles has to wait."""
    process = python("-c", HELP, *ppl_vae.__main__.VERBS)
    assert process.returncode == 0, process.stderr
    loaded = set(process.stdout.split())
    assert "torch" in loaded
    assert not loaded & {*HEAVY, "torch._inductor", "torch._dynamo"}
