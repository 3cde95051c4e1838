"""Throughput of `evaluate` beside the bare matrix products of the decoder.

    python benchmarks/evaluation.py

The network of Kingma and Welling (2014), 20-500-784, on noise of MNIST's shape: importance-sampled
log p(x) by 5,000 particles as `python -m ppl_vae.evaluate` computes it, compiling included, and the
two products that decode as many z, in passes of about the same size. Both in turn; medians are
quoted. The table goes to benchmarks/evaluation.md.
"""

import resource
import statistics
import time
from pathlib import Path

import torch
from contestants import HIDDEN, LATENT, PIXELS, pair
from jsonargparse import auto_cli

from ppl_vae.data import Split
from ppl_vae.estimates import estimate
from ppl_vae.files import whole_file

TABLE = Path(__file__).with_suffix(".md")
PASS = 5000  # rows of one pass: so many weights does `evaluate` hold at once, about


@torch.no_grad()
def main(images: int = 1000, particles: int = 5000, rounds: int = 5) -> None:
    """Measures both in turn and writes the table.

    Args:
        images: How many are evaluated.
        particles: Draws of z for each.
        rounds: How often each is timed.
    """
    device = torch.device("cpu")
    torch.manual_seed(0)
    model, guide = pair(device)
    model.eval()
    guide.eval()
    data = Split(torch.bernoulli(torch.full((images, 1, 28, 28), 0.13)), None, lambda raw: raw)
    z = torch.randn(PASS, LATENT)
    first, second = torch.randn(HIDDEN, LATENT), torch.randn(PIXELS, HIDDEN)

    def products() -> None:
        for _ in range(images * particles // PASS):
            z @ first.t() @ second.t()

    contestants = {
        "`evaluate`": lambda: estimate(model, guide, data, particles),
        "bare products": products,
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    rates = {name: images * particles / statistics.median(t) for name, t in times.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = [
        "# Throughput of the evaluation",
        "",
        f"Made by `python benchmarks/evaluation.py`: log p(x) of {images:,} images by",
        f"{particles:,} particles, 784-500-20-500-784, float32, torch {torch.__version__},",
        f"{torch.get_num_threads()} CPU threads, {rounds} rounds, compiling included, beside the",
        "decoder's two matrix products as torch computes them.",
        "",
        "| | weights a second |",
        "|---|---|",
        *(f"| {name} | {rate:,.0f} |" for name, rate in rates.items()),
        "",
        f"Ratio {rates['`evaluate`'] / rates['bare products']:.2f}. Peak memory {peak:.2f} GiB.",
        "",
    ]
    with whole_file(TABLE) as file:
        file.write("\n".join(text).encode())
    print("\n".join(text))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
