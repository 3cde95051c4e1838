"""Which model is better?"""

from itertools import combinations
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.inference.pareto import log_mean
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.scores import quantity, scored
from ppl_vae.pictures.figures import literal
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, Unanswered, picture_of, plain
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
    log_p = {str(inspection.run.path): log_mean(draws)[0].cpu().numpy()}
    refused = {}
    for other in inspection.others:
        reason = comparable(inspection, other)
        if reason is not None:
            refused[str(other.path)] = reason
            continue
        with seeded(other.device, inspection.seed):
            weights = inspection.joint_of(other).log_weights(particles)
        log_p[str(other.path)] = log_mean(weights)[0].cpu().numpy()
    if len(log_p) < 2:
        raise Unanswered("; ".join(f"{name} {reason}" for name, reason in refused.items()))
    size = len(inspection.images)
    names = list(log_p)
    pairs: list[dict[str, Any]] = [
        {"first": a, "second": b, **scored("nats_per_datum", log_p[a] - log_p[b])}
        for a, b in combinations(names, 2)
    ]
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
    section.facts = {
        "best": best,
        "undecided": [
            pair["second"] if pair["first"] == best else pair["first"]
            for pair in pairs
            if best in (pair["first"], pair["second"])
            and not abs(pair["nats_per_datum"])
            >= 2 * (pair["nats_per_datum_standard_error"] or inf)
        ],
        "pairs": [
            [
                f"{pair['first']} − {pair['second']}",
                *(number(pair[f"nats_per_datum{end}"]) for end in ("", "_standard_error")),
            ]
            for pair in pairs
        ],
        "rows": [
            [
                row["run"],
                *(number(row[k], 1) for k in ("elpd", "se", "elpd_diff", "dse")),
                number(row["weight"]),
            ]
            for row in table
        ],
    }
    section.pictures = {"elpd": _picture(elpds)}


def comparable(inspection: Inspection, other: Run) -> str | None:
    """Why a run cannot be compared on the same images, or None."""
    run = inspection.run
    theirs, ours = quantity(other.model), quantity(run.model)
    if theirs != ours:
        return f"estimates {theirs}, which is another quantity than {ours}"
    if inspection.holes and not other.spec.holes:
        return "was trained on images without missing pixels, and these have some"
    if other.spec.image_shape != run.spec.image_shape:
        shapes = [" x ".join(map(str, r.spec.image_shape)) for r in (other, run)]
        return f"has images of {shapes[0]}, not {shapes[1]}"
    if other.data.reference_measure != run.data.reference_measure:
        return f"has densities with respect to the {other.data.reference_measure}"
    images = getattr(other.data, inspection.split_name)
    if len(images) != len(inspection.split) or not _same_images(inspection, other, images):
        return "was trained on other data: its images are not the same"
    return None


def _same_images(inspection: Inspection, other: Run, theirs: Split) -> bool:
    """In the training split the stored images and their conversion: its noise is always fresh."""
    index = inspection.images
    if inspection.split_name != "train":
        return _equal(theirs[index.to(other.device)], inspection.batch()[0])
    conversions = [(data.binarize, data.dequantize) for data in (other.data, inspection.run.data)]
    return conversions[0] == conversions[1] and _equal(
        theirs.raw[index.to(other.device)], inspection.split.raw[index]
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether images are the same, pixels that are missing too."""
    return one.dtype == other.dtype and torch.allclose(
        one.cpu(), other.cpu(), rtol=0, atol=0, equal_nan=True
    )


def _arviz(
    log_p: dict[str, NDArray[np.float64]], particles: int
) -> tuple[list[dict[str, Any]], Any]:
    """ArviZ's comparison as rows, and as the table that it draws."""
    from arviz_stats import ELPDData, compare
    from xarray import DataArray

    # Stacking takes exponentials; a constant for each image keeps them in range.
    size, common = len(next(iter(log_p.values()))), np.max(list(log_p.values()), axis=0)
    unbiased = sqrt(size / max(1, size - 1))  # ArviZ divides a variance by N
    elpds = {
        literal(name): ELPDData(
            kind="loo",
            elpd=float(values.sum()),
            se=unbiased * float(np.sqrt(size * values.var())),
            p=0.0,
            n_samples=particles,
            n_data_points=size,
            scale="log",
            warning=False,
            good_k=0.7,
            elpd_i=DataArray(values - common, dims=["image"]),
        )
        for name, values in log_p.items()
    }
    frame = compare(elpds)
    frame["dse"] *= unbiased
    columns = ("rank", "elpd", "se", "elpd_diff", "dse", "weight")
    names = {literal(name): name for name in log_p}
    rows = [
        {"run": names[name]} | {column: float(row[column]) for column in columns}
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
    return picture_of(figure)
