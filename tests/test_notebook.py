"""What a notebook shows: curves as they grow, pictures, progress; and nothing elsewhere."""

import base64
import re
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tiny_runs import python, tiny

from ppl_vae.generate import generate
from ppl_vae.latents import live, pictures
from ppl_vae.machine import progress
from ppl_vae.machine.notebook import Pictures, in_notebook
from ppl_vae.machine.progress import Progress

Shown = list[list[str]]


def rich_form(thing: Any) -> str:
    """What a notebook takes of an object: its HTML, or its bundle of forms."""
    if hasattr(thing, "_repr_html_"):
        return thing._repr_html_()
    return thing._repr_mimebundle_(include=[], exclude=[])["text/html"]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A kernel's display: for each place below the cell, all that was shown in it, in order."""
    places: Shown = []

    def display(thing: Any, display_id: bool) -> Any:
        place = [rich_form(thing)]
        places.append(place)
        return SimpleNamespace(update=lambda new: place.append(rich_form(new)))

    ipython, its_display = ModuleType("IPython"), ModuleType("IPython.display")
    vars(ipython)["get_ipython"] = lambda: SimpleNamespace(kernel=object())
    vars(ipython)["version_info"] = (9, 0)  # which matplotlib looks at
    vars(its_display)["display"] = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", its_display)
    return places


def pictures_in(text: str) -> list[tuple[str, Image.Image]]:
    """The embedded pictures of an HTML text, each with its caption."""
    found = re.findall(r'base64,([^"]+)".*?<figcaption>(.*?)</figcaption>', text)
    return [(name, Image.open(BytesIO(base64.b64decode(data)))) for data, name in found]


def test_fit_shows_its_curves_as_they_grow_and_its_pictures(
    notebook: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_SECONDS", 0.0)
    monkeypatch.setattr(live, "_SHARE", 0)
    drawn: list[int] = []
    original = pictures.plots.learning_curves

    def count(rows: Any, *rest: Any, **options: Any) -> None:
        drawn.append(len(rows))
        original(rows, *rest, **options)

    monkeypatch.setattr(pictures.plots, "learning_curves", count)
    run = tiny(tmp_path / "run", epochs=3)
    assert drawn == [1, 2, 3, 3]  # after each epoch, and for the run directory
    bars, curves, others = notebook
    assert "training on Digits" in bars[-1]
    assert "100%" in bars[-1]
    folder = run.path / "pictures"
    assert len(curves) == 4
    for text in curves:
        ((name, picture),) = pictures_in(text)
        assert name == str(folder / "learning_curves.png")
        assert picture.size[0] > 500
    with Image.open(folder / "learning_curves.png") as last:
        assert pictures_in(curves[-1])[0][1].tobytes() == last.tobytes()
    (text,) = others
    assert [Path(name).stem for name, _ in pictures_in(text)] == [
        "graphical_model", "reconstructions", "samples"
    ]  # fmt: skip

    paths = generate(run, "traverse", steps=2)
    assert paths == [run.path / "generated" / f"traverse.{kind}" for kind in ("png", "gif", "npz")]
    shown = rich_form(paths)
    assert [picture.format for _, picture in pictures_in(shown)] == ["PNG", "GIF"]
    assert f"<div>{paths[2]}</div>" in shown


def test_curves_take_little_of_the_time(notebook: Shown, tmp_path: Path, monkeypatch) -> None:
    run = tiny(tmp_path / "run", epochs=1)
    del notebook[:]
    clock = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])

    def slowly(*rest: Any) -> None:
        clock[0] += 0.5

    monkeypatch.setattr(live, "draw_curves", slowly)
    shown = live.Live(run, [])
    for second in range(60):
        clock[0] = max(clock[0], second)
        shown()
    assert len(notebook[0]) == 10  # half a second of drawing, then five without


def test_a_run_is_the_same_in_a_notebook(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not in_notebook()
    outside = tiny(tmp_path / "outside")
    assert "training on Digits: 2,594/2,594 images" in capsys.readouterr().err
    request.getfixturevalue("notebook")
    assert in_notebook()
    inside = tiny(tmp_path / "inside")
    assert "2,594/2,594" not in capsys.readouterr().err
    files = [(run.path / "metrics.csv").read_text() for run in (outside, inside)]
    assert files[0] == files[1]


def test_an_ipython_terminal_is_no_notebook(notebook: Shown, tmp_path: Path) -> None:
    vars(sys.modules["IPython"])["get_ipython"] = lambda: SimpleNamespace()
    assert not in_notebook()
    with Progress("working", 2, "steps") as bar:
        bar.advance(2)
    assert notebook == []


def test_progress_is_replaced_now_and_then(notebook: Shown, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("working", 100, "steps") as bar:
        for _ in range(100):
            clock[0] += 1 / 16
            bar.advance(1, "here")
    ((*shown,),) = notebook
    assert len(shown) == 27  # at the start, at every quarter of a second, and at the end
    assert "100%" in shown[-1]
    assert "here" in shown[-1]


def test_names_are_text(tmp_path: Path) -> None:
    assert Pictures([tmp_path / "<b>.npz"])._repr_html_() == f"<div>{tmp_path}/&lt;b&gt;.npz</div>"


_WITHOUT_WIDGETS = """
import sys, types
kernel = types.ModuleType("IPython")
kernel.version_info = (9, 0)
kernel.get_ipython = lambda: types.SimpleNamespace(kernel=object())
sys.modules |= {"IPython": kernel, "ipykernel.zmqshell": kernel, "ipywidgets": None}
import ppl_vae
"""


def test_importing_it_does_not_ask_for_widgets() -> None:
    imported = python("-c", _WITHOUT_WIDGETS)
    assert (imported.returncode, imported.stderr) == (0, "")
    pyro = python("-c", _WITHOUT_WIDGETS.replace("ppl_vae", "pyro"))
    assert "IProgress not found" in pyro.stderr  # what it would say otherwise
