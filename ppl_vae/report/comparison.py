"""Which model is better?"""

from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ppl_vae.densities.joint import Joint
from ppl_vae.machine.randomness import seeded
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.section import Picture, Section, Table, Unanswered, number, picture_of, plain
from ppl_vae.runs.run import Run

__all__ = ["comparable", "comparison"]


def comparison(inspection: Inspection, section: Section) -> None:
    """Paired differences of log p(x) on the same images, and ArviZ's comparison over them.

    Raises:
        Unanswered: If there is one run only, or none that can be compared with it.
    """
    if not inspection.others:
        raise Unanswered(
            "one run was given; python -m ppl_vae.posterior RUN RUN2 compares two and more"
        )
    draws = inspection.statistic("log_weight")
    particles = len(draws)
    log_p = {str(inspection.run.path): _log_mean(draws.cpu().numpy())}
    refused = {}
    for other in inspection.others:
        reason = comparable(inspection, other)
        if reason is not None:
            refused[str(other.path)] = reason
            continue
        batch = inspection.split.batch(inspection.images, other.model.labelled)
        with seeded(other.device, inspection.seed):
            weights = Joint.of(other.model, other.guide, batch).log_weights(particles)
        log_p[str(other.path)] = _log_mean(weights.cpu().numpy())
    if len(log_p) < 2:
        raise Unanswered("; ".join(f"{name} {reason}" for name, reason in refused.items()))
    size = len(inspection.images)
    names = list(log_p)
    pairs = [_pair(log_p, first, second) for first, second in combinations(names, 2)]
    table, elpds = _arviz(log_p, particles)
    section.numbers = {
        "images": size,
        "particles": particles,
        "log_likelihood_nats_per_datum": {name: float(log_p[name].mean()) for name in names},
        "differences": pairs,
        "arviz": table,
        "refused": refused,
    }
    best = max(names, key=lambda name: log_p[name].mean())
    decided = [
        pair
        for pair in pairs
        if best in (pair["first"], pair["second"])
        and abs(pair["nats_per_datum"]) < 2 * pair["nats_per_datum_standard_error"]
    ]
    section.text = [
        f"{best} has the highest log p(x), {number(log_p[best].mean())} nats per datum on the same "
        f"{size:,} images"
        + (
            "; its lead over "
            + " and ".join(p["second"] if p["first"] == best else p["first"] for p in decided)
            + " is within two standard errors."
            if decided
            else ", and its lead over every other is more than two standard errors."
        ),
        f"log p(x) is importance-sampled with {particles:,} draws for each image. It is too low "
        f"where "
        "k-hat is large, and by different amounts for different guides: a difference smaller than "
        "the "
        "gaps of the sections above may be one of guides, not of models. Differences are paired: "
        "the "
        "standard error is that of the mean of the differences, image by image, which leaves out "
        "how "
        "much images differ among themselves.",
        "ArviZ's comparison takes log p(x) of each image as its pointwise log predictive density; "
        f"elpd is the sum over the images. {_held_out(inspection.split_name)} Leave-one-out by "
        "Pareto smoothing would leave out an image of which z is drawn, a latent of that image "
        "alone, and is no measure of a model with local latents. The weights are those of "
        "stacking: the mixture of the models with the highest log density.",
        *(f"{name} is not compared: it {reason}." for name, reason in refused.items()),
    ]
    section.tables = [
        Table(
            f"Paired differences of log p(x), {size:,} images, nats per datum",
            ["first − second", "difference", "standard error"],
            [
                [
                    f"{pair['first']} − {pair['second']}",
                    number(pair["nats_per_datum"]),
                    number(pair["nats_per_datum_standard_error"]),
                ]
                for pair in pairs
            ],
        ),
        Table(
            f"ArviZ's compare, nats over all {size:,} images",
            ["run", "elpd", "standard error", "difference", "its standard error", "weight"],
            [
                [
                    row["run"],
                    *(number(row[k], 1) for k in ("elpd", "se", "elpd_diff", "dse")),
                    number(row["weight"]),
                ]
                for row in table
            ],
        ),
    ]
    section.pictures = [_picture(elpds)]


def _held_out(split: str) -> str:
    """Whether log p(x) of these images says how well a model predicts."""
    if split == "train":
        return (
            "The images are those that the models were trained on: this is how well they fit, "
            "and not how well they predict."
        )
    return (
        "The images were not trained on and the parameters are point estimates, so that nothing "
        "has to be left out."
    )


def comparable(inspection: Inspection, other: Run) -> str | None:
    """Why a run cannot be compared on the same images, or None."""
    run = inspection.run
    if other.spec.image_shape != run.spec.image_shape:
        shapes = [" x ".join(map(str, r.spec.image_shape)) for r in (other, run)]
        return f"has images of {shapes[0]}, not {shapes[1]}"
    if other.data.reference_measure != run.data.reference_measure:
        return f"has densities with respect to the {other.data.reference_measure}"
    theirs = getattr(other.data, inspection.split_name)
    if len(theirs) != len(inspection.split) or not torch.equal(
        theirs[inspection.images.to(other.device)].cpu(), inspection.batch()[0].cpu()
    ):
        return "was trained on other data: its images are not the same"
    return None


def _log_mean(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p(x) of each image, (N,), from log w (K, N)."""
    return np.logaddexp.reduce(log_weights, axis=0) - np.log(len(log_weights))


def _pair(log_p: dict[str, NDArray[np.float64]], first: str, second: str) -> dict[str, Any]:
    difference = log_p[first] - log_p[second]
    error = difference.std(ddof=1) / sqrt(len(difference)) if len(difference) > 1 else float("nan")
    return {
        "first": first,
        "second": second,
        "nats_per_datum": float(difference.mean()),
        "nats_per_datum_standard_error": float(error),
    }


def _arviz(
    log_p: dict[str, NDArray[np.float64]], particles: int
) -> tuple[list[dict[str, Any]], Any]:
    """ArviZ's comparison as rows, and as the table that it draws."""
    from arviz_stats import ELPDData, compare
    from xarray import DataArray

    elpds = {
        name: ELPDData(
            kind="loo",
            elpd=float(values.sum()),
            se=float(np.sqrt(len(values) * values.var())),
            p=0.0,
            n_samples=particles,
            n_data_points=len(values),
            scale="log",
            warning=False,
            good_k=0.7,
            elpd_i=DataArray(values, dims=["image"]),
        )
        for name, values in log_p.items()
    }
    frame = compare(elpds)
    columns = ("rank", "elpd", "se", "elpd_diff", "dse", "weight")
    rows = [
        {"run": str(name)} | {column: float(row[column]) for column in columns}
        for name, row in frame.iterrows()
    ]
    return rows, frame


def _picture(frame: Any) -> Picture:
    from arviz_plots import plot_compare

    plot = plot_compare(frame, backend="matplotlib")
    figure = plot.viz["figure"].item()
    (axes,) = figure.axes
    axes.set_title("")
    axes.set_xlabel("elpd, nats over all images (higher is better)")
    plain(axes)
    return picture_of(
        figure, "ArviZ's comparison: elpd, the sum of log p(x) over the images, nats."
    )
