"""Trains runs on MNIST, finds images of other kinds with them, and writes a table.

    python benchmarks/detection.py --data_root DIR --runs DIR

A run that is there already is measured and not trained again; a measurement that is there already
is read and not made again. The table goes to benchmarks/detection.md.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from other_kinds import METHODS, MOST, other_kinds, other_methods
from scipy.special import logsumexp
from tables import table_row, trained, write

from ppl_vae import load
from ppl_vae.data import MNIST
from ppl_vae.detect import NUMBERS, detect
from ppl_vae.detect import TABLE as SCORES_TABLE
from ppl_vae.measures.ranking import ranking_scores

TABLE = Path(__file__).with_suffix(".md")
SCORES = (
    "complexity",
    "exemplar_complexity",
    "zlib_complexity",
    "log_likelihood",
    "elbo",
    "distortion",
    "rate",
    "typicality",
)
LABELLED = "nine runs"
OTHERS = "others.json"
SLOW = "slow.json"
PERTURB = 0.2
LATENT_DIM = 20
ONE_EPOCHS, OUT_EPOCHS, ALL_EPOCHS = 40, 15, 12
PARTICLES = 10
FEW = 20


def main(data_root: Path, runs: Path, only: str = "") -> None:
    """Fills what is missing and writes the table.

    Args:
        data_root: The folder that holds MNIST/raw and FreyFace.
        runs: Where the runs are kept.
        only: Of `out`, `one` and `all` those to train and measure, separated by commas.
    """
    tasks = only.split(",") if only else ["all", "one", "out"]
    if "all" in tasks:
        path = trained(runs / "all", **_options(ALL_EPOCHS), data=MNIST(data_root))
        _kinds(path, data_root)
        perturbed = MNIST(data_root, perturb=PERTURB)
        background = trained(runs / "background", **_options(OUT_EPOCHS), data=perturbed)
        _slow(path, background, data_root)
    for digit in range(10) if "one" in tasks else ():
        data = MNIST(data_root, classes=[digit])
        path = trained(runs / f"one-{digit}", **_options(ONE_EPOCHS), data=data)
        _judge(path, data_root, [digit])
        if not (path / OTHERS).exists():
            write(path / OTHERS, [json.dumps(other_methods(data_root, digit, LATENT_DIM))])
    for digit in range(10) if "out" in tasks else ():
        data = MNIST(data_root, without_classes=[digit])
        path = trained(runs / f"out-{digit}", **_options(OUT_EPOCHS), data=data)
        _judge(path, data_root, [each for each in range(10) if each != digit])
    write(TABLE, [_HEAD, *_digits(runs), *_kinds_rows(runs), _SHORT])
    print(TABLE.read_text())


def _options(epochs: int) -> dict[str, Any]:
    return {"latent_dim": LATENT_DIM, "epochs": epochs, "engine": "compiled"}


def _judge(path: Path, data_root: Path, normal: list[int]) -> None:
    """Judges all 10,000 test images."""
    if not (path / "detection" / NUMBERS).exists():
        detect(
            load(path),
            data=MNIST(data_root),
            split="test",
            scores=SCORES,
            normal_classes=normal,
            particles=PARTICLES,
        )


def _kinds(path: Path, data_root: Path) -> None:
    """Judges images of other kinds than MNIST beside its test images."""
    run = load(path)
    for name, images in other_kinds(run.pieces["data"], data_root):
        if not (path / f"detection-{name}" / NUMBERS).exists():
            detect(
                run,
                data=images,
                scores=SCORES,
                normal_classes=[],
                particles=PARTICLES,
                data_points=len(images),
                calibration_points=MOST,
                out=path / f"detection-{name}",
            )


def _slow(path: Path, background: Path, data_root: Path) -> None:
    """The two scores that need more than the run, on a few images of each kind."""
    if (path / SLOW).exists():
        return
    run = load(path)
    kinds = {name: images[:FEW] for name, images in other_kinds(run.pieces["data"], data_root)}
    found = detect(
        run,
        data=torch.cat(list(kinds.values())),
        scores=("likelihood_ratio", "likelihood_regret"),
        background=load(background),
        normal_classes=[],
        particles=PARTICLES,
        calibration_points=FEW,
        out=path / "detection-slow",
    )
    truth = np.repeat([True, False], [FEW, len(next(iter(found.fresh.values())))])
    ranking = {
        kind: {
            name: ranking_scores(
                truth, np.concatenate([each[place * FEW : (place + 1) * FEW], found.fresh[name]])
            )
            for name, each in found.scores.items()
        }
        for place, kind in enumerate(kinds)
    }
    write(path / SLOW, [json.dumps(ranking)])


_HEAD = f"""# Anomaly detection, measured

Made by `python benchmarks/detection.py --data_root DIR --runs DIR`: MNIST, dynamic
binarisation, the default network (tanh 500), D = {LATENT_DIM}, seed 0. Cells are AUROC in
percent, with bootstrap standard errors over the images where they are above 0.1. Every score is
from {PARTICLES} draws of z.

The pair is the default one but for D, and the numbers of epochs follow from the time at hand;
neither was changed after an AUROC was seen. The scores `complexity` and `exemplar_complexity`
were chosen from about forty candidates by the AUROC on a fifth of the test images: the first by
digits 1, 2, 5 and 8 of table 2, digit 1 of table 1 and table 3, the second by digits 2, 3, 4,
5, 7 and 9 of table 1 and 2, 5 and 8 of table 2. So the numbers of these tasks are a little too
high. The others, digits 0, 3, 4, 6, 7 and 9 of table 2 and 0, 6 and 8 of table 1, had no part
in the choice."""

_OUT = f"""
## 1. One digit left out

A run is trained for {OUT_EPOCHS} epochs on nine digits. All 10,000 test images are judged;
those of the tenth digit are anomalous. The last column knows the labels of the nine: it is
`complexity` with the mean of p(x) over their nine runs of table 2 in place of p(x).
"""

_ONE = f"""
## 2. One digit is normal

A run is trained for {ONE_EPOCHS} epochs on one digit, about 5,000 images. All 10,000 test
images are judged; those of the nine others are anomalous. The three methods of scikit-learn
have the grey levels of the same images: IsolationForest, OneClassSVM with nu = 0.1, PCA of
{LATENT_DIM} components. Published means: 94.8 (Deep SVDD), 97.5 (OCGAN).
"""

_KINDS = f"""
## 3. Other kinds of images

A run is trained for {ALL_EPOCHS} epochs on all digits. Up to {MOST:,} images of each
kind are judged beside as many test images.
"""

_RATIO = f"""
The ratio needs a second run (`--data.perturb {PERTURB}`, {OUT_EPOCHS} epochs), and the regret is
slow: both are measured on {FEW} images of each kind."""

_SHORT = """
Where this falls short, and why:

- Table 1: a run of nine digits decodes much of the tenth from codes between those that it knows. A
  9 lies between 4 and 7, and stays hard. One run for each digit, which takes labels, does better.
- Digits upside down: 0, 1, 3 and 8 look the same or nearly so. The row of the six others leaves
  them out; 2 and 5, and 6 and 9, still resemble each other.
- `black` images are what plain log p(x) likes best of all."""


def _cell(ranking: dict[str, dict[str, float]], name: str) -> str:
    """AUROC in percent; its standard error where that is not small."""
    if name not in ranking:
        return ""
    value, error = (100 * ranking[name][key] for key in ("auroc", "auroc_standard_error"))
    return f"{value:.1f} +- {error:.1f}" if error > 0.1 else f"{value:.1f}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _table(first: str, names: Sequence[str], rows: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each task and, of several digits, their mean."""
    lines = [table_row(first, *names), "|" + "---|" * (1 + len(names))]
    lines += [table_row(row, *(_cell(each, name) for name in names)) for row, each in rows.items()]
    if first == "digit":
        means = [[each[n]["auroc"] for each in rows.values() if n in each] for n in names]
        lines.append(table_row("mean", *(f"{100 * np.mean(each):.1f}" for each in means)))
    return lines


def _digits(runs: Path) -> list[str]:
    """Tables 1 and 2, and the false alarms of both."""
    lines: list[str] = []
    alarms = []
    known = _labelled(runs)
    for text, task, others in ((_OUT, "out", (LABELLED,)), (_ONE, "one", METHODS)):
        rows = {}
        for digit in range(10):
            path = runs / f"{task}-{digit}"
            found = _read(path / "detection" / NUMBERS)
            if found:
                more = _read(path / OTHERS) if task == "one" else known.get(digit, {})
                rows[str(digit)] = found["ranking"] | more
                alarms.append((found["false_alarm_rate"], found["false_alarm_rate_expected"]))
        lines += [text, *_table("digit", [*SCORES, *others], rows)]
    rates, expected = 100 * np.array(alarms).T
    text = f"""
Of the normal test images of these {len(rates)} tasks, {rates.mean():.1f} % are flagged by
`{SCORES[0]}` at `--false_alarms 0.05` ({rates.min():.1f} to {rates.max():.1f} %). For images
like those of calibration it would be {expected.mean():.2f} %; MNIST's test images are by other
writers than its validation images."""
    return [*lines, text]


def _labelled(runs: Path) -> dict[int, dict[str, Any]]:
    """`complexity` with the mean of p(x) over nine runs of one digit each, by the tenth."""
    paths = [runs / f"one-{digit}" / "detection" / SCORES_TABLE for digit in range(10)]
    if not all(path.exists() for path in paths):
        return {}
    log_p, lengths, labels = [], np.empty(0), np.empty(0)
    for path in paths:
        with open(path) as file:
            rows = list(csv.DictReader(file))
        log_p.append([-float(row["log_likelihood_nats"]) for row in rows])
        lengths = np.array([-float(row["complexity_nats"]) for row in rows]) - log_p[-1]
        labels = np.array([int(row["label"][0]) for row in rows])
    result = {}
    for digit in range(10):
        others = [each for number, each in enumerate(log_p) if number != digit]
        score = -logsumexp(others, axis=0) - lengths
        result[digit] = {LABELLED: ranking_scores(labels == digit, score)}
    return result


def _kinds_rows(runs: Path) -> list[str]:
    """Table 3."""
    slow = _read(runs / "all" / SLOW)
    rows = {}
    for path in sorted((runs / "all").glob(f"detection-*/{NUMBERS}")):
        kind = path.parent.name.removeprefix("detection-")
        if kind != "slow":
            rows[kind.replace("-", " ")] = _read(path)["ranking"] | slow.get(kind, {})
    if not slow:
        return [_KINDS, *_table("images", SCORES, rows)]
    names = [*SCORES, "likelihood_ratio", "likelihood_regret"]
    return [_KINDS, *_table("images", names, rows), _RATIO]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
