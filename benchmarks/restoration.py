"""Noise and missing pixels of MNIST and Frey Face, beside scikit-image's methods.

    python benchmarks/restoration.py --data_root DIR --runs DIR

Four runs, MNIST as binary images, as grey levels and as bytes, and Frey Face, restore the first
test images under ten corruptions each; bytes not under noise, which sums over 256 values. A run
that is there already is not trained again, and a measurement that is there is read. The table goes
to benchmarks/restoration.md. It needs scikit-image and PyWavelets.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from tables import measured, table_row, trained, write

from models import MLP, BetaBinomial, Convolutional, Flow, Gaussian
from models.corruptions import Corruption, GaussianNoise, Masked, SaltAndPepper
from ppl_vae import load
from ppl_vae.data import MNIST, FreyFace
from ppl_vae.inference.restoration import Method
from ppl_vae.machine.files import whole_file
from ppl_vae.measures.denoisers import SHORT
from ppl_vae.restore import restore

TABLE = Path(__file__).with_suffix(".md")
CORRUPTIONS: dict[str, Corruption] = {
    "noise 0.1": GaussianNoise(0.1),
    "noise 0.3": GaussianNoise(0.3),
    "noise 0.5": GaussianNoise(0.5),
    "salt and pepper 0.1": SaltAndPepper(0.1),
    "salt and pepper 0.3": SaltAndPepper(0.3),
    "25 % missing": Masked(fraction=0.25),
    "50 % missing": Masked(fraction=0.5),
    "75 % missing": Masked(fraction=0.75),
    "90 % missing": Masked(fraction=0.9),
    "lower half missing": Masked(half="lower"),
}
RUNS = {
    "mnist-binary": "MNIST, binary",
    "mnist-grey": "MNIST, grey levels",
    "mnist-bytes": "MNIST, bytes",
    "frey": "Frey Face",
}
TOO_SLOW = {"mnist-bytes": GaussianNoise}  # sums over 256 values of each pixel
SCORES = {"psnr_decibels": 2, "ssim": 3, "crps": 4}
TIMED = "noise 0.3"


def main(data_root: Path, runs: Path, images: int = 30, timed: int = 100) -> None:
    """Trains what is missing, measures it and writes the table.

    Args:
        data_root: The folder of MNIST and Frey Face.
        runs: The folder of the runs.
        images: How many are restored under each corruption.
        timed: How many are restored for the times.
    """
    layers = partial(MLP, hidden=(400, 400), activation="relu")
    mnist = {"network": layers, "latent_dim": 40, "batch_size": 200}
    trained(
        runs / "mnist-binary",
        data=MNIST(data_root, binarize="dynamic"),
        epochs=50,
        learning_rate=2e-3,
        **mnist,
    )
    trained(
        runs / "mnist-grey",
        data=MNIST(data_root),
        likelihood=partial(Gaussian, scale="pixel"),
        epochs=8,
        **mnist,
    )
    trained(
        runs / "mnist-bytes",
        data=MNIST(data_root),
        network=partial(Convolutional, kernel_size=5, activation="silu"),
        prior=partial(Flow, flows=1),
        likelihood=BetaBinomial,
        latent_dim=50,
        epochs=12,
        learning_rate=2e-3,
        engine="compiled",
    )
    trained(
        runs / "frey",
        data=FreyFace(data_root),
        likelihood=partial(Gaussian, scale="pixel"),
        network=partial(MLP, hidden=(200,)),
        latent_dim=20,
        epochs=800,
    )
    lines = [
        "# Noise and missing pixels",
        "",
        f"Made by `python benchmarks/restoration.py`: the first {images} test images of each data",
        "set, corrupted in ten ways and restored from p(x|y) under one run each, by importance",
        "resampling, beside the method of scikit-image that has the highest PSNR there: total",
        "variation (TV), non-local means (NLM) or wavelets, calibrated; a median filter; the",
        "biharmonic equation. PSNR is in decibels, at most 100. Of a method that gives one image",
        "the CRPS is the absolute error. Coverage is that of the central 90 % of the draws, by",
        "ranks with ties broken at random, over the pixels whose standard deviation is above 0.01.",
        "k-hat is of the importance weights: for how many images it is above 0.7. Standard errors",
        "are over images. Bytes are the 8-bit run of benchmarks/compression.py; noise on them is",
        "left out, for it takes over 20 seconds an image.",
    ]
    for name, heading in RUNS.items():
        lines += [
            "",
            f"## {heading}",
            "",
            table_row("", "PSNR", "SSIM", "CRPS", "coverage", "k-hat > 0.7", "best other", "PSNR",
                      "SSIM", "CRPS"),
            "|---" * 10 + "|",
        ]  # fmt: skip
        lines += [
            _row(title, _measured(runs, name, title, images))
            for title, corruption in CORRUPTIONS.items()
            if not isinstance(corruption, TOO_SLOW.get(name, ()))
        ]
    lines += [
        "",
        "## Times",
        "",
        f"Of {timed} images of MNIST, binary, with noise of 0.3: a call of `restore` without other",
        "methods, in seconds of the processor, which had other work too.",
        "",
        table_row("method", "seconds"),
        "|---" * 2 + "|",
    ]
    for method in ("importance", "nuts"):
        numbers = _measured(runs, "mnist-binary", TIMED, timed, method)
        lines.append(table_row(method, f"{numbers['cpu_seconds']:.0f}"))
    write(TABLE, lines)


def _measured(
    runs: Path, name: str, corruption: str, images: int, method: Method | None = None
) -> dict[str, Any]:
    """The numbers of a restoration, made or read."""
    folder = runs / "restorations"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{corruption}-{images}-{method or 'scores'}.json"
    if not path.exists():
        began = time.process_time()
        found = restore(
            load(runs / name, device="cpu"),
            corruption=CORRUPTIONS[corruption],
            corrupt=True,
            count=images,
            method=method or "importance",
            compare_with_others=method is None,
        )
        numbers = found.numbers | {"cpu_seconds": time.process_time() - began}
        with whole_file(path) as file:
            file.write(json.dumps(numbers).encode())
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def _coverage(scores: dict[str, Any]) -> str:
    """That of images with uncertain pixels; too few have none."""
    if scores.get("coverage_of_90_percent_standard_error") is None:
        return ""
    return measured(scores, "coverage_of_90_percent", 3)


def _row(corruption: str, numbers: dict[str, Any]) -> str:
    ours, others = numbers["restoration"], numbers["others"]
    best = max(others, key=lambda name: others[name]["psnr_decibels"])
    return table_row(
        corruption,
        *(measured(ours, name, digits) for name, digits in SCORES.items()),
        _coverage(ours),
        numbers["images_with_k_hat_above_0.7"],
        SHORT[best],
        *(measured(others[best], name, digits) for name, digits in SCORES.items()),
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
