"""What does the latent space hold?"""

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.scores import active_units
from ppl_vae.objectives import ELBO
from ppl_vae.pictures.figures import BLUE, FAINT, INK, new_figure
from ppl_vae.report.comparison import comparable
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.section import (
    Picture,
    Section,
    Table,
    mean_and_error,
    number,
    panels,
    picture_of,
    plain,
)
from ppl_vae.runs.run import Run

__all__ = ["information_bounds", "latent"]

_PANELS = 12
_PER_IMAGE = 25  # draws of each chain for each image that stand for q(z)
_PARTICLES = 64  # for rate and distortion of further runs
_ENCODED = 5000  # images at most for the scatter
_MOST = 2000  # images at most for the bounds of mutual information


def latent(inspection: Inspection, section: Section) -> None:
    """Active units, q(z) against p(z), rate, distortion, mutual information, a map by label."""
    dimension = inspection.z.shape[-1]
    active = inspection.active()
    rate, distortion = _terms(
        inspection.statistic("log_prior"),
        inspection.statistic("log_guide"),
        inspection.statistic("log_joint"),
    )
    (r, r_error), (d, d_error) = mean_and_error(rate), mean_and_error(distortion)
    low, high, images = information_bounds(inspection)
    high = min(high, r)
    section.numbers = {
        **active_units(inspection.means()),
        "active_latents": active,
        "latents": dimension,
        "rate_nats_per_datum": r,
        "rate_nats_per_datum_standard_error": r_error,
        "distortion_nats_per_datum": d,
        "distortion_nats_per_datum_standard_error": d_error,
        "mutual_information_lower_bound_nats": low,
        "mutual_information_upper_bound_nats": high,
        "mutual_information_images": images,
        "marginal_kl_lower_bound_nats": max(0.0, r - high),
        "marginal_kl_upper_bound_nats": r - low,
    }
    saturated = low > log(images) - 0.1
    section.text = [
        f"{len(active)} of {dimension} latents are active: E[z_d|x] varies over the images with a "
        "variance above 0.01. Encoding an image takes "
        f"{number(r)} nats on average (the rate, KL(q(z|x) || p(z))), and decoding loses "
        f"{number(d)} nats (the distortion, -log p(x|z)); ELBO = -(rate + distortion).",
        f"z tells between {number(low)} and {number(high)} nats about x, the bounds of the mutual "
        "information I(x; z) under the guide. The lower one is that of a classifier that picks z's "
        f"image out of {images:,}"
        + (
            f", and can be no larger than log {images:,} = {number(log(images))}, which it has "
            f"reached"
            if saturated
            else ""
        )
        + "; the upper one the smaller of the rate and the leave-one-out bound (Poole et al., "
        "2019, equations 12 and 13). What remains of the rate is KL(q(z) || p(z)), how far the "
        f"aggregate posterior is from the prior: {number(max(0.0, r - high))} to "
        f"{number(r - low)} nats.",
    ]
    section.pictures = [_against_prior(inspection, active)]
    runs = _runs(inspection, rate, distortion)
    section.numbers["runs"] = runs
    if len(runs) > 1:
        section.tables = [_table(runs)]
        section.pictures.append(_rate_distortion(runs))
    else:
        section.text.append(
            "A curve of rate and distortion needs several runs, such as ones with other weights "
            "beta "
            "of the rate: python -m ppl_vae.posterior RUN RUN2 ..."
        )
    if dimension != 2:
        section.text.append(
            f"There is no scatter: it is drawn for a two-dimensional z, and this run has "
            f"{dimension}."
        )
    else:
        section.pictures.append(_scatter(inspection))
        if inspection.labels is None:
            section.text.append("The data have no labels, so that the scatter has one colour.")


def information_bounds(inspection: Inspection) -> tuple[float, float, int]:
    """Lower and upper bound of I(x; z) under the guide, in nats, and from how many images.

    With z_i ~ q(z|x_i) for M images, E[log q(z_i|x_i) - log 1/M sum_j q(z_i|x_j)] is at most I, and
    leaving j = i out of the average gives at least I (Poole, Ozair, van den Oord, Alemi and Tucker,
    On Variational Bounds of Mutual Information, 2019, equations 12 and 13).
    """
    size = min(_MOST, len(inspection.images))
    joint = inspection.joint(size)
    with seeded(inspection.run.device, inspection.seed), torch.no_grad():
        drawn, _ = joint.draw(1)
        rows = joint.rows(size)
        densities = []
        for start in range(0, size, rows):
            # Row i of the (M, M) matrix is z_i under the guide of every image.
            part = {
                site: z[0, start : start + rows, None].expand(-1, size, *z.shape[2:])
                for site, z in drawn.items()
            }
            densities.append(joint.log_guide(part).double())
    matrix = torch.cat(densities)
    own = matrix.diagonal()
    lower = (own - matrix.logsumexp(1) + log(size)).mean().item()
    if size < 2:
        return max(0.0, lower), float("inf"), size
    others = matrix.masked_fill(torch.eye(size, dtype=torch.bool, device=matrix.device), -torch.inf)
    upper = (own - others.logsumexp(1) + log(size - 1)).mean().item()
    return max(0.0, lower), upper, size


def _terms(log_prior: Tensor, log_guide: Tensor, log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """Rate and distortion of each image, (N,) in nats."""
    return (log_guide - log_prior).mean(0), (log_prior - log_joint).mean(0)


def _runs(inspection: Inspection, rate: Tensor, distortion: Tensor) -> list[dict[str, Any]]:
    """Rate and distortion of this run and of those to compare it with, on the same images."""
    found = [_row(inspection.run, rate, distortion)]
    for other in inspection.others:
        if comparable(inspection, other) is None:
            batch = inspection.split.batch(inspection.images, other.model.labelled)
            joint = Joint.of(other.model, other.guide, batch)
            rates, distortions = [], []
            with seeded(other.device, inspection.seed), torch.no_grad():
                step = max(1, joint.rows() // _PARTICLES)
                for start in range(0, len(joint), step):
                    part = joint[start : start + step]
                    latents, log_guide = part.draw(_PARTICLES)
                    log_prior, log_likelihood = part.log_terms(latents)
                    rates.append((log_guide - log_prior).double().mean(0))
                    distortions.append(-log_likelihood.double().mean(0))
            found.append(_row(other, torch.cat(rates), torch.cat(distortions)))
    return found


def _row(run: Run, rate: Tensor, distortion: Tensor) -> dict[str, Any]:
    objective = run.pieces["objective"]
    beta = 1.0 if isinstance(objective, ELBO) else getattr(objective, "beta", None)
    row: dict[str, Any] = {"run": str(run.path), "beta": None if beta is None else float(beta)}
    for name, values in (("rate", rate), ("distortion", distortion)):
        mean, error = mean_and_error(values)
        row[f"{name}_nats_per_datum"], row[f"{name}_nats_per_datum_standard_error"] = mean, error
    return row


def _label(row: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """A run by its beta, and by its name where it has none or others have the same."""
    if row["beta"] is None:
        return Path(row["run"]).name
    shared = sum(other["beta"] == row["beta"] for other in runs) > 1
    return (f"{Path(row['run']).name}, " if shared else "") + f"β = {row['beta']:g}"


def _table(runs: list[dict[str, Any]]) -> Table:
    names = ("rate_nats_per_datum", "distortion_nats_per_datum")
    return Table(
        "Rate and distortion on the same images, nats per datum, with standard errors",
        ["run", "β", "rate", "±", "distortion", "±", "ELBO"],
        [
            [
                row["run"],
                "–" if row["beta"] is None else f"{row['beta']:g}",
                *(number(row[f"{n}{e}"]) for n in names for e in ("", "_standard_error")),
                number(-sum(row[name] for name in names)),
            ]
            for row in runs
        ],
    )


def _rate_distortion(runs: list[dict[str, Any]]) -> Picture:
    runs = sorted(runs, key=lambda row: row["rate_nats_per_datum"])
    rates = np.array([row["rate_nats_per_datum"] for row in runs])
    distortions = np.array([row["distortion_nats_per_datum"] for row in runs])
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    axes.plot(rates, distortions, color=BLUE, marker="o", linewidth=1.2)
    axes.margins(0.18, 0.12)
    low, high = axes.get_xlim()
    low = max(low, -0.04 * high)  # a rate below zero is noise
    limits = axes.get_ylim()
    for total in np.unique((rates + distortions).round(6)):
        axes.plot([low, high], [total - low, total - high], color=FAINT, linewidth=0.5, zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(limits)
    for row, rate, distortion in zip(runs, rates, distortions, strict=True):
        axes.annotate(
            _label(row, runs),
            (rate, distortion),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )
    axes.set_xlabel("rate, nats per datum")
    axes.set_ylabel("distortion, nats per datum")
    plain(axes)
    return picture_of(
        figure,
        "Rate against distortion of the runs, on the same images; on each grey line the ELBO is "
        "the "
        "same.",
    )


def _against_prior(inspection: Inspection, active: list[int]) -> Picture:
    """ArviZ's picture of p(z_d) and of the aggregate posterior q(z_d) = 1/N sum_n q(z_d|x_n)."""
    from arviz_base import dict_to_dataset
    from arviz_plots import plot_prior_posterior
    from xarray import DataTree

    chosen = sorted((active or list(range(inspection.z.shape[-1])))[:_PANELS])
    groups = {}
    for group in ("prior", "posterior"):
        z = inspection.variable(group, inspection.latent).values[:, :_PER_IMAGE, :, chosen]
        groups[group] = dict_to_dataset(
            {"z": z.reshape(1, -1, len(chosen))},
            coords={"latent": [f"$z_{{{place}}}$" for place in chosen]},
            dims={"z": ["latent"]},
            sample_dims=["chain", "draw"],
        )
    plot = plot_prior_posterior(
        DataTree.from_dict(groups),
        kind="kde",
        visuals={"title": {"size": 9}},
        **panels(len(chosen), 4, 2.3, 1.7),
    )
    return picture_of(
        plot.viz["figure"].item(),
        "The prior and the aggregate posterior, the average of q(z|x) over the images, of "
        + ("the active latents" if active else "the latents")
        + (
            f" ({len(chosen)} of {len(active)}: those whose mean varies most)."
            if len(active) > len(chosen)
            else "."
        ),
    )


def _scatter(inspection: Inspection) -> Picture:
    from matplotlib import colormaps

    means: NDArray[np.float32] = inspection.means()[:_ENCODED].numpy()
    figure = new_figure(6.4, 5.4)
    axes = figure.subplots()
    labels = inspection.labels
    if labels is None:
        axes.scatter(means[:, 0], means[:, 1], s=8, color=BLUE, alpha=0.6, linewidths=0)
    else:
        labels = labels[:_ENCODED]
        there = np.unique(labels)
        colours = colormaps["tab10" if len(there) <= 10 else "turbo"]
        for place, label in enumerate(there):
            colour = colours(place if len(there) <= 10 else place / (len(there) - 1))
            names = inspection.run.data.class_names
            name = names[label] if names and 0 <= label < len(names) else str(label)
            axes.scatter(
                means[labels == label, 0],
                means[labels == label, 1],
                s=10,
                color=colour,
                alpha=0.75,
                linewidths=0,
                label=name,
            )
        if len(there) <= 30:
            axes.legend(
                frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5),
                markerscale=2, title="label",
            )  # fmt: skip
    axes.set_xlabel("$z_0$")
    axes.set_ylabel("$z_1$")
    axes.set_aspect("equal")
    plain(axes)
    return picture_of(figure, f"E[z|x] of {len(means):,} images.")
