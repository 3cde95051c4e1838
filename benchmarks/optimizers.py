"""What Adam and Muon reach in the same epochs, and in the same time.

    python benchmarks/optimizers.py --data_root DIR --runs DIR

The VAE of one layer of Burda et al. (2016) on MNIST, compiled, in batches of 100 and 250; the last
row is Adam for about as long as Muon takes. A run that is there already is not trained again. The
table goes to benchmarks/optimizers.md.
"""

from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import measured, table_row, trained, write

from models import MLP
from ppl_vae import load
from ppl_vae.data import MNIST
from ppl_vae.evaluate import evaluate
from ppl_vae.runs.settings import Optimizer

TABLE = Path(__file__).with_suffix(".md")
CONTESTANTS: tuple[tuple[Optimizer, int, float, int], ...] = (
    ("Adam", 100, 0.002, 20),
    ("Adam", 100, 0.004, 20),
    ("Adam", 250, 0.004, 20),
    ("Muon", 100, 0.004, 20),
    ("Muon", 250, 0.006, 20),
    ("Adam", 100, 0.004, 66),
)


def main(data_root: Path, runs: Path, particles: int = 200) -> None:
    """Trains what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        runs: Where the runs are kept.
        particles: Draws of z for each image in log p(x).
    """
    rows = []
    for name, batch_size, learning_rate, epochs in CONTESTANTS:
        path = trained(
            runs / f"{name}-{batch_size}-{learning_rate}-{epochs}",
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
        rows.append(table_row(name, batch_size, learning_rate, epochs, seconds, *numbers))
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
