"""Throughput of the log-weights beside a hand-written loop of the same arithmetic.

    python benchmarks/weights.py --run RUN

The table goes to benchmarks/weights.md.
"""

import resource
import time
from math import log, pi
from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import table_row, write
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ppl_vae import load
from ppl_vae.densities.joint import Joint
from ppl_vae.inference.pareto import pareto_k
from ppl_vae.runs.run import Run

TABLE = Path(__file__).with_suffix(".md")


@torch.no_grad()
def by_hand(run: Run, x: Tensor, particles: int, rows: int) -> Tensor:
    """log w of a VAE with a standard normal prior, a diagonal normal guide and Bernoulli pixels."""
    result = torch.empty(particles, len(x), dtype=torch.float64)
    width = max(1, rows // particles)
    for start in range(0, len(x), width):
        part = x[start : start + width]
        loc, log_variance = run.guide.encoder(part).chunk(2, -1)
        noise = torch.randn(particles, *loc.shape)
        z = loc + (log_variance / 2).exp() * noise
        logits = run.model.decoder(z)
        pixels = -binary_cross_entropy_with_logits(
            logits, part.expand_as(logits), reduction="none"
        ).sum((-3, -2, -1))
        prior = -0.5 * (z.square() + log(2 * pi)).sum(-1)
        guide = -0.5 * (noise.square() + log_variance + log(2 * pi)).sum(-1)
        result[:, start : start + width] = (prior + pixels - guide).double()
    return result


def main(run: Path, images: int = 1000, particles: int = 1000) -> None:
    """Measures the two in turn, twice, and writes the table.

    Args:
        run: A trained run: a `VAE` with `DiagonalNormal` and `Bernoulli`.
        images: Of the test split.
        particles: Draws of z for each.
    """
    trained = load(run)
    x = trained.data.test[:images]
    joint = Joint.of(trained.model, trained.guide, x)
    before, rows = _peak_gib(), joint.rows()
    lines = []
    for name, compute in 2 * (
        ("`Joint.log_weights`", lambda: joint.log_weights(particles)),
        ("by hand", lambda: by_hand(trained, x, particles, rows)),
    ):
        began, processor = time.monotonic(), time.process_time()
        weights = compute()
        seconds, processor = time.monotonic() - began, time.process_time() - processor
        bound = (weights.logsumexp(0) - log(particles)).mean()
        cells = [f"{seconds:.1f}", f"{processor:.1f}", f"{weights.numel() / processor:,.0f}"]
        lines.append(table_row(name, *cells, f"{bound:.2f}", f"{_peak_gib():.2f}"))
        print(lines[-1])
    began = time.process_time()
    k_hat = pareto_k(weights).k_hat
    seconds = time.process_time() - began
    options = trained.config["network"]["init_args"]
    text = [
        "# Throughput of the log-weights",
        "",
        f"Made by `python benchmarks/weights.py --run RUN`: {images:,} MNIST test images x",
        f"{particles:,} draws through a VAE of {trained.spec.latent_dim} latents and hidden layers",
        f"{options['hidden']}, float32, torch {torch.__version__}, {torch.get_num_threads()} CPU",
        f"thread(s), passes of {rows:,} weights. By hand is a PyTorch loop of the same arithmetic,",
        "in turn with ours in one process. Processor seconds are what the process itself used, and",
        "hold on a machine that does other work too. The peak is that of the whole process, with",
        f"libraries, model and data, which were {before:.2f} GiB before the first row.",
        "",
        "| | seconds | processor seconds | weights a processor second | bound, nats per datum "
        "| peak so far, GiB |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        f"Pareto k-hat of all the images: {seconds:.1f} processor seconds, median "
        f"{k_hat.median():.2f}.",
    ]
    write(TABLE, text)


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
