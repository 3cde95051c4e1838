"""What bfloat16 costs: final log p(x) of runs in both precisions, seed by seed.

    python benchmarks/precision.py --data_root DIR --runs DIR

MNIST, the network of Kingma and Welling (2014) with 20 latents, the compiled engine. Both runs of a
seed have the same initial parameters, order of images and noise, so their difference is taken image
by image. A run that is there already is not trained again. The table goes to
benchmarks/precision.md.
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import table_row, trained, write

from ppl_vae import load
from ppl_vae.data import MNIST
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate
from ppl_vae.training.precision import PRECISIONS

TABLE = Path(__file__).with_suffix(".md")


def main(
    data_root: Path, runs: Path, seeds: int = 3, epochs: int = 100, particles: int = 500
) -> None:
    """Trains what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        runs: Where the runs are kept.
        seeds: How many seeds.
        epochs: Of each run.
        particles: Draws of z for each image in log p(x).
    """
    lines = [
        "# What bfloat16 costs",
        "",
        "Made by `python benchmarks/precision.py --data_root DIR --runs DIR`: MNIST, tanh 500,",
        f"D = 20, {epochs} epochs in batches of 100, compiled; log p(x) of the 10,000 test images",
        f"by {particles:,} particles in nats per datum, measured in float32; +- is the standard",
        "error of the mean difference over the images. Seconds are of training, of one machine;",
        f"it has {torch.backends.cpu.get_cpu_capability()}; without AVX512 bfloat16 is emulated.",
        "",
        "| seed | float32 | bfloat16 | bfloat16 - float32 | seconds, float32 | seconds, bfloat16 |",
        "|---|---|---|---|---|---|",
    ]
    means = []
    for seed in range(seeds):
        paths = [
            trained(
                runs / f"{precision}-{seed}",
                data=MNIST(data_root),
                epochs=epochs,
                latent_dim=20,
                precision=precision,
                seed=seed,
                engine="compiled",
            )
            for precision in PRECISIONS
        ]
        values = [_log_likelihood(path, seed, particles) for path in paths]
        difference = values[1] - values[0]
        means.append(difference.mean())
        error = difference.std() / len(difference) ** 0.5
        cells = [f"{value.mean():.3f}" for value in values]
        cells.append(f"{means[-1]:.3f} +- {error:.3f}")
        cells += [f"{load(path).summary['training_seconds']:.0f}" for path in paths]
        lines.append(table_row(seed, *cells))
    stacked = torch.stack(means)
    spread = stacked.std() / seeds**0.5
    lines += ["", f"Over the seeds: {stacked.mean():.3f} +- {spread:.3f} nats per datum."]
    write(TABLE, lines)
    print("\n".join(lines))


def _log_likelihood(path: Path, seed: int, particles: int) -> torch.Tensor:
    run = load(path)
    with seeded(run.device, seed):
        return estimate(run.model, run.guide, run.data.test, particles).log_likelihood


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
