"""Find images of another kind than a run was trained on: `python -m ppl_vae.detect RUN`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from ppl_vae.data import Facts, ImageFolder, Split, class_number
from ppl_vae.errors import InputError, check_within
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.files import check_writable
from ppl_vae.machine.progress import Progress, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.anomaly_scores import Score, check_grey_levels
from ppl_vae.measures.conformal import (
    check_calibration,
    conformal_p_values,
    discoveries,
    exact_false_alarm_rate,
    threshold_at,
)
from ppl_vae.measures.detection import Detection
from ppl_vae.measures.pixel_maps import pixel_maps, usual_map
from ppl_vae.measures.ranking import nan_as_largest
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pairs.pieces import instance
from ppl_vae.pictures.detection import draw_curves, draw_extremes, draw_histograms
from ppl_vae.pictures.plots import to_display
from ppl_vae.runs.chosen import Choice, chosen_images, said_of
from ppl_vae.runs.results import plain, writable, write_numbers, write_scores
from ppl_vae.runs.run import Run, as_run, load
from ppl_vae.runs.scoring import Scoring, best_score

__all__ = ["DETECTION", "Detection", "detect", "main"]

DETECTION = "detection"
NUMBERS = "detection.json"
TABLE = "scores.csv"
IMAGES = "images.png"
HISTOGRAMS = "histograms.png"
CURVES = "curves.png"

_MAP_POINTS = 1000  # calibration images that say what is usual at a pixel
_MAP_PARTICLES = 16


@called_anywhere
def detect(
    run: Run | Path | str,
    data: Any = None,
    split: Choice | None = None,
    scores: Sequence[Score] | None = None,
    background: Run | Path | str | None = None,
    false_alarms: float | None = None,
    false_discoveries: float | None = None,
    normal_classes: Sequence[int | str] | None = None,
    particles: int = 50,
    data_points: int | None = None,
    calibration_points: int | None = None,
    shown: int = 10,
    skip_unreadable: bool = False,
    seed: int = 0,
    engine: Engine = "auto",
    out: Path | str | None = None,
) -> Detection:
    """Scores images for being of another kind than a run's training images, and flags them.

    An image is flagged where its conformal p-value, from the validation images of the run, is at
    most `false_alarms`. A normal image is then flagged with at most that probability, whatever the
    model, see `ppl_vae.measures.conformal`. RUN/detection/ gets scores.csv, detection.json,
    images.png, histograms.png and, where it is known which images are normal, curves.png. Of the
    rows of a table there is no images.png.

    Args:
        run: A trained run, or its directory.
        data: The images to judge, a `DataSet` or whatever `Run.split_of` takes; the test images of
            the run unless given.
        split: Which images of another data set; all unless given.
        scores: The scores to compute, see `ppl_vae.measures.anomaly_scores`; the first one flags.
            Unless given, the first of exemplar_complexity, complexity and log_likelihood that the
            run has.
        background: For `likelihood_ratio`, a run on the same images with `--data.perturb`.
        false_alarms: The share of normal images that may be flagged; 0.05 unless given.
        false_discoveries: The share of flags that may be wrong on average, by the procedure of
            Benjamini and Hochberg; instead of `false_alarms`.
        normal_classes: Numbers or names of the classes that are normal among the images to judge,
            where that is known; an empty list where none is.
        particles: K, draws of z for each image.
        data_points: Judge the first so many images only, and take as many fresh normal ones; all
            unless given.
        calibration_points: Calibrate with the first so many validation images; all unless given.
        shown: How many of the least and of the most normal images the picture shows.
        skip_unreadable: Whether files of an `ImageFolder` that cannot be read are left out.
        seed: The seed of the draws of z.
        engine: As for `evaluate`.
        out: The folder to write to; RUN/detection/ unless given.

    Raises:
        InputError: If something given is wrong; nothing is written then.
        OSError: If a file cannot be written.
    """
    check_within("particles", particles, 1)
    check_within("shown", shown, 1)
    check_seed(seed)
    check_engine(engine)
    run, background = as_run(run), None if background is None else as_run(background)
    data = instance("data", data)
    if data is None and split not in (None, "test"):
        raise InputError(
            f"--split: of the run's own images those of the test are judged; got {split}"
        )
    if skip_unreadable and isinstance(data, ImageFolder):
        data = replace(data, skip_unreadable=True)
    split = split or ("test" if data is None else "all")
    facts, images = chosen_images(run, split, data)
    scores = (best_score(run, facts),) if scores is None else tuple(scores)
    scoring = Scoring(run, scores, particles, background, engine)
    check_grey_levels(scores, facts, run.data)
    option, rate = _wanted(false_alarms, false_discoveries)
    images = _first("data_points", images, data_points)
    calibration = _first("calibration_points", run.data.validation, calibration_points)
    check_calibration(option, rate, len(calibration))
    anomalous = _anomalous(images, facts, normal_classes, data is None)
    folder = Path(out or run.path / DETECTION)
    check_writable(folder, "name another folder with --out")
    began = time.monotonic()
    with seeded(run.device, seed):  # a likelihood without maps is refused before the long work
        pixel_maps(run.model, run.guide, images.first(1), 1)
    with seeded(run.device, seed):
        known = scoring("calibration", calibration)
        values = scoring("scores", images)
        if anomalous is None or anomalous.all():
            test = run.data.test.first(min(len(run.data.test), data_points or len(run.data.test)))
            fresh = scoring("fresh normal images", test)
        else:
            fresh = {name: each[~anomalous] for name, each in values.items()}
        order = np.argsort(-nan_as_largest(values[scores[0]]), kind="stable")
        places = np.concatenate([order[:shown], order[::-1][:shown]])
        maps = _maps(run, calibration, images, places)
    p_values = {name: conformal_p_values(known[name], each) for name, each in values.items()}
    decides = p_values[scores[0]]
    if option == "false_alarms":
        reached = exact_false_alarm_rate(rate, len(calibration))
        flagged = decides <= reached
    else:
        flagged = discoveries(decides, rate)
        reached = float(decides[flagged].max(initial=0.0))
    threshold = threshold_at(known[scores[0]], reached)
    found = Detection(
        values, p_values, flagged, threshold, anomalous, known, fresh, places, maps, summary={}
    )
    found.summary.update(
        {
            **said_of(data, facts),
            "split": split,
            "normal_classes": None if normal_classes is None else list(normal_classes),
            "background": None if background is None else str(background.path),
            "data_points": len(images),
            "score": scores[0],
            option: rate,
            "flagged": int(flagged.sum()),
            "threshold_nats": threshold,
            "calibration_images": len(calibration),
            "false_alarm_rate_expected": reached,
            "fresh_normal_images": len(fresh[scores[0]]),
            **found.rates(),
            "particles": particles,
            "seconds": time.monotonic() - began,
            "seed": seed,
            "device": str(run.device),
        }
    )
    _write(found, writable(folder), run, images, facts)
    return found


def _wanted(false_alarms: float | None, false_discoveries: float | None) -> tuple[str, float]:
    """The option that decides what is flagged, and its rate."""
    if false_discoveries is None:
        return "false_alarms", 0.05 if false_alarms is None else false_alarms
    if false_alarms is None:
        return "false_discoveries", false_discoveries
    raise InputError("expected --false_alarms or --false_discoveries; got both; leave one out")


def _first(option: str, images: Split, count: int | None) -> Split:
    wanted = len(images) if count is None else count
    check_within(option, wanted, 1, len(images))
    return images.first(wanted)


def _anomalous(
    images: Split, facts: Facts, normal_classes: Sequence[int | str] | None, own: bool
) -> NDArray[np.bool_] | None:
    """Which images are anomalous, where that is known. The run's own test images are normal."""
    if normal_classes is None:
        return np.zeros(len(images), bool) if own else None
    if not normal_classes:
        return np.ones(len(images), bool)
    if images.labels is None:
        raise InputError(
            f"--normal_classes: expected images with labels; those of {facts.name} have none; "
            "leave it out, or give '[]' where none of them is normal"
        )
    labels = images.labels.cpu().numpy()
    names = facts.class_names or tuple(map(str, range(labels.max() + 1)))
    normal = [class_number("--normal_classes", each, names) for each in normal_classes]
    anomalous = ~np.isin(labels, normal)
    if anomalous.all():
        raise InputError(
            f"--normal_classes: expected a class that some image has; got {list(normal_classes)}"
        )
    return anomalous


def _maps(
    run: Run, calibration: Split, images: Split, places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The nats of each pixel above what is usual there, (S, C, H, W)."""
    some = calibration.first(min(_MAP_POINTS, len(calibration)))
    with Progress("maps", len(some), "images") as progress:
        usual = usual_map(run.model, run.guide, some, _MAP_PARTICLES, progress.advance)
    chosen = images.select(torch.from_numpy(places))
    return (pixel_maps(run.model, run.guide, chosen, _MAP_PARTICLES) - usual).cpu().numpy()


def _write(found: Detection, folder: Path, run: Run, images: Split, facts: Facts) -> None:
    columns: dict[str, torch.Tensor] = {}
    for name in found.scores:
        columns[f"{name}_nats"] = torch.from_numpy(found.scores[name])
        columns[f"{name}_p_value"] = torch.from_numpy(found.p_values[name])
    columns["flagged"] = torch.from_numpy(found.flagged).long()
    score = found.summary["score"]
    if not run.facts.table:
        like = run.data.test[slice(0, 256)].cpu().numpy()
        shown = images.select(torch.from_numpy(found.shown))[:].cpu().numpy()
        halves = np.split(to_display(shown, run.spec.domain, like), 2), np.split(found.maps, 2)
        pairs = dict(zip(("least normal", "most normal"), zip(*halves, strict=True), strict=True))
        title = f"By {score.replace('_', ' ')}; below, nats above (red) and below (blue) the usual"
        draw_extremes(pairs, folder / IMAGES, title)
    kinds = {"calibration": found.calibration, "images": found.scores}
    ranked = found.ranked()
    if found.anomalous is not None and ranked is not None:
        picked = {name: each[found.anomalous] for name, each in found.scores.items()}
        kinds = {"calibration": found.calibration, "normal": found.fresh, "anomalous": picked}
    histograms = {name: {kind: each[name] for kind, each in kinds.items()} for name in found.scores}
    draw_histograms(histograms, {score: found.threshold}, folder / HISTOGRAMS)
    if ranked is not None:
        draw_curves(*ranked, folder / CURVES)
    else:
        (folder / CURVES).unlink(missing_ok=True)  # those of an earlier call
    write_scores(folder / TABLE, images, facts.class_names, columns)
    write_numbers(folder / NUMBERS, plain(found.summary))


def main(arguments: list[str] | None = None) -> None:
    """The command line of `detect`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("detect", "Find images of another kind than a run was trained on.")
    add_run(parser, other_data=True)
    parser.add_argument("--background", type=Path, help="A run on images with replaced pixels.")
    parser.add_function_arguments(detect, skip={"run", "data", "background"}, as_group=False)
    options = parse_with_run(parser, arguments)
    data = pop_other_data(options)
    background, device, code = (options[name] for name in ("background", "device", "allow_code"))
    run = pop_run(options)
    if background is not None:
        options["background"] = load(background, device, code)
    found = detect(run, data=data, **options)
    print(table(f"{run.path}: {found.summary['data']}", _lines(found, run.facts.noun)))
    folder = options["out"] or run.path / DETECTION
    print(f"  written  {folder}")


def _lines(found: Detection, noun: str) -> dict[str, str]:
    it = found.summary
    count, flagged = it["data_points"], it["flagged"]
    option = "false_alarms" if "false_alarms" in it else "false_discoveries"
    lines = {
        "score": it["score"],
        "flagged": f"{flagged:,} of {count:,} {noun}, --{option} {it[option]:g}",
    }
    for name, title in (
        ("false_alarm_rate", "false alarms"),
        ("found_rate", "anomalies found"),
        ("false_discovery_rate", "flags that are wrong"),
    ):
        if name in it:
            low, high = (100 * it[f"{name}_{end}"] for end in ("low", "high"))
            lines[title] = f"{100 * it[name]:.2f} %, 95 % interval {low:.2f} to {high:.2f} %"
    for name, each in it.get("ranking", {}).items():
        auroc, error = each["auroc"], each["auroc_standard_error"]
        precision, spread = each["average_precision"], each["average_precision_standard_error"]
        lines[f"AUROC, {name}"] = f"{auroc:.4f} +- {error:.1g}"
        lines[f"average precision, {name}"] = f"{precision:.4f} +- {spread:.1g}"
    return lines


if __name__ == "__main__":
    main()
