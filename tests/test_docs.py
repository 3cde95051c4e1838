"""Every command, snippet, link and picture of the documentation works.

The blocks of a document run in order, in an empty folder and in this process. What makes them
shorter than they read, or finds the data, is this and nothing else:

- `OPTIONS` are added to the commands of a verb, `REAL_DATA_OPTIONS` to those that fit MNIST;
- `SHORTER` replaces numbers in Python blocks;
- `--data.root data` means the folder with the real data;
- `make TARGET` and the activation of the environment are looked up, not run.
"""

import gc
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from ppl_vae import __main__
from ppl_vae.data import DataSet
from ppl_vae.pairs.pieces import BASES, PROJECT_PACKAGES, options_of, subclasses

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCUMENTS, ROOT / "CHANGELOG.md"]

FEW = {
    "count": 5, "draws": 100, "predictive_draws": 4, "particles": 25, "gap_images": 1,
    "gap_steps": 2, "shown": 1, "nuts_draws": 4, "temperatures": 2, "simulations": 100,
}  # fmt: skip
OPTIONS = {
    "fit": ["--epochs", "1"],
    "evaluate": ["--particles", "2"],
    "posterior": [word for name, value in FEW.items() for word in (f"--{name}", str(value))],
    "generate": [],
    "detect": ["--particles", "2", "--data_points", "20", "--calibration_points", "100"],
    "features": [],
    "compress": [],
    "decompress": [],
    "recipes": [],
    "restore": ["--count", "2", "--draws", "20", "--particles", "25"],
}
REAL_DATA_OPTIONS = {"MNIST": ["--batch_size", "1000"]}
SHORTER = {
    r"\bepochs=\d+": "epochs=1",
    r"\bepoch in range\(\d+\)": "epoch in range(1)",
    r"\bparticles=1000\b": "particles=2",
}
# A block that mentions one of these needs the real data, or a run that was trained on them.
REAL_DATA = re.compile(r"--data (MNIST|FreyFace)|runs/(mnist|frey)")

LANGUAGES = {"bash", "console", "python", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    place: str
    language: str
    text: str


def blocks_of(document: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(document.read_text().splitlines(), 1):
        fence = re.match(r"\s*(?:```|~~~)(.*)", line)
        if fence and opened is None:
            opened = (number, fence[1].strip(), [])
        elif fence and opened is not None:
            found.append(Block(f"{document.name}:{opened[0]}", opened[1], "\n".join(opened[2])))
            opened = None
        elif opened is not None:
            opened[2].append(line)
    assert opened is None, f"{document.name}: a block that begins in line {opened} has no end"
    return found


def commands_of(block: Block) -> list[tuple[str, list[str]]]:
    """Each command with the lines that it is said to print."""
    text = block.text.replace("\\\n", " ")
    if block.language == "bash":
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return [(line, []) for line in lines]
    commands: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        else:
            assert commands, f"{block.place}: output before any command"
            commands[-1][1].append(line)
    return commands


def run_command(command: str, root: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([\w.$()]+):", (ROOT / "Makefile").read_text(), re.M)
        targets = [target.replace("$(VENV)", ".venv") for target in targets]
        assert set(words[1:]) <= set(targets), f"the Makefile has no such target: {command}"
        return
    if words[0] == "source":
        assert words[1:] == [".venv/bin/activate"], command
        assert "VENV := .venv" in (ROOT / "Makefile").read_text()
        return
    if words[0] == "torchrun":
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *words[1:], *OPTIONS["fit"]],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, command
        return
    if words[:2] == ["python", "-m"] and words[2].startswith("ppl_vae."):
        verb, arguments = words[2].removeprefix("ppl_vae."), words[3:]
    else:
        assert words[0] == "ppl-vae", f"no test knows how to run: {command}"
        verb, arguments = words[1], words[2:]
    assert verb in __main__.VERBS, command
    if "--resume" not in arguments and not any(".help" in word for word in arguments):
        arguments += OPTIONS[verb]
    for name, options in REAL_DATA_OPTIONS.items():
        if verb == "fit" and name in arguments:
            arguments += options
    for option, value in pairwise(arguments):
        if option == "--data.root":
            assert value == "data", f"expected --data.root data: {command}"
            arguments[arguments.index(value)] = str(root)
    if words[0] == "ppl-vae":
        monkeypatch.setattr(sys, "argv", ["ppl-vae", verb, *arguments])
        call = __main__.main
    else:

        def call() -> None:
            import_module(f"ppl_vae.{verb}").main(arguments)

    with pytest.raises(SystemExit) as left:
        call()
    assert left.value.code in (0, None), command


def without_numbers(text: str) -> set[str]:
    return {" ".join(re.sub(r"-?\d[\d,.]*", "N", line).split()) for line in text.splitlines()}


def run_python(block: Block, names: dict[str, object]) -> None:
    text = block.text
    if text.startswith("# mine.py\n"):
        Path("mine.py").write_text(text + "\n")
        return
    for pattern, shorter in SHORTER.items():
        text = re.sub(pattern, shorter, text)
    exec(compile(text, block.place, "exec"), names)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder whose modules can be imported, and no trace of them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))  # the installed command adds to it
    yield tmp_path
    sys.modules.pop("mine", None)
    gc.collect()  # so that the classes of mine.py are no one's subclasses any more


def parts() -> Iterator[object]:
    for document in DOCUMENTS:
        for real in sorted({bool(REAL_DATA.search(block.text)) for block in blocks_of(document)}):
            name = f"{document.name}{' on real data' if real else ''}"
            yield pytest.param(document, real, id=name)


@pytest.mark.parametrize(("document", "real"), list(parts()))
def test_every_block_runs(
    document: Path,
    real: bool,
    workplace: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = request.getfixturevalue("data_root") if real else None
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(document):
        if bool(REAL_DATA.search(block.text)) is not real or block.language == "text":
            continue
        try:
            if block.language == "python":
                run_python(block, names)
                continue
            for command, expected in commands_of(block):
                capfd.readouterr()
                run_command(command, root, monkeypatch)
                printed = capfd.readouterr()
                missing = without_numbers("\n".join(expected)) - without_numbers(
                    printed.out + printed.err
                )
                assert not missing, f"{command} does not print {sorted(missing)}"
        except (Exception, pytest.fail.Exception) as error:
            raise AssertionError(f"{block.place}: {error}\n{capfd.readouterr().err}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_known_language(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'no language'}"
    if page not in DOCUMENTS:
        assert not blocks_of(page), f"{page.name} has blocks that nothing runs"


def test_every_page_is_looked_at() -> None:
    assert set(ROOT.glob("*.md")) | set((ROOT / "docs").rglob("*.md")) == set(PAGES)


def anchors_of(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.is_file(), f"{page.name}: {target}"
        assert path.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(path), f"{page.name}: {target}"


def test_the_pictures_are_small_and_used() -> None:
    shown = "".join(page.read_text() for page in PAGES)
    pictures = sorted((ROOT / "docs" / "pictures").iterdir())
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 300_000, picture.name
        assert f"pictures/{picture.name}" in shown, picture.name


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_the_table_of_pieces_is_complete() -> None:
    rows = re.findall(r"^\| `--.*$", (ROOT / "README.md").read_text(), re.M)
    table = {
        (option.strip("`-"), name.strip("`")): re.findall(r"`(\w+)`", options)
        for option, name, _, options in map(cells, rows)
    }
    assert len(table) == len(rows)
    shared = {"data": {field.name for field in fields(DataSet)}}  # of every class in that role
    there = {
        (role, cls.__name__): [o for o in options_of(cls) if o not in shared.get(role, ())]
        for role, base in BASES.items()
        for cls in subclasses(base)
        if cls.__module__.split(".")[0] in PROJECT_PACKAGES
    }
    assert table == there


def test_the_table_of_verbs_is_complete() -> None:
    text = (ROOT / "README.md").read_text()
    table = text.split("| verb | what it does |", 1)[1].split("\n\n", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(__main__.VERBS)
