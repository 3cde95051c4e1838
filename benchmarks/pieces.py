"""Trains the pieces of the literature on MNIST, measures them and writes a table.

    python benchmarks/pieces.py --data_root DIR --runs DIR

A run that is there already is measured and not trained again; a measurement that is there already
is read and not made again. The table goes to benchmarks/pieces.md.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from tables import measured, table_row, trained, write

from guides import IAF, BottomUp, Ladder, SemiSupervisedNormal
from models import MLP, Hierarchical, SemiSupervised, VampPrior
from ppl_vae import load
from ppl_vae.data import MNIST
from ppl_vae.evaluate import EVALUATION, evaluate
from ppl_vae.features import FEATURES, features
from ppl_vae.objectives import Beta, SemiSupervisedELBO

TABLE = Path(__file__).with_suffix(".md")
PARTICLES = 5000
FEWER = 1000
LABELS = 100
REPEATS = 100  # so that a sixth of each batch has labels
ALPHA = 0.1 * (50_000 + (REPEATS - 1) * LABELS) / (REPEATS * LABELS)


@dataclass(frozen=True)
class Case:
    """One row: what to train, and the published figure to stand beside it."""

    name: str
    what: str
    epochs: int
    options: dict[str, Any]
    published: str = ""
    particles: int = FEWER


def _two_layers(guide: Any) -> dict[str, Any]:
    return {
        "model": partial(Hierarchical, top_dim=50, hidden=(100, 100)),
        "guide": guide,
        "network": partial(MLP, hidden=(200, 200)),
        "latent_dim": 100,
        "batch_size": 20,
    }


_BURDA = {"network": partial(MLP, hidden=(200, 200)), "latent_dim": 50, "batch_size": 20}
_BOTTOM_UP = _two_layers(partial(BottomUp, hidden=(100, 100)))
_TOP_DOWN = _two_layers(partial(Ladder, hidden=(100, 100)))
_STATIC = {"network": partial(MLP, hidden=(300, 300)), "latent_dim": 40}
_M2 = {
    "model": SemiSupervised,
    "guide": SemiSupervisedNormal,
    "objective": SemiSupervisedELBO(alpha=ALPHA),
    "labels": LABELS,
    "label_repeats": REPEATS,
    "latent_dim": 50,
}


_WARM_UP = {"objective": Beta(warmup_epochs=10)}
_VAMP = {"prior": partial(VampPrior, components=500)}

_ONE, _TWO = "one layer, tanh 200-200, D = 50, ELBO", "two layers of 100 and 50, bottom-up, ELBO"
_FIXED = "fixed binarisation, tanh 300-300, D = 40, warm-up over 10 epochs, N(0, I)"
_BY_BURDA, _BY_TOMCZAK = "-86.76 (Burda et al., 2016)", "-88.56 (Tomczak and Welling, 2018)"
_BY_KINGMA = "error 11.97 % +- 1.71 (Kingma et al., 2014)"

CASES = (
    Case("one-layer", _ONE, 100, _BURDA, _BY_BURDA, PARTICLES),
    Case("two-layers", _TWO, 40, _BOTTOM_UP, "-85.33"),
    Case("ladder", "two layers, top-down, warm-up over 10 epochs", 40, _TOP_DOWN | _WARM_UP),
    Case("static-normal", _FIXED, 40, _STATIC | _WARM_UP, _BY_TOMCZAK),
    Case("static-vamp", "the same, VampPrior, K = 500", 40, _STATIC | _VAMP | _WARM_UP, "-85.57"),
    Case("mean-field", "tanh 500, D = 20, DiagonalNormal", 40, {"latent_dim": 20}),
    Case("iaf", "the same, IAF", 40, {"latent_dim": 20, "guide": IAF}),
    Case("m2", f"M2, {LABELS} labels", 10, _M2, _BY_KINGMA, 20),
)


def main(data_root: Path, runs: Path, only: str = "") -> None:
    """Fills what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw.
        runs: Where the runs are kept.
        only: Train and measure only the cases of these names, separated by commas.
    """
    rows = []
    for case in CASES:
        path = runs / case.name
        if not only or case.name in only.split(","):
            options = {"engine": "compiled", "epochs": case.epochs, **case.options}
            data = MNIST(data_root, binarize="fixed" if case.name.startswith("static") else "auto")
            trained(path, data=data, **options)
            if not (path / EVALUATION).exists():
                evaluate(load(path), particles=case.particles)
        if (path / EVALUATION).exists():
            rows.append(_row(case, path))
    first = runs / CASES[0].name
    if (first / EVALUATION).exists() and not (first / FEATURES).exists():
        features(load(first))
    compared = _features_rows(first) if (first / FEATURES).exists() else []
    write(TABLE, [*_HEAD, *rows, *_SHORT, *compared])
    print(TABLE.read_text())


_HEAD = [
    "# The pieces, measured",
    "",
    "Made by `python benchmarks/pieces.py --data_root DIR --runs DIR`: MNIST, seed 0 where no",
    "other is named, Adam, peak 1e-3, one epoch of warm-up and cosine decay; batches of 20",
    "for the networks of Burda et al. and of 100 for the others; dynamic binarisation but where it",
    f"is said. ELBO and log p(x) ({PARTICLES:,} particles for the rows of one layer, {FEWER:,} for",
    "the others, which is too low by a little more) are in nats per datum, of all 10,000 test",
    "images; +- is one standard error over the images, which are the same in all rows, so that",
    "differences between rows are more certain than that; of other seeds it says nothing.",
    "The classification error is in percent. Published runs are many times longer: 3,280 epochs",
    "(Burda et al.), 50 epochs without progress (Tomczak and Welling); ours of such lengths are in",
    "[results.md](results.md).",
    "Training seconds are of one thread of a machine that did other work too: no claim of speed.",
    "",
    "| what | epochs | training seconds | ELBO | log p(x) | active units | error | published |",
    "|---|---|---|---|---|---|---|---|",
]


_SHORT = [
    "",
    "Where this falls short, and why:",
    "",
    "- Every run is many times shorter than the published one, and its learning rate decays to 0",
    "  within it. Bounds after fewer epochs are lower: compare rows of equal length.",
    "- M2 had 10 epochs, with each label a hundred times in each; once in each would be one label",
    "  in five batches.",
]


def _row(case: Case, path: Path) -> str:
    result = json.loads((path / EVALUATION).read_text())
    summary = json.loads((path / "summary.json").read_text())
    bounds = [f"{name}_nats_per_datum" for name in ("elbo", "log_likelihood")]
    cells = [case.what, str(summary["epoch"]), f"{summary['training_seconds']:,.0f}"]
    cells += [measured(result, name) if case.particles >= FEWER else "" for name in bounds]
    cells.append(str(result["active_units"]))
    cells.append(measured(result, "classification_error_percent"))
    return table_row(*cells, case.published)


_SCORES = {
    "reconstruction_squared_error_per_pixel": 4,
    "clustering_accuracy": 3,
    "normalized_mutual_information": 3,
    "linear_probe_accuracy": 3,
}


def _features_rows(path: Path) -> list[str]:
    results = json.loads((path / FEATURES).read_text())
    lines = [
        "",
        "## Features",
        "",
        "k-means, PCA and E[z|x] of the first row, by `features`: fitted to the first",
        f"{results['train_points']:,} training images, binarised like the others, and scored on",
        "all test images. Clustering is by k-means on the features, the linear probe is logistic",
        "regression.",
        "",
        f"| what | dimension | {' | '.join(name.replace('_', ' ') for name in _SCORES)} |",
        "|" + "---|" * (2 + len(_SCORES)),
    ]
    for each in results["representations"]:
        ours = each["name"] not in ("pixels", "k-means-10") and not each["name"].startswith("PCA")
        cells = ["VAE" if ours else each["name"], str(each["dimension"] or "")]
        lines.append(table_row(*cells, *(measured(each, *score) for score in _SCORES.items())))
    return lines


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
