"""Training on MNIST with half of the pixels missing, beside training on complete images.

    python benchmarks/holes.py --data_root DIR --runs DIR

Half of the pixels of the training and validation images are taken away at random, once; the test
images are complete. A run that is there already is not trained again, and one that was stopped goes
on. The table goes to benchmarks/holes.md.
"""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from tables import mean_and_error, table_row, trained, write
from torch import Tensor

from models import Bernoulli
from ppl_vae import load
from ppl_vae.data import MNIST, Arrays

TABLE = Path(__file__).with_suffix(".md")
SHARE = 0.5


def main(data_root: Path, runs: Path, epochs: int = 40, images: int = 500) -> None:
    """Trains what is missing, measures it and writes the table.

    Args:
        data_root: The folder of MNIST.
        runs: The folder of the runs.
        epochs: Of each training.
        images: How many test images are measured.
    """
    complete = MNIST(data_root, binarize="dynamic")
    kinds: dict[str, Any] = {"complete": complete, "holes": _with_holes(complete)}
    lines = [
        "# Training on images with missing pixels",
        "",
        f"Made by `python benchmarks/holes.py`: {epochs} epochs on binary MNIST with 20 latents",
        "and 500 hidden units, once on complete images and once with half of the pixels of each",
        "training image missing at random, the same in each epoch. log p(x) is that of the first",
        f"{images:,} test images, complete, in nats, from 500 particles; the loss is the",
        "difference of the two on the same images. Standard errors are over images.",
        "",
        table_row("trained on complete images", "on half of the pixels", "loss"),
        "|---" * 3 + "|",
    ]
    scores = {}
    for kind, data in kinds.items():
        trained(
            runs / kind,
            data=data,
            likelihood=Bernoulli,
            latent_dim=20,
            epochs=epochs,
            device="cpu",
        )
        scores[kind] = _log_p(runs / kind, complete, images)
    loss = scores["complete"] - scores["holes"]
    lines.append(table_row(*map(mean_and_error, (*scores.values(), loss))))
    write(TABLE, lines)


def _with_holes(data: MNIST) -> Arrays:
    """The images as floating-point numbers, half of the training and validation pixels NaN."""
    loaded = data.load("binary", seed=0)
    assert isinstance(loaded.train.raw, Tensor)
    generator = torch.Generator().manual_seed(0)
    train, validation = (
        images.masked_fill(torch.rand(images.shape, generator=generator) < SHARE, torch.nan)
        # Validation images have been drawn: each pixel is black or white.
        for images in (loaded.train.raw.float(), 255 * loaded.validation[:])
    )
    return Arrays.of(train, validation=validation, test=255 * loaded.test[:], binarize="dynamic")


def _log_p(path: Path, data: MNIST, images: int) -> Tensor:
    """log p(x) of complete test images, (N,)."""
    run = load(path, device="cpu")
    test = data.load("binary", seed=0).test.first(images)
    return run.score(test, particles=500).log_likelihood


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
