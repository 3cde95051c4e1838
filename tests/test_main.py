"""`ppl-vae VERB`: the same as `python -m ppl_vae.VERB`."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_runs import OPTIONS, exit_code

import ppl_vae.__main__
import ppl_vae.fit

Run = Callable[..., int]
Printed = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("no_pictures", "empty_folder")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`ppl-vae ARGUMENTS`, as far as its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ppl-vae", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as end:
            ppl_vae.__main__.main()
        return end.value.code

    return run


def test_a_verb_is_the_same_as_its_module(command: Run, capsys: Printed) -> None:
    assert command("fit", *OPTIONS, "--run", "one") == 0
    assert exit_code(ppl_vae.fit, *OPTIONS, "--run", "two") == 0
    for name in ("config.yaml", "metrics.csv"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    capsys.readouterr()
    assert command("evaluate", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: python -m ppl_vae.evaluate")


def test_the_verbs_are_listed(command: Run, capsys: Printed) -> None:
    for arguments, code in (([], 2), (["--help"], 0), (["-h"], 0)):
        assert command(*arguments) == code
        printed = capsys.readouterr().out
        for verb in ppl_vae.__main__.VERBS:
            assert f"  {verb} " in printed


def test_the_version(command: Run, capsys: Printed) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out == f"ppl-vae {version('ppl-vae')}\n"


def test_a_verb_that_is_not_there(command: Run, capsys: Printed) -> None:
    assert command("evalute", "run") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: verb: got 'evalute' (did you mean evaluate?)")
    assert said.count("\n") == 1


def test_a_command_finds_classes_in_the_folder_it_runs_in(command: Run, capsys: Printed) -> None:
    Path("cwd_guide.py").write_text(
        "from guides import DiagonalNormal\nclass Mine(DiagonalNormal):\n    pass\n"
    )
    assert command("fit", "--guide", "cwd_guide.Mine", "--epochs", "0") == 2
    assert capsys.readouterr().err == "error: expected --epochs >= 1; got 0\n"
    sys.modules.pop("cwd_guide")
