"""The pictures that every fit leaves behind."""

from ppl_vae import plots
from ppl_vae.metrics import Row
from ppl_vae.runs import PICTURES, Run

__all__ = ["draw_pictures"]


def draw_pictures(run: Run, rows: list[Row]) -> None:
    folder = run.path / PICTURES
    folder.mkdir(exist_ok=True)
    plots.learning_curves(rows, folder / "learning_curves.png", run.data.note)
