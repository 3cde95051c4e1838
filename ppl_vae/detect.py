"""Find images of another kind than a run was trained on: `python -m ppl_vae.detect RUN`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import (
    add_run,
    parse_with_run,
    pop_other_data,
    pop_run,
    run_verb,
)
from ppl_vae.compiler.compiling import Engine, check_engine
from ppl_vae.data import DataSet, Facts, ImageFolder, Split
from ppl_vae.errors import InputError, check_least
from ppl_vae.inference.gaps import gap_decomposition
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.progress import Progress, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.anomaly_scores import SCORES, Evidence, Score, code_lengths, log_mass
from ppl_vae.measures.conformal import (
    check_calibration,
    conformal_p_values,
    discoveries,
    exact_false_alarm_rate,
    rate_with_interval,
)
from ppl_vae.measures.estimates import estimate
from ppl_vae.measures.pixel_maps import pixel_maps, usual_map
from ppl_vae.measures.ranking import ranking_scores
from ppl_vae.pictures.detection import draw_curves, draw_extremes, draw_histograms
from ppl_vae.pictures.plots import to_display
from ppl_vae.runs.results import plain, writable, write_numbers, write_scores
from ppl_vae.runs.run import Run, load

__all__ = ["DETECTION", "Detection", "detect", "main"]

DETECTION = "detection"

_TRAINING_POINTS = 1000  # training images whose mean log p(x) is what is typical
_MAP_POINTS = 1000  # calibration images that say what is usual at a pixel
_MAP_PARTICLES = 16
_REGRET_STEPS = 1000

Arrays = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Detection:
    """What `detect` finds of N images; scores are in nats and larger where more anomalous.

    Attributes:
        images: The images that were judged.
        scores: (N,) each, by name.
        p_values: The conformal p-values of each score, (N,).
        flagged: (N,) bool, by the first score.
        anomalous: (N,) bool where that is known, else None.
        calibration: The scores of the n calibration images, (n,) each.
        fresh: The scores of normal images that had no part in anything, (M,) each.
        shown: The images of the picture: the least normal ones, then the most normal ones, (S,).
        maps: Of these, the nats of each pixel above what is usual there, (S, C, H, W).
        summary: The content of `detection.json`.
    """

    images: Split
    scores: Arrays
    p_values: Arrays
    flagged: NDArray[np.bool_]
    anomalous: NDArray[np.bool_] | None
    calibration: Arrays
    fresh: Arrays
    shown: NDArray[np.int64]
    maps: NDArray[np.float32]
    summary: dict[str, Any]


def detect(
    run: Run,
    data: Any = None,
    split: Literal["train", "validation", "test", "all"] | None = None,
    scores: Sequence[Score] = ("complexity",),
    background: Run | None = None,
    false_alarms: float = 0.05,
    false_discoveries: float | None = None,
    normal_classes: Sequence[int | str] | None = None,
    particles: int = 50,
    data_points: int | None = None,
    calibration_points: int | None = None,
    shown: int = 10,
    skip_unreadable: bool = False,
    seed: int = 0,
    engine: Engine = "auto",
    out: Path | None = None,
) -> Detection:
    """Scores images for being of another kind than a run's training images, and flags them.

    An image is flagged where its conformal p-value, from the validation images of the run, is at
    most `false_alarms`. Then a normal image is flagged with at most that probability, whatever the
    model, see `ppl_vae.measures.conformal`. RUN/detection/ gets scores.csv, detection.json,
    images.png, histograms.png and, where it is known which images are normal, curves.png.

    Args:
        run: A trained run.
        data: The images to judge, a `DataSet` or whatever `Run.split_of` takes; the test images of
            the run unless given.
        split: Which images of another data set; all unless given.
        scores: The scores to compute, see `ppl_vae.measures.anomaly_scores`. The first one flags.
        background: For `likelihood_ratio`: a run on the same images with `--data.perturb`.
        false_alarms: The share of normal images that may be flagged.
        false_discoveries: The share of flags that may be wrong, on average; instead of
            `false_alarms`, by the procedure of Benjamini and Hochberg.
        normal_classes: Numbers or names of the classes that are normal among the images to judge,
            where that is known; an empty list where none is.
        particles: K, draws of z for each image.
        data_points: Judge the first so many images only; all unless given.
        calibration_points: Calibrate with the first so many validation images; all unless given.
        shown: How many of the least and of the most normal images the picture shows.
        skip_unreadable: Whether damaged files of an `ImageFolder` are left out.
        seed: The seed of the draws of z.
        engine: As for `evaluate`.
        out: The folder to write to; RUN/detection/ unless given.

    Raises:
        InputError: If something given is wrong; nothing is written then.
        OSError: If a file cannot be written.
    """
    _check(run, scores, background, particles, shown, seed, engine)
    facts, images = _images(run, data, split, skip_unreadable)
    images = _first("data_points", images, data_points)
    calibration = _first("calibration_points", run.data.validation, calibration_points)
    option, rate = ("false_alarms", false_alarms)
    if false_discoveries is not None:
        option, rate = ("false_discoveries", false_discoveries)
    check_calibration(option, rate, len(calibration))
    anomalous = _anomalous(images, facts, normal_classes, data is None)
    # Fresh normal images are among those to judge, or else the test images of the run.
    among = anomalous is not None and not anomalous.all()
    test = None if among else _first("data_points", run.data.test, None)
    folder = writable(out or run.path / DETECTION)
    began = time.monotonic()

    def scored(name: str, part: Split, facts: Facts) -> Arrays:
        return _scored(run, name, part, facts, scores, background, usual, particles, engine)

    with seeded(run.device, seed):
        usual = _usual(run, particles, engine) if "typicality" in scores else None
        known = scored("calibration", calibration, run.data)
        values = scored("scoring", images, facts)
        fresh = scored("fresh normal images", test, run.data) if test else {}
        p_values = {name: conformal_p_values(known[name], values[name]) for name in scores}
        first = scores[0]
        order = np.argsort(-values[first], kind="stable")
        places = np.concatenate([order[:shown], order[::-1][:shown][::-1]])
        maps = _maps(run, calibration, images, places)
    if anomalous is not None and among:
        fresh = {name: each[~anomalous] for name, each in values.items()}
    flagged = (
        p_values[first] <= rate + 1e-12
        if false_discoveries is None
        else discoveries(p_values[first], rate)
    )
