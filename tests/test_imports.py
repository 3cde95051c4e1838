"""Imports run one way: down the list of the wings."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each line may import what stands on the lines above it, and its own wing.
LEVELS = [
    {"models", "errors"},
    {"guides", "machine"},
    {"pictures", "data", "compiler", "densities"},
    {"objectives", "measures", "inference", "coding"},
    {"pairs"},
    {"runs"},
    {"training", "latents", "command_line"},
    {"report"},
    {"verbs"},
]
LEVEL = {wing: level for level, wings in enumerate(LEVELS) for wing in wings}
PACKAGES = ("models", "guides", "ppl_vae")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def wing_of(module: str) -> str:
    """The wing that a module of the project is in; the verbs are those of no other."""
    package, *below = module.split(".")
    if package != "ppl_vae":
        return package
    return below[0] if below and below[0] in LEVEL else "verbs"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


WINGS = sorted({wing_of(module_of(path)) for path in FILES})


def imported(source: str) -> set[str]:
    """The modules that a file imports, at any depth; relative ones are its own."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module)
            if node.module == "ppl_vae":  # the names are modules of its own, or the other two
                names = {alias.name for alias in node.names}
                modules |= {n if n in PACKAGES else f"ppl_vae.{n}" for n in names}
    return modules


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
    assert imported(source) == {"torch.nn", "guides.guide", "models", "ppl_vae.fit"}
    assert imported("from ppl_vae import models, data") == {"ppl_vae", "models", "ppl_vae.data"}
    assert wing_of("guides.guide") == "guides"
    assert wing_of("ppl_vae.data.digits") == "data"
    assert wing_of("ppl_vae.fit") == wing_of("ppl_vae") == "verbs"


@pytest.mark.parametrize("wing", WINGS)
def test_imports_of_a_wing_run_down(wing: str) -> None:
    files = [path for path in FILES if wing_of(module_of(path)) == wing]
    for path in files:
        modules = imported(path.read_text())
        for module in modules:
            assert module.split(".")[0] not in {"tests", "benchmarks", "conftest", "pytest"}, path
        own = {wing_of(module) for module in modules if module.split(".")[0] in PACKAGES}
        up = {other for other in own - {wing} if LEVEL[other] >= LEVEL[wing]}
        assert not up, f"{path} imports from {', '.join(sorted(up))}"


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    # A script run from inside the folder would import it in place of the other.
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & sys.stdlib_module_names


def test_every_public_module_says_what_is_public() -> None:
    for path in FILES:
        assigned = {
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert path.name.startswith("_") or "__all__" in assigned, path


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 320, path
