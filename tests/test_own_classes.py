"""A user's own class in a config is imported with leave, and in no other way."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin

import pytest
import yaml
from tiny_runs import OPTIONS, exit_code, load_refuses, tiny

from ppl_vae import load
from ppl_vae.evaluate import main as evaluate
from ppl_vae.fit import main
from ppl_vae.pairs.pieces import ROLES, is_outside, options_of, subclasses
from ppl_vae.runs.config import read_config

OWN_GUIDE = """
from pathlib import Path
from guides import DiagonalNormal
from models import MLP

Path(__file__).with_suffix(".imported").touch()


class Powered(DiagonalNormal):
    def __init__(self, spec, network=MLP, power: int = 1):
        super().__init__(spec, network)
        self.power = power

    def posterior(self, x):
        return super().posterior(x**self.power)
"""


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def own_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A user's own module; tells whether it was imported since it was asked last."""
    name = "powered_guide"
    (tmp_path / f"{name}.py").write_text(OWN_GUIDE)
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / f"{name}.imported"

    def imported() -> bool:
        was = mark.exists()
        mark.unlink(missing_ok=True)
        sys.modules.pop(name, None)
        return was

    imported()
    return imported


def test_a_class_of_ones_own(
    own_guide: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, refused without leave, and loaded, evaluated and gone on with otherwise."""
    path = tmp_path / "run"
    own = ["--guide.power", "3", "--guide", "powered_guide.Powered"]
    assert exit_code(main, *own, *OPTIONS, "--run", str(path)) == 0
    assert own_guide()
    config = read_config(path / "config.yaml")
    assert config["guide"] == {"class_path": "powered_guide.Powered", "init_args": {"power": 3}}

    load_refuses(path, "powered_guide.Powered is code from outside", "--allow_code true")
    capsys.readouterr()
    few = ["--particles", "2", "--data_points", "10"]
    assert exit_code(evaluate, str(path), *few) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: guide: powered_guide.Powered is code from outside")
    assert said.count("\n") == 1
    assert exit_code(main, "--config", f"{path}/config.yaml") == 2
    assert exit_code(main, "--resume", str(path)) == 2
    assert not own_guide()
    assert not (path / "evaluation.json").exists()

    assert load(path, allow_code=True).guide.power == 3
    assert own_guide()
    allow = ["--allow_code", "true"]
    assert exit_code(evaluate, str(path), *few, *allow) == 0
    assert json.loads((path / "evaluation.json").read_text())["particles"] == 2
    assert exit_code(main, "--resume", str(path), *allow) == 0
    again = ["--config", f"{path}/config.yaml", "--run", f"{tmp_path}/again", *allow]
    assert exit_code(main, *again) == 0
    assert read_config(tmp_path / "again" / "config.yaml") == config
    metrics = [(folder / "metrics.csv").read_bytes() for folder in (path, tmp_path / "again")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    "config",
    [
        "guide: OWN",
        "guide.class_path: OWN",
        "guide: other.yaml",
        "config: other.yaml",
        "guide: {class_path: DiagonalNormal, init_args: {class_path: OWN}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: OWN}}",
        "guide: {class_path: SemiAmortized, init_args: {guide.class_path: OWN}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: other.yaml}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: '{class_path: OWN}'}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: {class_path: OWN}}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: {class_path: SemiAmortized, "
        "init_args: {guide: OWN}}}}",
        "guide: &own {class_path: SemiAmortized, init_args: {guide: *own}}",
        "allow_code: true\nguide: {class_path: OWN}",
    ],
)
def test_no_way_of_writing_a_config_imports_code(
    own_guide: Callable[[], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("class_path: powered_guide.Powered")
    config = config.replace("OWN", "powered_guide.Powered")
    Path("config.yaml").write_text(f"epochs: 0\n{config}\n")
    for argument in (["--config", "config.yaml"], ["--config=config.yaml"]):
        assert exit_code(main, *argument) == 2
    assert exit_code(main, "--guide", "other.yaml", "--epochs", "0") == 2
    assert not own_guide()


def test_an_option_that_is_no_piece_is_plain_data() -> None:
    """For any other type the parser might import what a config says."""
    lists = {Sequence[int], Sequence[int | str], Sequence[Sequence[int]]}
    plain = {int, float, bool, str, Path, NoneType, *lists}
    for base in ROLES.values():
        for cls in (c for c in subclasses(base) if not is_outside(f"{c.__module__}.")):
            for name, option in options_of(cls).items():
                kind = option.annotation
                parts = set(get_args(kind)) if isinstance(kind, UnionType) else {kind}
                assert name in ROLES or get_origin(kind) is Literal or parts <= plain, (cls, name)


def test_no_verb_imports_code_that_is_an_option_of_a_piece(
    own_guide: Callable[[], bool], tmp_path: Path
) -> None:
    run = tiny(tmp_path / "run")
    for own in ("powered_guide.Powered", {"class_path": "powered_guide.Powered"}):
        guide = {"class_path": "guides.SemiAmortized", "init_args": {"guide": own}}
        (run.path / "config.yaml").write_text(yaml.safe_dump(run.config | {"guide": guide}))
        load_refuses(run.path, "powered_guide.Powered")
        assert exit_code(evaluate, str(run.path)) == 2
        assert exit_code(main, "--resume", str(run.path)) == 2
        assert exit_code(main, "--config", f"{run.path}/config.yaml") == 2
    assert not own_guide()
