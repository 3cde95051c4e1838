"""What Adam and Muon reach in the same epochs.

    python benchmarks/optimizers.py --data_root DIR --runs DIR

The VAE of one layer of Burda et al. (2016) on MNIST, compiled. Adam has batches of 100 and a peak
of 0.002; twice that is too much for it. Muon has a peak of 0.006, and batches of 250, since making
an update orthogonal costs as much for a small batch as for a large one. A run that is there already
is not trained again. The table goes to benchmarks/optimizers.md.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from tables import measured, table_row, trained, write

from models import MLP
from ppl_vae import evaluate, load
from ppl_vae.data import MNIST

TABLE = Path(__file__).with_suffix(".md")
CONTESTANTS: dict[str, dict[str, Any]] = {
    "Adam": {"batch_size": 100, "learning_rate": 2e-3},
    "Muon": {"batch_size": 250, "learning_rate": 6e-3},
}


def main(
    data_root: Path, runs: Path, epochs: tuple[int, ...] = (10, 40), particles: int = 200
) -> None:
    """Trains what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        runs: Where the runs are kept.
        epochs: The lengths of the runs; each is a schedule of its own.
        particles: Draws of z for each image in log p(x).
    """
    rows = []
    for length in epochs:
        for name, options in CONTESTANTS.items():
            path = trained(
                runs / f"{name}-{length}",
                data=MNIST(data_root),
                network=partial(MLP, hidden=[200, 200]),
                latent_dim=50,
                epochs=length,
                optimizer=name,
                engine="compiled",
                **options,
            )
            result = evaluate(path, particles=particles, data_points="all")
            numbers = [
                measured(result, f"{what}_nats_per_datum") for what in ("elbo", "log_likelihood")
            ]
            seconds = f"{load(path).summary['training_seconds']:.0f}"
            rows.append(table_row(name, *options.values(), length, seconds, *numbers))
    lines = [
        "# Adam and Muon",
        "",
        "Made by `python benchmarks/optimizers.py --data_root DIR --runs DIR`: MNIST, tanh",
        "200-200, D = 50, a cosine, float32, compiled; nats per test image, log p(x) by",
        f"{particles} particles, +- one standard error over the images. Seconds are of training,",
        f"of one machine that did other work too: {load(path).summary['machine']};",
        f"torch {torch.__version__}.",
        "",
        "| optimizer | images in a step | learning rate | epochs | seconds | ELBO | log p(x) |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
    write(TABLE, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
