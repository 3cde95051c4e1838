"""Lossless compression: rates beside -ELBO and other compressors, speed, safety and damage.

    python benchmarks/compression.py --data_root DIR --runs DIR

A run that is there already is not trained again, and one that was measured by
`compress --measure true` is not measured again. The table goes to compression.md.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from tables import table_row, trained, write

from guides import Bidirectional, FullRankNormal
from models import (
    MLP,
    BetaBinomial,
    Cells,
    Convolutional,
    DiscretizedLogistic,
    Flow,
    TopDown,
)
from ppl_vae import load
from ppl_vae.coding.ans import Stack
from ppl_vae.coding.archive import Archive, pack_model
from ppl_vae.coding.bits_back import decode, encode
from ppl_vae.coding.compressing import blocks_of
from ppl_vae.coding.conversion import integer_pair
from ppl_vae.coding.integer_pair import IntegerPair
from ppl_vae.coding.tables import FRACTION
from ppl_vae.compress import COMPRESSION, compress, measure
from ppl_vae.data import MNIST, FreyFace
from ppl_vae.decompress import decompress
from ppl_vae.errors import InputError
from ppl_vae.objectives import Beta
from ppl_vae.runs.results import write_numbers
from ppl_vae.runs.run import Run

TABLE = Path(__file__).with_suffix(".md")
BATCHES = (1, 7, 100, 1000)
FEWER = 500  # images, where each is coded alone or threads wait for each other
DAMAGES = 1000
REPEATS = 10  # a stack is whole words long
DECODE = "decode"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TWO_WITHOUT_AVX = {
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL",
}


@dataclass(frozen=True)
class Case:
    """One row: a run, and the published figures that stand beside it."""

    name: str
    what: str
    data: Any
    options: dict[str, Any]
    published: str


_CHANNELS = {"channels": (16, 32, 32), "kernel_size": 5, "hidden": 450, "activation": "silu"}
_BINARY = {
    "prior": partial(Flow, flows=1),
    "learning_rate": 2e-3,
    "engine": "compiled",
    "network": partial(Convolutional, **_CHANNELS),
    "latent_dim": 40,
    "guide": FullRankNormal,
    "epochs": 140,
    "restart_epochs": [100],
    "average": 0.999,
    "objective": Beta(warmup_epochs=5),
}
_BYTES = {
    "model": partial(TopDown, groups=((2, 1), (3, 7), (1, 14))),
    "guide": Bidirectional,
    "network": Cells,
    "latent_dim": 8,
    "likelihood": BetaBinomial,
    "epochs": 60,
    "learning_rate": 2e-3,
    "objective": Beta(warmup_epochs=2, balance=True),
    "average": 0.999,
    "clip_norm": 1e3,
    "skip_norm": 1e5,
    "engine": "compiled",
}
_FREY = {
    "network": partial(MLP, hidden=(200,)),
    "latent_dim": 20,
    "likelihood": DiscretizedLogistic,
    "epochs": 400,
    "patience": 100,
    "engine": "compiled",
}

CASES = (
    Case(
        "binary", "binarised MNIST, convolutions 16-32-32, D = 40, full-rank normal, flow", MNIST,
        _BINARY, "0.19 (BB-ANS)",
    ),
    Case("frey", "Frey Face, MLP 200, D = 20, DiscretizedLogistic", FreyFace, _FREY, ""),
    Case(
        "bytes", "8-bit MNIST, TopDown of 6 groups, BetaBinomial", MNIST, _BYTES,
        "1.41 (BB-ANS), 1.29 (Bit-Swap)",
    ),
)  # fmt: skip


def main(data_root: Path, runs: Path, few: int = 10_000) -> None:
    """Trains what is missing, measures and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw and FreyFace.
        runs: Where the runs are kept.
        few: Of how many test images the rest than the rates is measured.
    """
    rates, speeds, safety, damage, others = [], [], [], [], list[str]()
    for case in CASES:
        path = trained(runs / case.name, data=case.data(data_root), **case.options)
        run = load(path, "cpu")
        pair, codes = integer_pair(run.model, run.guide), run.data.test[:].byte().numpy()
        result = _measured(run)
        rates.append(_rates(case, run, result, _of_whole_numbers(run, pair, codes[:1000])))
        others = [*result["others"]]
        codes = codes[:few]
        _, memory_of_fewer = _with_memory(partial(compress, run, codes[:FEWER]))
        archive, memory = _with_memory(partial(compress, run, codes))
        speeds.append(table_row(case.name, *_speeds(pair, codes), memory_of_fewer, memory))
        safety.append(table_row(case.name, *_wrong(path, run, codes)))
        damage.append(table_row(case.name, *_found(archive, pair, codes)))
    write(TABLE, _page(others, rates, speeds, safety, damage))


def _with_memory(work: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, and by how many MiB memory grows for a while, as Linux counts it."""
    Path("/proc/self/clear_refs").write_text("5")  # what was the most is forgotten
    before = _most_kibibytes()
    result = work()
    return result, f"{(_most_kibibytes() - before) / 1024:.0f}"


def _most_kibibytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _measured(run: Run) -> dict[str, Any]:
    file = run.path / COMPRESSION
    if not file.exists():
        write_numbers(file, measure(run))
    return json.loads(file.read_text())


@torch.no_grad()
def _of_whole_numbers(run: Run, pair: IntegerPair, codes: np.ndarray) -> float:
    """How much longer x is under p(x|z) in whole numbers than in floating point, z the same."""
    z, features = pair.at_means(codes)
    floating = run.model.decode(torch.tensor(z / 2**FRACTION).float())
    nats = -floating.log_prob(torch.tensor(codes).float()).sum().item()
    stack = Stack.seeded(64)
    before = len(stack)
    for _ in range(REPEATS):
        pair.pixels.push(stack, features, codes)
    return 32 * (len(stack) - before) * log(2) / (REPEATS * nats) - 1


def _rates(case: Case, run: Run, result: dict[str, Any], whole_numbers: float) -> str:
    ours, bound = result["bits_per_dim"], result["negative_elbo_bits_per_dim"]
    error = result["negative_elbo_bits_per_dim_standard_error"]
    return table_row(
        case.what,
        run.config["epochs"],
        f"{ours:.4f}",
        f"{bound:.4f} +- {error:.4f}",
        f"{100 * (ours / bound - 1):+.2f} %",
        f"{100 * whole_numbers:+.3f} %",
        *(f"{bits:.3f}" for bits in result["others"].values()),
        case.published,
    )


def _speeds(pair: IntegerPair, codes: np.ndarray) -> list[str]:
    began = time.process_time()
    words, batches = encode(pair, codes)
    coded = time.process_time()
    decode(pair, words, len(codes), batches)
    ended = time.process_time()
    ways = (f"{len(codes) / seconds:,.0f}" for seconds in (coded - began, ended - coded))
    return [f"{len(codes):,}", *ways, f"{len(pack_model(pair.data)):,}"]


def _wrong(path: Path, run: Run, codes: np.ndarray) -> list[str]:
    """How many images come back wrong, decoded by other processes, for each size of a batch."""
    np.save(path.parent / "codes.npy", codes)
    wrong = []
    for environment in (ONE_THREAD, TWO_WITHOUT_AVX):
        for batch in BATCHES:
            fewer = batch == 1 or environment is TWO_WITHOUT_AVX
            some = codes[:FEWER] if fewer else codes
            _archive(path, batch).write_bytes(compress(run, some, batch_size=batch))
        decoder = subprocess.run(
            [sys.executable, __file__, DECODE, str(path)],
            env=os.environ | environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        wrong.append(decoder.stdout.split())
    return [f"{len(codes):,}", *(cell for cells in zip(*wrong, strict=True) for cell in cells)]


def _archive(path: Path, batch: int) -> Path:
    return path.parent / f"codes-{batch}.pvz"


def _decode(path: Path) -> None:
    """Prints how many images of each archive that `_wrong` left are wrong."""
    run, codes = load(path, "cpu"), np.load(path.parent / "codes.npy")
    for batch in BATCHES:
        back = decompress(_archive(path, batch).read_bytes(), run)
        print(int((back != codes[: len(back)]).reshape(len(back), -1).any(1).sum()))


def _found(data: bytes, pair: IntegerPair, codes: np.ndarray) -> list[str]:
    """How many damages of each kind are found, and by how many MiB they make memory grow."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys(("flip", "truncation", "splice", "swap"), 0)

    def damage() -> None:
        a, b, c = sorted(rng.choice(len(data), 3, replace=False).tolist())
        flipped = bytes([data[a] ^ (1 << int(rng.integers(8)))])
        for kind, damaged in {
            "flip": data[:a] + flipped + data[a + 1 :],
            "truncation": data[:a],
            "splice": data[:a] + data[b:],
            "swap": data[:a] + data[b:c] + data[a:b] + data[c:],
        }.items():
            found[kind] += damaged == data or _is_found(damaged, pair, codes)

    _, growth = _with_memory(lambda: [damage() for _ in range(DAMAGES)])
    return [*(f"{number:,} of {DAMAGES:,}" for number in found.values()), growth]


def _is_found(data: bytes, pair: IntegerPair, codes: np.ndarray) -> bool:
    try:
        archive = Archive(data)
        for number in range(len(archive.header.blocks)):
            archive.words(number)  # before all are decoded, which takes long
        back = np.concatenate([images for _, images in blocks_of(archive, pair)])
    except InputError:
        return True
    return np.array_equal(back, codes)  # the damage is none: every byte that is read is right


def _page(
    others: list[str], rates: list[str], speeds: list[str], safety: list[str], damage: list[str]
) -> list[str]:
    processes = " | ".join(
        f"{batch:,}, {name}" for batch in BATCHES for name in ("one thread", "two, no AVX")
    )
    return [
        "# Lossless compression",
        "",
        "Made by `python benchmarks/compression.py --data_root DIR --runs DIR`: all test images of",
        "each data set, in bits per dim of the whole archive without the model. -ELBO is that of",
        "the networks in floating point, 10 particles; +- is one standard error over the images,",
        "which are the same in both, so that the gap is more certain than that. gzip, bz2 and lzma",
        "are over one stream of all images, of binary ones as bytes or bits; PNG, WebP and, where",
        "pillow-jxl-plugin is installed, JPEG XL over pictures of one image or of many, the first",
        "1,000; the shorter counts. Speed, safety and damage are measured on the first images,",
        "`--few` of them.",
        "",
        "| images and model | epochs | ours | -ELBO | gap | whole numbers | "
        f"{' | '.join(others)} | published |",
        f"|{'---|' * (7 + len(others))}",
        *rates,
        "",
        "The gap is the coder's: whole numbers instead of floating point, bins, the bits that the",
        "first images find, and the header. The column of whole numbers has their part: by how",
        "much -log p(x|z) of 1,000 images is longer in them, z the mean of q(z|x). All else is the",
        "model's: these runs are short, and a better bound is a better rate, bit for bit.",
        "",
        "## Speed",
        "",
        "Images for each second of the processor, one thread; the cores did other work too, which",
        "shares their caches. The bytes of the model are what `--embed_model true` adds. Memory is",
        f"by how much it grows while the first {FEWER:,} are compressed, and while all are.",
        "",
        "| run | images | compressed | decompressed | bytes of the model | "
        f"MiB of {FEWER:,} | MiB of all |",
        f"|{'---|' * 7}",
        *speeds,
        "",
        "## Safety",
        "",
        "Images that came back wrong, by how many are coded together. They are decoded by other",
        "processes: of one thread, and of two that take no AVX instructions. Where each is coded",
        f"alone, and of two threads, which wait for each other long, the first {FEWER:,} are.",
        "",
        f"| run | images | {processes} |",
        f"|{'---|' * (2 + 2 * len(BATCHES))}",
        *safety,
        "",
        "## Damage",
        "",
        f"{DAMAGES:,} random damages of each kind to an archive of these images: a bit flipped;",
        "the end cut off; a piece taken out; two pieces in each other's place. Found are those",
        "that end in an error or in a block that is named, with no image decoded wrong.",
        "",
        "| run | flips | truncations | splices | swaps | MiB more memory |",
        f"|{'---|' * 6}",
        *damage,
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == [DECODE]:
        _decode(Path(sys.argv[2]))
    else:
        auto_cli(main, as_positional=False)
