"""Imports point one way: models <- guides <- ppl_vae."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"models": {"guides", "ppl_vae"}, "guides": {"ppl_vae"}, "ppl_vae": set()}
FILES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = [path for path in FILES if path.name == "__init__.py" or not path.name.startswith("_")]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def imported(source: str) -> set[str]:
    """The top-level packages that a file imports, at any depth; relative ones are its own."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(str(node.module).split(".")[0])
            if node.module == "ppl_vae":  # which re-exports the other two
                packages |= {alias.name for alias in node.names}
    return packages


def test_the_walk_sees_every_kind_of_import() -> None:
    source = "\n".join(
        [
            "import torch.nn as nn, guides.guide",
            "from models import VAE",
            "from . import sibling",
            "def late():",
            "    from ppl_vae.fit import fit",
        ]
    )
    assert imported(source) == {"torch", "guides", "models", "ppl_vae"}
    assert imported("from ppl_vae import models") == {"ppl_vae", "models"}


def test_every_package_has_files() -> None:
    for package in FORBIDDEN:
        assert ROOT / package / "__init__.py" in FILES


@every_file
def test_no_import_runs_up(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert not imported(path.read_text()) & FORBIDDEN[package]


@every_file
def test_no_package_imports_the_tests(path: Path) -> None:
    assert not imported(path.read_text()) & {"tests", "benchmarks", "conftest", "pytest"}


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    # A script run from inside the folder would import it in place of the other.
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_public_module_says_what_is_public(path: Path) -> None:
    assigned = {
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert "__all__" in assigned
