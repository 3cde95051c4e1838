"""Measure a run: `python -m ppl_vae.evaluate RUN`."""

import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import (
    add_run,
    parse_with_run,
    pop_other_data,
    pop_run,
    run_verb,
)
from ppl_vae.compiler.compiling import Engine, check_engine
from ppl_vae.data import Split
from ppl_vae.errors import check_within
from ppl_vae.machine.devices import check_seed
from ppl_vae.machine.progress import Progress, announced, table
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.classes import class_scores
from ppl_vae.measures.effort import MOST_PARTICLES, affordable_effort
from ppl_vae.measures.encoding import decoded_mean, split_means
from ppl_vae.measures.estimates import estimate
from ppl_vae.measures.scores import (
    active_units,
    bits_per_dim,
    collapse,
    has_collapsed,
    quantity,
    scored,
)
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pairs.pieces import instance
from ppl_vae.runs.chosen import Choice, chosen_images, said_of
from ppl_vae.runs.results import ending_of, plain, writable, write_numbers, write_scores
from ppl_vae.runs.run import Run, as_run

__all__ = [
    "EVALUATION",
    "active_units",
    "bits_per_dim",
    "evaluate",
    "main",
]

EVALUATION = "evaluation.json"

_BATCH = 1000


@called_anywhere
def evaluate(
    run: Run | Path | str,
    split: Choice | None = None,
    particles: int | None = None,
    data_points: int | Literal["all"] | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    out: Path | str | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """Measures a trained pair and writes evaluation.json and, one line an image, scores.csv.

    Those are of the test images of the run's own data. Other splits and other data have files of
    their own: evaluation-SPLIT.json and scores-SPLIT.csv, evaluation-DATA.json and
    scores-DATA.csv.

    For each image x, with z_1, ..., z_K drawn from q(z|x) and w_k = p(x, z_k) / q(z_k|x):

    - elbo: mean_k log w_k, the bound itself;
    - rate: mean_k log q(z_k|x) / p(z_k), an estimate of KL(q(z|x) || p(z));
    - distortion: -mean_k log p(x|z_k), so that elbo = -(rate + distortion);
    - log_likelihood: log mean_k w_k, which is below log p(x) on average and tends to it with K
      (Burda, Grosse and Salakhutdinov, 2016, theorem 1).

    A model that sums its classes out is measured without the labels. One that takes the class y as
    given is measured with them: all of this is given y then, and the log-likelihood log p(x|y).
    Where q(z|x) is a point it has no density: then the distortion is reported, beside the squared
    error of the reconstruction, and null for the rest with the reason. A number that is not finite
    is null too, with the reason under `not_finite`.

    Where pixels are missing (NaN), x is the observed pixels of an image: `quantity` says
    log p(x_observed) then, bits_per_dim are per observed pixel and channel, and
    `observed_pixels_percent` is there too.

    Each is averaged over the images, in nats per datum, and has the standard error of that
    average, which covers the choice of the images and the draws of z.

    Args:
        run: A trained run, or its path.
        split: The images to measure on; those of the test unless given, and all of other data.
        particles: K, draws of z for each image. Without a number it is 100 to 5,000, so that all
            takes about a minute on this machine; most papers have 5,000.
        data_points: Measure on the first so many images only, or on `all`. Left out, it is all;
            fewer only where `particles` is left out too and 100 for each take over a minute.
        seed: The seed of the draws of z.
        engine: `eager` runs the Pyro programs; `compiled` a graph of tensor operations that is
            compared with them, up to rounding; `auto` compiles where it pays: of MNIST about
            3,000,000 draws of an MLP or 100,000 of a deep hierarchy, and the encoder for 1,000,000
            images or more.
        out: The folder to write to; the run directory unless given.
        data: Other images than the run's own, as `Run.split_of` takes them.

    Returns:
        The content of the file: the above with `..._nats_per_datum` and `..._standard_error`,
        `quantity` (log p(x) or log p(x|y)), `bits_per_dim` with its reference measure,
        `active_units`, whether the posterior has collapsed (see
        `ppl_vae.measures.scores.has_collapsed`), the scores of
        `ppl_vae.measures.classes.class_scores` for a model with classes, and the circumstances.

    Raises:
        InputError: If a number is below 1, the split has fewer images, other data do not fit the
            run, or the folder cannot be written to; this is found out before anything is measured.
        OSError: If the file cannot be written at the end; the numbers are printed then.
    """
    if particles is not None:
        check_within("particles", particles, 1)
    check_seed(seed)
    check_engine(engine)
    run, data = as_run(run), instance("data", data)
    split = split or ("test" if data is None else "all")
    facts, images = chosen_images(run, split, data)
    wanted = len(images) if data_points is None or data_points == "all" else data_points
    of = f"the {split} split" if data is None or split != "all" else facts.name
    check_within("data_points", wanted, 1, len(images), f"the images of {of}")
    end = ending_of(split, data)
    folder = writable(out or run.path)
    images = images.first(wanted)
    if not run.guide.has_density:
        particles = 1  # every draw from a point is the same
    elif particles is None:
        particles, wanted = _affordable(run, images, data_points is not None, facts.noun)
        images = images.first(wanted)
    observed = images.observed().to(run.device)
    share = observed.double() / run.spec.pixels
    holes = bool((share < 1).any())
    began = time.monotonic()
    progress = Progress(f"evaluating {run.path}", wanted, facts.noun)
    with seeded(run.device, seed), torch.no_grad():
        with progress:
            estimates = estimate(
                run.model, run.guide, images, particles, advance=progress.advance, engine=engine
            )
        with announced(f"encoding the {facts.noun}"):
            means = split_means(run.model, run.guide, images, engine, independent=True)
            scores = class_scores(run.model, run.guide, images)
    measured = {
        "elbo_nats_per_datum": estimates.elbo,
        "rate_nats_per_datum": estimates.rate,
        "distortion_nats_per_datum": estimates.distortion,
        "log_likelihood_nats_per_datum": estimates.log_likelihood,
        "bits_per_dim": bits_per_dim(estimates.log_likelihood, facts, observed),
    }
    if not run.guide.has_density:
        measured = {"distortion_nats_per_datum": estimates.distortion} | {
            "squared_error_per_pixel": _squared_errors(run, images, means.mean(1))
        }
    result: dict[str, Any] = {
        **said_of(data, facts),
        "split": split,
        "reference_measure": facts.reference_measure,
        "quantity": quantity(run.model, holes),
        **(scored("observed_pixels_percent", 100 * share) if holes else {}),
    }
    for name, values in measured.items():
        result |= scored(name, values)
    units = active_units(means)
    rate, active = result.get("rate_nats_per_datum"), units["active_units"]
    result |= {
        **units,
        "posterior_collapse": None if rate is None else has_collapsed(rate, active),
        **scores,
        "particles": particles,
        "data_points": wanted,
        "seconds": time.monotonic() - began,
        "seed": seed,
        "device": str(run.device),
    }
    if not run.guide.has_density:
        undefined = [f"{name}_nats_per_datum" for name in ("elbo", "rate", "log_likelihood")]
        for name in (*undefined, "bits_per_dim"):
            result |= {name: None, f"{name}_standard_error": None}
        result["undefined"] = f"q(z|x) of {type(run.guide).__name__} is a point, without a density"
    infinite = {name: int((~values.isfinite()).sum()) for name, values in measured.items()}
    if any(infinite.values()):
        result["not_finite"] = {
            name: f"{result[name]}: {count:,} of {wanted:,} images have no finite value"
            for name, count in infinite.items()
            if count
        }
    result = plain(result)
    write_numbers(folder / f"evaluation{end}.json", result)
    columns = {name: values for name, values in measured.items() if name != "bits_per_dim"}
    write_scores(folder / f"scores{end}.csv", images, facts.class_names, columns)
    return result


def _affordable(run: Run, images: Split, all_of_them: bool, noun: str) -> tuple[int, int]:
    """The particles and images of about a minute, said on standard error."""
    effort = affordable_effort(run.model, run.guide, images, all_of_them)
    of = "all" if effort.data_points == len(images) else "the first"
    more = ""
    if effort.particles < MOST_PARTICLES or effort.data_points < len(images):
        more = f"; for a paper add --particles {MOST_PARTICLES} --data_points all"
    print(
        f"measuring {of} {effort.data_points:,} {noun} with {effort.particles:,} particles each, "
        f"about {effort.seconds:,.0f} s here{more}",
        file=sys.stderr,
    )
    return effort.particles, effort.data_points


def _squared_errors(run: Run, images: Split, means: Tensor) -> Tensor:
    """Of the reconstruction of each image, per pixel that is observed, (N,)."""
    with torch.no_grad():
        errors = [
            _observed_mean((x - decoded_mean(run.model, z)).square().flatten(1))
            for (x,), z in zip(
                images.in_turn(_BATCH, labelled=False), means.split(_BATCH), strict=True
            )
        ]
    return torch.cat(errors)


def _observed_mean(values: Tensor) -> Tensor:
    return values.nanmean(1) if values.isnan().any() else values.mean(1)


def main(arguments: list[str] | None = None) -> None:
    """The command line of `evaluate`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("evaluate", "Measure a run: the ELBO, its terms and log p(x).")
    add_run(parser, other_data=True)
    parser.add_function_arguments(evaluate, skip={"run", "data"}, as_group=False)
    options = parse_with_run(parser, arguments)
    data = pop_other_data(options)
    run = pop_run(options)
    result = evaluate(run, data=data, **options)
    place = result.get("data_options", {}).get("path")
    name = f"{result['data']} {place}" if place else result["data"]
    of = "" if result["split"] == "all" else f" of the {result['split']} split"
    title = (
        f"{run.path}: {name}, {result['data_points']:,} {run.facts.noun}{of}, "
        f"in {result['seconds']:.1f} seconds"
    )
    folder, end = Path(options["out"] or run.path), ending_of(result["split"], data)
    written = {"written": f"{folder / f'evaluation{end}.json'}, scores{end}.csv"}
    print(table(title, _rows(result) | written))


def _rows(result: dict[str, Any]) -> dict[str, str]:
    log_p, holes = result["quantity"], "observed_pixels_percent" in result
    labels = {
        "observed pixels": "observed_pixels_percent",
        "ELBO" if log_p == "log p(x)" else f"ELBO of {log_p}": "elbo_nats_per_datum",
        "rate": "rate_nats_per_datum",
        "distortion": "distortion_nats_per_datum",
        f"{log_p}, {result['particles']:,} particles": "log_likelihood_nats_per_datum",
        "bits per observed dim" if holes else "bits per dim": "bits_per_dim",
        "active units": "active_units",
        "classification error": "classification_error_percent",
        "clustering accuracy": "clustering_accuracy_percent",
        "normalized mutual information": "normalized_mutual_information",
        "adjusted Rand index": "adjusted_rand_index",
    }
    if "undefined" in result:
        labels = {
            "observed pixels": "observed_pixels_percent",
            "distortion": "distortion_nats_per_datum",
            "squared error": "squared_error_per_pixel",
            "active units": "active_units",
        }
    rows = {}
    for label, name in labels.items():
        if name not in result:
            continue
        value, error = result[name], result[f"{name}_standard_error"]
        units = (unit for unit in ("nats_per_datum", "per_pixel", "percent") if name.endswith(unit))
        unit = f" {next(units, '')}".replace("_", " ").rstrip()
        fine = {"bits_per_dim": 4, "squared_error_per_pixel": 4, "active_units": 0}
        digits = fine.get(name, 2)
        spread = "" if error is None else f" +- {error:.2g}"
        missing = result.get("not_finite", {}).get(name, "not defined for one image")
        rows[label] = missing if value is None else f"{value:.{digits}f}{spread}{unit}"
    if "undefined" in result:
        rows[f"ELBO, {log_p}"] = f"none: {result['undefined']}"
    bounds = [result[f"{name}_nats_per_datum"] for name in ("log_likelihood", "elbo")]
    gain = None if None in bounds else bounds[0] - bounds[1]
    advice = collapse(result["rate_nats_per_datum"], result["active_units"], gain=gain)
    return rows if advice is None else rows | {"note": advice}


if __name__ == "__main__":
    main()
