"""What Adam and Muon reach in the same epochs.

    python benchmarks/optimizers.py --data_root DIR --runs DIR

The VAE of one layer of Burda et al. (2016) on MNIST, compiled, in batches of 100 and 250. A run
that is there already is not trained again. The table goes to benchmarks/optimizers.md.
"""

from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import measured, table_row, trained, write

from models import MLP
from ppl_vae import evaluate, load
from ppl_vae.data import MNIST
from ppl_vae.runs.settings import Optimizer

TABLE = Path(__file__).with_suffix(".md")
CONTESTANTS: tuple[tuple[Optimizer, int, float], ...] = (
    ("Adam", 100, 0.002),
    ("Adam", 100, 0.004),
    ("Adam", 250, 0.004),
    ("Muon", 100, 0.004),
    ("Muon", 250, 0.006),
)


def main(data_root: Path, runs: Path, epochs: int = 20, particles: int = 200) -> None:
    """Trains what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        runs: Where the runs are kept.
        epochs: Of each run.
        particles: Draws of z for each image in log p(x).
    """
    rows = []
    for name, batch_size, learning_rate in CONTESTANTS:
        path = trained(
            runs / f"{name}-{batch_size}-{learning_rate}",
            data=MNIST(data_root),
            network=partial(MLP, hidden=[200, 200]),
            latent_dim=50,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=name,
            engine="compiled",
        )
        result = evaluate(path, particles=particles, data_points="all")
        seconds = f"{load(path).summary['training_seconds']:.0f}"
        numbers = [
            measured(result, f"{what}_nats_per_datum") for what in ("elbo", "log_likelihood")
        ]
        rows.append(table_row(name, batch_size, learning_rate, seconds, *numbers))
    lines = [
        "# Adam and Muon",
        "",
        "Made by `python benchmarks/optimizers.py --data_root DIR --runs DIR`: MNIST, tanh",
        f"200-200, D = 50, {epochs} epochs of a cosine, float32, compiled; nats per test image,",
        f"log p(x) by {particles} particles, +- one standard error over the images. Seconds are of",
        f"training, of one machine that did other work too: {load(path).summary['machine']};",
        f"torch {torch.__version__}.",
        "",
        "| optimizer | images in a step | peak of the learning rate | seconds | ELBO | log p(x) |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    write(TABLE, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
