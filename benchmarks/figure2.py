"""The bound over the training samples, AEVB beside wake-sleep, measured and drawn.

    python benchmarks/figure2.py --data_root DIR --runs DIR

Kingma and Welling (2014), figure 2: each data set and each D is trained with the ELBO and with the
wake-sleep algorithm from the same initial parameters. A run that is there already is measured
and not trained again; a measurement that is there already is read and not made again. The table
goes to benchmarks/figure2.md, the picture to docs/pictures/figure2.png.
"""

import csv
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray
from tables import mean_and_error, table_row, trained, write

from models import MLP
from ppl_vae import load
from ppl_vae.data import MNIST, DataSet, FreyFace
from ppl_vae.machine.files import whole_file
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import ELBO, WakeSleep
from ppl_vae.pictures.figures import BLUE, INK, ORANGE, new_figure, save
from ppl_vae.runs.directory import SUMMARY
from ppl_vae.runs.metrics import METRICS

TABLE = Path(__file__).with_suffix(".md")
PICTURE = TABLE.parents[1] / "docs" / "pictures" / "figure2.png"
DRAWS = 20_000  # of z for the last value, over images and particles
LAST = "validation_elbo.npy"
BOUND = "validation_elbo_nats_per_datum"
OBJECTIVES = {"elbo": ELBO(), "wake-sleep": WakeSleep()}
LINES = {"elbo": (BLUE, "-", "AEVB"), "wake-sleep": (ORANGE, "--", "wake-sleep")}


@dataclass(frozen=True)
class Setting:
    """One row of panels: a data set, and what is trained on it."""

    title: str
    data: type[DataSet]
    hidden: int
    latent_dims: tuple[int, ...]
    epochs: int
    lowest: float  # where the vertical axis begins, so that the beginning does not flatten the rest


SETTINGS = (
    Setting("MNIST", MNIST, hidden=500, latent_dims=(3, 5, 10, 20, 200), epochs=10, lowest=-165),
    Setting("Frey Face", FreyFace, hidden=200, latent_dims=(2, 5, 10, 20), epochs=300, lowest=0),
)


@dataclass(frozen=True)
class Curve:
    """What a run left: the bound after each epoch, and of each validation image at the end."""

    samples: list[int]
    bounds: list[float]
    last: NDArray[np.float64]
    training_bound: float
    rate: float
    seconds: float


Curves = dict[tuple[str, int, str], Curve]  # by title, latent_dim and objective


def main(data_root: Path, runs: Path, only: str = "") -> None:
    """Trains what is missing, writes the table and draws the picture.

    Args:
        data_root: The folder that holds MNIST/raw and FreyFace/frey_rawface.mat.
        runs: Where the runs are kept.
        only: Train only the runs of these names, separated by commas, such as MNIST-3-elbo; the
            table and the picture are of all pairs that are there.
    """
    curves: Curves = {}
    for setting in SETTINGS:
        for latent_dim in setting.latent_dims:
            for objective in OBJECTIVES:
                name = f"{setting.data.__name__}-{latent_dim}-{objective}"
                if not only or name in only.split(","):
                    trained(
                        runs / name,
                        data=setting.data(data_root),  # type: ignore[call-arg,arg-type]
                        network=partial(MLP, hidden=(setting.hidden,)),
                        objective=OBJECTIVES[objective],
                        latent_dim=latent_dim,
                        epochs=setting.epochs,
                        engine="compiled",
                    )
                if (runs / name / SUMMARY).exists():
                    curves[setting.title, latent_dim, objective] = _measure(runs / name)
    _write(curves)
    _draw(curves)


def _measure(path: Path) -> Curve:
    summary = json.loads((path / SUMMARY).read_text())
    with (path / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not (path / LAST).exists():
        run = load(path)
        images = run.data.validation
        with seeded(run.device, 1):
            last = estimate(run.model, run.guide, images, max(1, DRAWS // len(images))).elbo
        with whole_file(path / LAST) as file:
            np.save(file, last.cpu().numpy())
    return Curve(
        samples=[int(row["epoch"]) * summary["training_images"] for row in rows],
        bounds=[float(row[BOUND]) for row in rows],
        last=np.load(path / LAST),
        training_bound=-float(rows[-1]["loss_nats_per_datum"]),
        rate=float(rows[-1]["validation_rate_nats_per_datum"]),
        seconds=summary["training_seconds"],
    )


_HEAD = [
    "# The bound over the training samples",
    "",
    "![AEVB beside wake-sleep](../docs/pictures/figure2.png)",
    "",
    "Made by `python benchmarks/figure2.py --data_root DIR --runs DIR`, after figure 2 of Kingma",
    "and Welling (2014): `ELBO` (AEVB) beside `WakeSleep`, one particle each, from the same",
    "initial parameters; tanh 500 for MNIST and tanh 200 for Frey Face, seed 0, batches of 100.",
    "Adam with a peak of 1e-3, one epoch of warm-up and cosine decay to zero, where the paper has",
    "Adagrad: a point before the end of a curve is not what a shorter run would reach. MNIST is",
    "binarised dynamically; Frey Face, dequantised with uniform noise, is a density on [0, 1]",
    "under a Gaussian with one learned scale.",
    "",
    "Nats per datum of the validation images, 10,000 of MNIST and 200 of Frey Face, after the last",
    f"epoch, {DRAWS:,} draws of z over images and particles. +- is one standard error over images,",
    "that of the difference over their differences; of other seeds it says nothing. `training` is",
    "AEVB's own bound on the training images, averaged over the last epoch.",
    "Training seconds are of one thread of a machine that did other work too: no claim of speed.",
    "",
    "| data | D | training samples | epochs | AEVB | wake-sleep | difference | AEVB, training "
    "| rate, AEVB | rate, wake-sleep | seconds, AEVB | seconds, wake-sleep |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
]

_TAIL = [
    "",
    "Published: a picture alone. Its AEVB curves for MNIST with D = 20 and 200 end near -100,",
    "after more than 10^7 samples, twenty times as many as here; D = 200 does not overfit.",
    "",
    "Nothing in wake-sleep draws q(z|x) of real images to the prior: its guide learns on images of",
    "the model alone. Where its rate is far above AEVB's, as on MNIST with D = 20, real images are",
    "encoded away from where the prior has its mass.",
]


def _pairs(curves: Curves) -> list[tuple[str, int]]:
    """The data sets and D of which both runs are there."""
    found = [key[:2] for key in curves]
    return [key for key in dict.fromkeys(found) if found.count(key) == len(OBJECTIVES)]


def _write(curves: Curves) -> None:
    rows = []
    for title, latent_dim in _pairs(curves):
        aevb, other = (curves[title, latent_dim, objective] for objective in OBJECTIVES)
        cells = [title, f"{latent_dim}", f"{aevb.samples[-1]:,}", f"{len(aevb.bounds)}"]
        cells += [
            mean_and_error(values) for values in (aevb.last, other.last, aevb.last - other.last)
        ]
        cells += [f"{value:.2f}" for value in (aevb.training_bound, aevb.rate, other.rate)]
        cells += [f"{curve.seconds:,.0f}" for curve in (aevb, other)]
        rows.append(table_row(*cells))
    write(TABLE, [*_HEAD, *rows, *_TAIL])
    print(TABLE.read_text())


def _draw(curves: Curves) -> None:
    rows = [[key for key in _pairs(curves) if key[0] == setting.title] for setting in SETTINGS]
    figure = new_figure(10.5, 4.9)
    columns = max(1, *(len(row) for row in rows))
    grid = figure.add_gridspec(len(rows), columns, wspace=0.1, hspace=0.42)
    figure.subplots_adjust(left=0.062, right=0.99, top=0.94, bottom=0.1)
    for line, (setting, panels) in enumerate(zip(SETTINGS, rows, strict=True)):
        first = None
        highest = setting.lowest
        for column, (title, latent_dim) in enumerate(panels):
            axes = figure.add_subplot(grid[line, column], sharex=first, sharey=first)
            for objective, (colour, style, label) in LINES.items():
                curve = curves[title, latent_dim, objective]
                axes.plot(curve.samples, curve.bounds, style, color=colour, label=label)
                highest = max(highest, *curve.bounds)
            axes.set_title(f"{title}, D = {latent_dim}", loc="left", fontsize=9)
            axes.tick_params(which="both", labelsize=8, colors=INK, labelleft=first is None)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25, linewidth=0.6)
            first = first or axes
        if first is not None:
            first.set_xscale("log")
            first.set_ylim(setting.lowest, highest + 0.05 * (highest - setting.lowest))
            first.set_ylabel("validation ELBO, nats", fontsize=8.5)
            first.legend(frameon=False, fontsize=8.5, loc="upper left")
    figure.supxlabel("training samples seen", fontsize=9)
    save(figure, PICTURE)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
