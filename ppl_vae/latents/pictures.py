"""The pictures of what a run learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.latents.views import reconstruct, sample
from ppl_vae.pictures import plots
from ppl_vae.pictures.graphical_model import graphical_model
from ppl_vae.runs.directory import PICTURES
from ppl_vae.runs.metrics import Row
from ppl_vae.runs.run import Run

__all__ = ["CURVES", "draw_curves", "draw_pictures", "named_if_interrupted"]

CURVES = "learning_curves.png"


def draw_pictures(run: Run, rows: list[Row]) -> None:
    """Draws what a run learned, into RUN/pictures/.

    Learning curves, test images beside their reconstructions, samples from the model, and the
    graphical model that the two programs are; of a table there are no images.

    Args:
        run: A trained run, its pair in evaluation mode.
        rows: The metrics of its epochs.

    Raises:
        OSError: If a picture cannot be written.
    """
    folder = run.path / PICTURES
    folder.mkdir(exist_ok=True)
    draw_curves(run, rows)
    if not run.data.table:
        _draw_images(run, folder)
    x, *labels = run.data.test.batch(slice(0, 2), run.model.labelled)
    graphical_model(run.model, run.guide, x, folder / "graphical_model.png", *labels)


def _draw_images(run: Run, folder: Path) -> None:
    """Test images beside their reconstructions, and samples."""
    seed = run.config["seed"]
    test = run.data.test
    shown = run.data.in_units(test[slice(0, 256)]).cpu().numpy()
    rebuilt = reconstruct(run, count=min(16, len(test)), seed=seed)
    drawn = sample(run, count=64, seed=seed)

    def display(images: ArrayLike) -> NDArray[np.float64]:
        return plots.to_display(images, run.spec.domain, like=shown)

    plots.reconstructions(
        display(rebuilt["original"]), display(rebuilt["mean"]), folder / "reconstructions.png"
    )
    plots.image_grid(
        display(drawn["mean"]), folder / "samples.png", title=plots.sample_titles(run.model)[0]
    )


@contextmanager
def named_if_interrupted(run: Run) -> Iterator[None]:
    """Says after Ctrl-C that the run is trained, and how its pictures are drawn.

    Raises:
        KeyboardInterrupt: With that line.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        again = f"python -m ppl_vae.fit --resume {run.path}"
        line = f"trained, but without all pictures; draw them with: {again}"
        raise KeyboardInterrupt(line) from error


def draw_curves(run: Run, rows: list[Row]) -> None:
    """Draws the metrics of each epoch into RUN/pictures/.

    Args:
        run: The run.
        rows: The metrics of its epochs.

    Raises:
        OSError: If the picture cannot be written.
    """
    folder = run.path / PICTURES
    folder.mkdir(exist_ok=True)
    point = not run.guide.has_density
    given = run.model.given_class
    objective = type(run.pieces["objective"]).__name__
    plots.learning_curves(rows, folder / CURVES, run.data.note, point, given, objective)
