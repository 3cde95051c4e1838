"""Trains and measures the pairs of the papers on MNIST and Frey Face, and writes a table.

    python benchmarks/foundation.py --data_root DIR --runs DIR

A run that is there already is measured and not trained again; a measurement that is there already
is read and not made again. The table goes to benchmarks/foundation.md.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jsonargparse import auto_cli
from tables import measured, table_row, trained, write

from models import MLP
from ppl_vae import load
from ppl_vae.data import MNIST, DataSet, FreyFace
from ppl_vae.evaluate import EVALUATION, evaluate

TABLE = Path(__file__).with_suffix(".md")
PARTICLES = 5000


@dataclass(frozen=True)
class Case:
    """One row: what to train, and the published figure to stand beside it."""

    name: str
    what: str
    data: type[DataSet]
    latent_dim: int
    epochs: int
    hidden: tuple[int, ...]
    published: str = ""
    patience: int | None = None


_PAPER = "MNIST, tanh 500, D = 20 (Kingma and Welling, 2014)"
_BURDA = "MNIST, tanh 200-200, D = 50 (Burda et al., 2016)"
_FREY = "Frey Face, tanh 200, D = {}, Gaussian with one learned scale"
_BY_BURDA = "log p(x) -86.76 after 3,280 epochs (Burda et al., table 1)"

CASES = (
    Case("mnist-tanh500-20", _PAPER, MNIST, 20, 100, (500,)),
    Case("mnist-tanh200-200-50", _BURDA, MNIST, 50, 100, (200, 200), _BY_BURDA),
    *(
        Case(f"frey-tanh200-{d}", _FREY.format(d), FreyFace, d, 1000, (200,), patience=200)
        for d in (2, 10, 20)
    ),
)

COLUMNS = ("elbo", "rate", "distortion", "log_likelihood")


def main(data_root: Path, runs: Path, only: str = "") -> None:
    """Fills what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw and FreyFace/frey_rawface.mat.
        runs: Where the runs are kept.
        only: Train and measure only the cases whose name begins so.
    """
    rows = []
    for case in CASES:
        path = runs / case.name
        if case.name.startswith(only):
            trained(
                path,
                data=case.data(data_root),  # type: ignore[call-arg]
                network=partial(MLP, hidden=case.hidden),
                latent_dim=case.latent_dim,
                epochs=case.epochs,
                patience=case.patience,
            )
            if not (path / EVALUATION).exists():
                evaluate(load(path), particles=PARTICLES)
        if (path / EVALUATION).exists():
            rows.append(_row(case, path))
    write(TABLE, [*_HEAD, *rows])
    print(TABLE.read_text())


_HEAD = [
    "# The foundation, measured",
    "",
    "Made by `python benchmarks/foundation.py --data_root DIR --runs DIR`: seed 0, batches of 100,",
    "Adam with a peak of 1e-3, one epoch of warm-up and cosine decay, one particle, `Trace_ELBO`.",
    "The test split, every image; +- is one standard error over the images. ELBO, rate, distortion",
    f"and log p(x) are in nats per datum; log p(x) is importance-sampled, {PARTICLES:,} particles.",
    "MNIST is binarised dynamically, a mass on {0, 1}; Frey Face is a density on [0, 1], its 256",
    "grey levels dequantised with uniform noise, and bits per dim are those of the 8-bit original.",
    "An importance-sampled log p(x) is too low by a bias that falls with the particles, which the",
    "standard error does not cover; where the ELBO lies many nats below, it may be large. Training",
    "seconds are wall-clock on one thread of a machine that did other work too: no claim of speed.",
    "",
    "| what | epochs | training seconds | ELBO | rate | distortion | log p(x) | bits per dim "
    "| active units | published |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def _row(case: Case, path: Path) -> str:
    result = json.loads((path / EVALUATION).read_text())
    summary = json.loads((path / "summary.json").read_text())
    cells = [case.what, str(summary["epoch"]), f"{summary['training_seconds']:,.0f}"]
    cells += [measured(result, f"{column}_nats_per_datum") for column in COLUMNS]
    cells.append(measured(result, "bits_per_dim", digits=4))
    return table_row(*cells, f"{result['active_units']} of {case.latent_dim}", case.published)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
