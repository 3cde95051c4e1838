"""Throughput of the log-weights beside a hand-written loop of the same arithmetic.

python benchmarks/weights.py RUN --images 1000 --particles 1000
"""

import argparse
import resource
import time
from math import log, pi

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ppl_vae import load
from ppl_vae.joint import Joint
from ppl_vae.pareto import pareto_k


@torch.no_grad()
def by_hand(run, x: Tensor, particles: int, rows: int) -> Tensor:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=1000)
    arguments = parser.parse_args()
    run = load(arguments.run)
    x = run.data.test[: arguments.images]
    joint = Joint.of(run.model, run.guide, x)
    rows = joint.rows()
    count = len(x) * arguments.particles
    for name, compute in (
        ("ours", lambda: joint.log_weights(arguments.particles)),
        ("by hand", lambda: by_hand(run, x, arguments.particles, rows)),
        ("ours", lambda: joint.log_weights(arguments.particles)),
        ("by hand", lambda: by_hand(run, x, arguments.particles, rows)),
    ):
        began, processor = time.monotonic(), time.process_time()
        weights = compute()
        seconds, processor = time.monotonic() - began, time.process_time() - processor
        bound = (weights.logsumexp(0) - log(arguments.particles)).mean()
        print(
            f"{name:8} {count / seconds:10,.0f} weights a second, {count / processor:10,.0f} a "
            f"processor second; bound {bound:.2f} nats_per_datum"
        )
    began = time.monotonic()
    k_hat = pareto_k(weights).k_hat
    print(f"k-hat: {time.monotonic() - began:.1f} seconds, median {k_hat.median():.2f}")
    print(f"{torch.get_num_threads()} threads, {rows:,} weights a pass")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
