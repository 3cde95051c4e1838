"""What bfloat16 costs: final log p(x) of runs in both precisions, seed by seed.

    python benchmarks/precision.py --runs DIR

The embedded digits, `python -m ppl_vae.fit` as it comes but for the precision. Both runs of a seed
have the same initial parameters, order of images and noise, so their difference is taken image by
image. A run that is there already is not trained again. The table goes to benchmarks/precision.md.
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli

from ppl_vae import load
from ppl_vae.estimates import estimate
from ppl_vae.files import whole_file
from ppl_vae.fit import fit
from ppl_vae.isolation import seeded
from ppl_vae.precision import PRECISIONS, Precision

TABLE = Path(__file__).with_suffix(".md")


def main(runs: Path, seeds: int = 3, particles: int = 1000) -> None:
    """Trains what is missing and writes the table.

    Args:
        runs: Where the runs are kept.
        seeds: How many seeds.
        particles: Draws of z for each image in log p(x).
    """
    lines = [
        "# What bfloat16 costs",
        "",
        "Made by `python benchmarks/precision.py --runs DIR`: the embedded digits, the defaults",
        f"of `fit`, log p(x) of the 300 test images by {particles:,} particles in nats_per_datum,",
        "measured in float32; +- is the standard error of the mean difference over the images.",
        "",
        "| seed | float32 | bfloat16 | bfloat16 - float32 |",
        "|---|---|---|---|",
    ]
    means = []
    for seed in range(seeds):
        values = [_log_likelihood(runs, precision, seed, particles) for precision in PRECISIONS]
        difference = values[1] - values[0]
        means.append(difference.mean())
        error = difference.std() / len(difference) ** 0.5
        cells = [f"{value.mean():.3f}" for value in values]
        lines.append(f"| {seed} | {cells[0]} | {cells[1]} | {means[-1]:.3f} +- {error:.3f} |")
    stacked = torch.stack(means)
    spread = stacked.std() / seeds**0.5
    lines += ["", f"Over the seeds: {stacked.mean():.3f} +- {spread:.3f} nats_per_datum."]
    with whole_file(TABLE) as file:
        file.write("\n".join([*lines, ""]).encode())
    print("\n".join(lines))


def _log_likelihood(runs: Path, precision: str, seed: int, particles: int) -> torch.Tensor:
    path = runs / f"digits-{precision}-{seed}"
    if not path.exists():
        chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        fit(precision=chosen, seed=seed, run=path)
    run = load(path)
    with seeded(run.device, seed):
        return estimate(run.model, run.guide, run.data.test, particles).log_likelihood


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
