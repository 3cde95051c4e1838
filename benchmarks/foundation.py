"""Trains and measures the pairs of the papers on MNIST and Frey Face, and writes a table.

    python benchmarks/foundation.py --data_root DIR --runs DIR

A run that is there already is measured and not trained again; a measurement that is there already
is read and not made again. The table goes to benchmarks/foundation.md.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jsonargparse import auto_cli

from models import MLP
from ppl_vae import load
from ppl_vae.data import MNIST, DataSet, FreyFace
from ppl_vae.evaluate import EVALUATION, evaluate
from ppl_vae.fit import fit, resume
from ppl_vae.machine.files import whole_file

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
    options: dict[str, object] = field(default_factory=dict)


CASES = (
    Case(
        name="mnist-tanh500-20",
        what="MNIST, tanh 500, D = 20 (Kingma and Welling, 2014)",
        data=MNIST,
        latent_dim=20,
        epochs=100,
        hidden=(500,),
    ),
    Case(
        name="mnist-tanh200-200-50",
        what="MNIST, tanh 200-200, D = 50 (Burda et al., 2016)",
        data=MNIST,
        latent_dim=50,
        epochs=100,
        hidden=(200, 200),
        published="log p(x) -86.76 after 3,280 epochs (Burda et al., table 1)",
    ),
    *(
        Case(
            name=f"frey-tanh200-{latent_dim}",
            what=f"Frey Face, tanh 200, D = {latent_dim}, Gaussian with one learned scale",
            data=FreyFace,
            latent_dim=latent_dim,
            epochs=1000,
            hidden=(200,),
            options={"patience": 200},
        )
        for latent_dim in (2, 10, 20)
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
            _train(case, data_root, path)
            if not (path / EVALUATION).exists():
                evaluate(load(path), particles=PARTICLES)
        if (path / EVALUATION).exists():
            rows.append(_row(case, path))
    text = "\n".join([*_HEAD, *rows, ""])
    with whole_file(TABLE) as file:
        file.write(text.encode())
    print(text)


def _train(case: Case, data_root: Path, path: Path) -> None:
    if (path / "summary.json").exists():
        return
    if path.exists():
        resume(path)
        return
    fit(
        data=case.data(data_root),  # type: ignore[call-arg]
        network=partial(MLP, hidden=case.hidden),
        latent_dim=case.latent_dim,
        epochs=case.epochs,
        run=path,
        **case.options,  # type: ignore[arg-type]
    )


_HEAD = [
    "# The foundation, measured",
    "",
    "Made by `python benchmarks/foundation.py --data_root DIR --runs DIR`: seed 0, batches of 100,",
    "Adam with a peak of 1e-3, one epoch of warm-up and cosine decay, one particle, `Trace_ELBO`.",
    "The test split, every image; +- is one standard error over the images. ELBO, rate, distortion",
    f"and log p(x) are in nats_per_datum; log p(x) is importance-sampled, {PARTICLES:,} particles.",
    "MNIST is binarised dynamically, a mass on {0, 1}; Frey Face is a density on [0, 1], its 256",
    "grey levels dequantised with uniform noise, and bits_per_dim are those of the 8-bit original.",
    "An importance-sampled log p(x) is too low by a bias that falls with the particles, which the",
    "standard error does not cover; where the ELBO lies many nats below, it may be large. Training",
    "seconds are wall-clock on one thread of a machine that did other work too: no claim of speed.",
    "",
    "| what | epochs | training seconds | ELBO | rate | distortion | log p(x) | bits_per_dim "
    "| active units | published |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def _row(case: Case, path: Path) -> str:
    measured = json.loads((path / EVALUATION).read_text())
    summary = json.loads((path / "summary.json").read_text())
    cells = [case.what, str(summary["epoch"]), f"{summary['training_seconds']:,.0f}"]
    for column in COLUMNS:
        name = f"{column}_nats_per_datum"
        cells.append(f"{measured[name]:.2f} +- {measured[f'{name}_standard_error']:.2f}")
    cells.append(f"{measured['bits_per_dim']:.4f} +- {measured['bits_per_dim_standard_error']:.4f}")
    cells.append(f"{measured['active_units']} of {case.latent_dim}")
    cells.append(case.published)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
