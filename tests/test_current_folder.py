"""Files of the user in the current folder: classes are found there, libraries are not."""

from pathlib import Path

import pytest
import yaml
from tiny_runs import OPTIONS, exit_code, python

import models
import ppl_vae.__main__
import ppl_vae.fit
from ppl_vae.runs.config import read_config

Printed = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("no_pictures", "empty_folder")


@pytest.mark.parametrize("name", ["models", "guides"])
def test_a_folder_that_shadows_ours(name: str) -> None:
    Path(name).mkdir()
    Path(name, "__init__.py").write_text("raise SystemExit('this one was imported')")
    process = python("-c", "import ppl_vae", cwd=Path.cwd())
    assert process.returncode == 1
    line = process.stderr.splitlines()[-1]
    assert line.startswith(f"ImportError: ppl_vae needs its own package {name!r}")
    assert f"Python found {Path.cwd() / name}; rename that one, or run from another folder" in line
    assert "this one was imported" not in process.stderr


LIBRARIES = (
    "PIL", "filelock", "jsonargparse", "matplotlib", "networkx", "numpy", "pyro", "rich",
    "safetensors", "scipy", "sklearn", "torch", "yaml", "csv", "json", "platform", "random",
)  # fmt: skip


@pytest.mark.parametrize("start", ["-mppl_vae.fit", "-m ppl_vae fit"])
def test_a_file_named_like_a_library_does_not_run(start: str) -> None:
    """But a class of the user's own is found beside it."""
    for name in LIBRARIES:
        Path(f"{name}.py").write_text("open('sprung', 'a').write(__name__)")
    Path("mine.py").write_text(
        "from guides import DiagonalNormal\nclass Mine(DiagonalNormal):\n    pass\n"
    )
    options = [*OPTIONS, "--guide", "mine.Mine", "--run", "run"]
    process = python(*start.split(), *options, cwd=Path.cwd())
    assert process.returncode == 0, process.stderr
    assert not Path("sprung").exists()
    assert read_config(Path("run/config.yaml"))["guide"]["class_path"] == "mine.Mine"


def test_a_class_in_a_file_that_a_library_hides(capsys: Printed) -> None:
    Path("yaml.py").touch()
    Path("models").mkdir()
    assert exit_code(ppl_vae.fit, "--guide", "yaml.Mine") == 2
    said = capsys.readouterr().err
    assert "the module yaml has no class Mine; " in said
    assert f"yaml.py in the current folder is hidden by {yaml.__file__}; rename it\n" in said
    assert exit_code(ppl_vae.fit, "--guide", "models.mine.Mine") == 2
    said = capsys.readouterr().err
    assert f"models in the current folder is hidden by {models.__file__}; rename it\n" in said


PROGRAM = """
import sys
before = list(sys.path)
import ppl_vae
assert sys.path == before
import mine
"""


def test_programs_of_others_keep_their_path() -> None:
    Path("mine.py").touch()
    Path("program.py").write_text(PROGRAM)
    for arguments in (["-m", "program"], ["-c", PROGRAM, "-m", "ppl_vae.fit"]):
        process = python(*arguments, cwd=Path.cwd())
        assert process.returncode == 0, process.stderr
