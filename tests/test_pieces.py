"""Pieces as Python and as configuration: there and back, and nothing else on the way."""

import ast
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from oracles import refused
from torch import nn

import models
import ppl_vae
from guides import DiagonalNormal, Guide
from models import MLP, VAE, Bernoulli, Gaussian, Spec
from ppl_vae.data import Arrays, Digits
from ppl_vae.errors import InputError
from ppl_vae.fit import fit
from ppl_vae.objectives import ELBO
from ppl_vae.pairs.building import build_pair, choose_domain
from ppl_vae.pairs.descriptions import describe, outside_classes, restore
from ppl_vae.pairs.pieces import class_of, resolve_class, subclasses

HOME = Path(ppl_vae.__file__).resolve().parent.parent

TRAP = """
from pathlib import Path
from guides import DiagonalNormal

Path("sprung").touch()


class Trap(DiagonalNormal):
    pass
"""


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `trap_module` that leaves a file, whose path this is, when it is imported."""
    (tmp_path / "trap_module.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return tmp_path / "sprung"


@pytest.mark.parametrize(
    ("role", "piece", "path", "options"),
    [
        ("guide", DiagonalNormal, "guides.DiagonalNormal", {}),
        ("model", VAE, "models.VAE", {}),
        (
            "likelihood",
            partial(Gaussian, scale="pixel"),
            "models.Gaussian",
            {"scale": "pixel", "initial_scale": 0.1, "floor": 1e-3},
        ),
        (
            "network",
            partial(partial(MLP, hidden=(5, 4)), activation="relu"),
            "models.MLP",
            {"hidden": [5, 4], "activation": "relu"},
        ),
        (
            "objective",
            ELBO(particles=3),
            "ppl_vae.objectives.ELBO",
            {"particles": 3, "analytic_kl": False},
        ),
    ],
)
def test_there_and_back(role: str, piece: object, path: str, options: dict) -> None:
    description = describe(piece)
    assert description == {"class_path": path, "init_args": options}
    again = restore(role, description)
    assert class_of(again) is class_of(piece)
    assert describe(again) == description


def test_a_path_is_kept_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    description = describe(Arrays(path=Path("images.npy")))
    assert description is not None
    assert description["init_args"]["path"] == str(tmp_path / "images.npy")
    assert Path(restore("data", description).path) == tmp_path / "images.npy"


def test_no_piece_is_none() -> None:
    assert describe(None) is None
    assert restore("prior", None) is None


def test_what_cannot_be_found_again_is_refused() -> None:
    class Local(DiagonalNormal):
        pass

    with pytest.raises(InputError, match="Local cannot be found again"):
        describe(Local)
    with pytest.raises(InputError, match=r"expected a class or functools\.partial"):
        describe(lambda spec: DiagonalNormal(spec))
    with pytest.raises(InputError, match="option hidden of MLP: expected what a config can hold"):
        describe(partial(MLP, hidden=nn.Tanh))
    with pytest.raises(InputError, match="option activation of MLP: expected one of 'tanh', "):
        describe(partial(MLP, activation=nn.Tanh))


@pytest.mark.parametrize(
    ("role", "piece", "said"),
    [
        ("network", partial(MLP, hiden=[3]), r"MLP: got 'hiden' \(did you mean hidden\?\); exp"),
        ("objective", partial(ELBO, particle=2), r"ELBO: got 'particle' \(did you mean particles"),
        ("guide", partial(DiagonalNormal, flows=4), "it has none; classes with this option: IAF"),
        ("data", partial(Digits, binarise="none"), "did you mean binarize"),
    ],
)
def test_an_option_that_the_class_does_not_have(role: str, piece: Any, said: str) -> None:
    with refused(rf"^{role}: unknown option of .*{said}"):
        fit(**{role: piece})


def test_subclasses_are_the_concrete_ones_by_name() -> None:
    found = subclasses(models.Likelihood)
    assert {Bernoulli, Gaussian} <= set(found)
    assert models.Likelihood not in found
    assert [cls.__name__ for cls in found] == sorted(cls.__name__ for cls in found)


@pytest.mark.parametrize(
    ("role", "path", "said"),
    [
        ("guide", "DiagonalNorml", "did you mean DiagonalNormal?"),
        ("guide", "diagonalnormal", "did you mean DiagonalNormal?"),
        ("likelihood", "Poisson", "expected one of "),
        ("guide", "models.VAE", "models.VAE is not a subclass of guides.Guide"),
        ("guide", "guides.Guide", "guides.Guide is abstract; it has to define forward"),
        ("guide", "guides.Nothing", "the module guides has no class Nothing"),
        ("guide", "nowhere.Guide", "cannot import nowhere.Guide"),
        ("guide", ".guides.Guide", "got '.guides.Guide'"),
        ("guide", "..", "got '..'"),
        ("guide", "", "got ''"),
        ("guide", "dir/mine.py", "got 'dir/mine.py'"),
        ("data", "os.system", "os.system is not a subclass of"),
        (
            "data",
            "ppl_vae.machine.files.os.system",
            "cannot import ppl_vae.machine.files.os.system",
        ),
        ("data", "builtins.eval", "builtins.eval is not a subclass of"),
    ],
)
def test_a_class_that_is_not_there(role: str, path: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_class(role, path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "ppl_vae.machine.files.os.system", "models.spec.Spec"]
)
def test_no_path_runs_what_is_no_piece(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("os.system", lambda *a: called.append(a))
    monkeypatch.setattr("subprocess.Popen", lambda *a: called.append(a))
    for allow_code in (False, True):
        with pytest.raises(InputError):
            restore("guide", {"class_path": path, "init_args": {"command": "x"}}, allow_code)
    assert not called


def test_code_from_outside_is_imported_only_when_allowed(trap: Path) -> None:
    description = {"class_path": "trap_module.Trap", "init_args": {}}
    with pytest.raises(InputError, match="code from outside the project; add --allow_code true"):
        restore("guide", description)
    assert not trap.exists()
    assert restore("guide", description, allow_code=True).__name__ == "Trap"
    assert trap.exists()


def test_outside_classes_are_found_at_any_depth() -> None:
    config = {
        "guide": {"class_path": "guides.DiagonalNormal", "init_args": {}},
        "prior": {
            "class_path": "models.Mixture",
            "init_args": {"of": [{"class_path": "mine.Part"}, {"a": {"class_path": "os.system"}}]},
        },
        "likelihood": {"class_path": "Bernoulli"},
        "model": {"class_path": "modelsmine.Evil"},
    }
    assert outside_classes(config) == ["mine.Part", "os.system", "modelsmine.Evil"]


@pytest.mark.parametrize(
    ("role", "path", "options", "said"),
    [
        ("guide", "guides.DiagonalNormal", {"flows": 3}, "no option 'flows'"),
        ("guide", "guides.DiagonalNormal", {"spec": 3}, "no option 'spec'"),
        ("objective", "ppl_vae.objectives.ELBO", {"particles": 0}, "particles >= 1; got 0"),
    ],
)
def test_an_option_that_is_wrong(role: str, path: str, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        restore(role, {"class_path": path, "init_args": options})


# Pairs


def test_a_pair_is_built_from_the_pieces_that_each_names() -> None:
    spec = Spec((1, 3, 3), "real", 2)
    pieces = {
        "model": VAE,
        "prior": models.StandardNormal,
        "likelihood": partial(Gaussian, scale="pixel"),
        "network": partial(MLP, hidden=(7,)),
        "guide": DiagonalNormal,
        "data": Digits(),
    }
    model, guide = build_pair(spec, pieces)
    assert isinstance(model, VAE)
    assert model.likelihood.log_scale.shape == (1, 3, 3)
    assert [layer.weight.shape for layer in model.decoder.layers[::2]] == [(7, 2), (9, 7)]
    assert isinstance(guide, Guide)
    assert [layer.weight.shape for layer in guide.encoder.layers[::2]] == [(7, 9), (4, 7)]
    assert choose_domain(pieces) == "real"
    assert choose_domain(pieces | {"likelihood": None}) == "binary"
    assert choose_domain(pieces | {"likelihood": None, "model": models.ProbabilisticPCA}) == "real"


def test_a_piece_without_a_place_is_refused() -> None:
    pieces = {
        "model": models.ProbabilisticPCA,
        "prior": models.StandardNormal,
        "likelihood": None,
        "network": MLP,
        "guide": DiagonalNormal,
    }
    with pytest.raises(InputError, match="ProbabilisticPCA has no prior to choose"):
        build_pair(Spec((1, 3, 3), "real", 2), pieces)


# Nothing that is loaded can run code


def calls(source: str) -> set[str]:
    """The names that a file calls, with the module that they are taken from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unpickles(source: str) -> set[str]:
    names = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    loads = {"torch.load", "yaml.load", "yaml.unsafe_load", "eval", "exec"}
    return {call for call in calls(source) if call in loads or call.split(".")[0] in names}


def test_the_walk_sees_what_unpickles() -> None:
    assert unpickles("import torch\nx = torch.load('a')") == {"torch.load"}
    assert unpickles("from pickle import loads") == {"pickle.loads"}
    assert unpickles("import yaml\nyaml.safe_load('a')") == set()


@pytest.mark.parametrize(
    "path",
    [p for name in ("models", "guides", "ppl_vae") for p in sorted((HOME / name).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(HOME)),
)
def test_nothing_unpickles(path: Path) -> None:
    assert not unpickles(path.read_text())
    assert "allow_pickle=True" not in path.read_text()
