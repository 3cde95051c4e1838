"""What lower precisions cost: final log p(x) of runs in each, seed by seed.

    python benchmarks/precision.py --data_root DIR --runs DIR

MNIST, the network of Kingma and Welling (2014) with 20 latents, the compiled engine. The runs of a
seed have the same initial parameters, order of images and noise, so their difference is taken image
by image. A run that is there already is not trained again. The table goes to
benchmarks/precision.md, or with `--device cuda`, where tensorfloat32 takes part, to
precision-cuda.md.
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import table_row, trained, write

from ppl_vae import load
from ppl_vae.data import MNIST
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.estimates import estimate
from ppl_vae.training.precision import precisions_of


def main(
    data_root: Path,
    runs: Path,
    seeds: int = 3,
    epochs: int = 100,
    particles: int = 500,
    device: str = "cpu",
) -> None:
    """Trains what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        runs: Where the runs are kept.
        seeds: How many seeds.
        epochs: Of each run.
        particles: Draws of z for each image in log p(x).
        device: Where to train and measure, cpu or cuda.
    """
    precisions = precisions_of(torch.device(device))
    lower, suffix = precisions[1:], "" if device == "cpu" else "-cuda"
    arithmetic = (
        f"it has {torch.backends.cpu.get_cpu_capability()}; without AVX512 bfloat16 is emulated."
        if device == "cpu"
        else f"it is an {torch.cuda.get_device_name()}."
    )
    lines = [
        f"# What {' and '.join(lower)} cost{'s' * (len(lower) == 1)}",
        "",
        "Made by `python benchmarks/precision.py --data_root DIR --runs DIR`: MNIST, tanh 500,",
        f"D = 20, {epochs} epochs in batches of 100, compiled; log p(x) of the 10,000 test images",
        f"by {particles:,} particles in nats per datum, measured in float32; +- is the standard",
        "error of the mean difference over the images. Seconds are of training, of one machine;",
        arithmetic,
        "",
        table_row("seed", *precisions, *(f"{name} - float32" for name in lower),
                  *(f"seconds, {name}" for name in precisions)),
        "|" + "---|" * (3 * len(precisions)),
    ]  # fmt: skip
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
                device=device,
            )
            for precision in precisions
        ]
        values = [_log_likelihood(path, seed, particles) for path in paths]
        differences = torch.stack([value - values[0] for value in values[1:]])
        means.append(differences.mean(1))
        errors = differences.std(1) / differences.shape[1] ** 0.5
        cells = [f"{value.mean():.3f}" for value in values]
        cells += [f"{m:.3f} +- {e:.3f}" for m, e in zip(means[-1], errors, strict=True)]
        cells += [f"{load(path).summary['training_seconds']:.0f}" for path in paths]
        lines.append(table_row(seed, *cells))
    stacked = torch.stack(means)
    spreads = stacked.std(0) / seeds**0.5
    lines.append("")
    for name, mean, spread in zip(lower, stacked.mean(0), spreads, strict=True):
        lines.append(f"Over the seeds: {name} {mean:.3f} +- {spread:.3f} nats per datum.")
    write(Path(__file__).with_name(f"precision{suffix}.md"), lines)
    print("\n".join(lines))


def _log_likelihood(path: Path, seed: int, particles: int) -> torch.Tensor:
    run = load(path)
    with seeded(run.device, seed):
        return estimate(run.model, run.guide, run.data.test, particles).log_likelihood


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
