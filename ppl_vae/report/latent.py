"""What does the latent space hold?"""

from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.machine.randomness import seeded
from ppl_vae.measures.scores import active_units, collapse, mean_and_error, scored
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.estimators import distortion_and_rates
from ppl_vae.pictures.figures import BLUE, FAINT, INK, literal, new_figure
from ppl_vae.report.comparison import comparable
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, panels, picture_of, plain
from ppl_vae.runs.run import Run

__all__ = ["InformationBounds", "information_bounds", "latent", "rate_by_site"]

_PANELS = 12
_PER_IMAGE = 25  # draws of each chain for each image that stand for q(z)
_PARTICLES = 64  # for rate and distortion of further runs
_ENCODED = 5000  # images at most for the scatter
_MOST = 2000  # images at most for the bounds of mutual information
_DRAWS = 10  # of z for each of them, at most
_BY_SITE = 100  # images at most whose rate is taken apart
_DENSITIES = 1_000_000  # q(z_i|x_j), at most, unless there are many images


def latent(inspection: Inspection, section: Section) -> None:
    """Active units, q(z) against p(z), rate, distortion, mutual information, a map by label."""
    dimension = inspection.z.shape[-1]
    active = inspection.active()
    log_prior = inspection.statistic("log_prior")
    rate = (inspection.statistic("log_guide") - log_prior).mean(0)
    distortion = (log_prior - inspection.statistic("log_joint")).mean(0)
    r, r_error = mean_and_error(rate)
    bounds = information_bounds(inspection)
    (low, low_error), (high, high_error) = bounds.lower, bounds.upper
    if not high < r:
        high, high_error = r, r_error
    runs = _runs(inspection, rate, distortion)
    section.numbers = {
        "collapse": collapse(r, len(active), len(inspection.images), _gain(inspection)),
        **active_units(inspection.means()),
        "active_latents": active,
        "latents": dimension,
        **scored("rate_nats_per_datum", rate),
        **scored("distortion_nats_per_datum", distortion),
        "mutual_information_lower_bound_nats": low,
        "mutual_information_lower_bound_nats_standard_error": low_error,
        "mutual_information_upper_bound_nats": high,
        "mutual_information_upper_bound_nats_standard_error": high_error,
        "mutual_information_images": bounds.images,
        "mutual_information_draws": bounds.draws,
        "marginal_kl_lower_bound_nats": max(0.0, r - high),
        "marginal_kl_upper_bound_nats": r - low,
        "rate_by_site_nats_per_datum": rate_by_site(inspection),
        "runs": runs,
    }
    section.facts = {
        "saturated": low > log(bounds.images) - 0.1,
        "largest": log(bounds.images),
        "labelled": inspection.labels is not None,
        "shown": min(_PANELS, len(active)),
        "scattered": min(_ENCODED, len(inspection.images)),
        "rows": [_cells(row) for row in runs],
    }
    section.pictures = {"prior": _against_prior(inspection, active)}
    if len(runs) > 1:
        section.pictures["rate_distortion"] = _rate_distortion(runs)
    if dimension == 2:
        section.pictures["scatter"] = _scatter(inspection)


def _gain(inspection: Inspection) -> float:
    """How far the bound of all draws is above the ELBO, in nats on average."""
    weights = inspection.statistic("log_weight")
    bound = weights.logsumexp(0) - log(len(weights))
    return (bound - weights.mean(0)).mean().item()


def rate_by_site(inspection: Inspection) -> dict[str, float]:
    """The terms of the rate, E_q[log q(z_l|...) - log p(z_l|...)] for each site of several."""
    model, guide = inspection.run.model, inspection.run.guide
    if len(model.latents) == 1 or model.enumerated:
        return {}
    batch = inspection.batch(_BY_SITE)
    with seeded(inspection.run.device, inspection.seed), torch.no_grad():
        _, rates = distortion_and_rates(model, guide, batch, _DRAWS, analytic_kl=False)
    return {site: rates[site].sum().item() for site in model.latents}


@dataclass(frozen=True)
class InformationBounds:
    """Bounds of I(x; z) under the guide, in nats, each with its standard error where there is one.

    `images` is how many images they are from, `draws` how many draws of z for each.
    """

    lower: tuple[float, float | None]
    upper: tuple[float, float | None]
    images: int
    draws: int


def information_bounds(inspection: Inspection) -> InformationBounds:
    """A lower and an upper bound of the mutual information.

    With z_i ~ q(z|x_i) for M images, E[log q(z_i|x_i) - log 1/M sum_j q(z_i|x_j)] is at most I, and
    leaving j = i out of the average gives at least I (Poole, Ozair, van den Oord, Alemi and Tucker,
    On Variational Bounds of Mutual Information, 2019, equations 12 and 13).

    The standard errors are those of the jackknife over images, each with its draws: an image
    enters by its own z and in the average of every other.
    """
    size = min(_MOST, len(inspection.images))
    draws = max(1, min(_DRAWS, _DENSITIES // size**2))
    joint = inspection.joint(size)
    with seeded(inspection.run.device, inspection.seed), torch.no_grad():
        drawn, _ = joint.draw(draws)
        flat = {site: z.transpose(0, 1).flatten(0, 1) for site, z in drawn.items()}
        rows = joint.rows(size)
        densities = []
        for start in range(0, size * draws, rows):
            # Row i of the (M R, M) matrix is a draw for one image under the guide of every image.
            part = {
                site: z[start : start + rows, None].expand(-1, size, *z.shape[1:])
                for site, z in flat.items()
            }
            densities.append(joint.log_guide(part).double())
    matrix = torch.cat(densities).cpu()
    image = torch.arange(size).repeat_interleave(draws)
    own = matrix[torch.arange(len(matrix)), image]
    lower = _jackknife(own - matrix.logsumexp(1) + log(size), matrix, image)
    if size < 2:
        return InformationBounds((0.0, None), (inf, None), size, draws)
    matrix[torch.arange(len(matrix)), image] = -inf
    upper = _jackknife(own - matrix.logsumexp(1) + log(size - 1), matrix, image)
    return InformationBounds((max(0.0, lower[0]), lower[1]), upper, size, draws)


def _jackknife(terms: Tensor, matrix: Tensor, image: Tensor) -> tuple[float, float | None]:
    """The mean of the terms, and its standard error by leaving out one image at a time.

    A term has -log 1/m sum_j exp(matrix[., j]) in it. Without column k that sum is smaller, and
    the draws of image k are left out of the mean.
    """
    size = matrix.shape[1]
    counted = (matrix > -inf).sum(1, keepdim=True)  # m of each row
    if size < 3:
        return terms.mean().item(), None
    share = (matrix - matrix.logsumexp(1, keepdim=True)).exp().clamp(max=1 - 1e-12)
    left = counted - (matrix > -inf).double()
    without = terms[:, None] - torch.log1p(-share) + (left / counted).log()
    others = torch.arange(size) != image[:, None]
    means = (without * others).sum(0) / others.sum(0)
    spread = (means - means.mean()).square().sum() * (size - 1) / size
    return terms.mean().item(), spread.sqrt().item()


def _runs(inspection: Inspection, rate: Tensor, distortion: Tensor) -> list[dict[str, Any]]:
    """Rate and distortion of this run and of those to compare it with, on the same images."""
    found = [_row(inspection.run, rate, distortion)]
    for other in inspection.others:
        if comparable(inspection, other) is None:
            joint = inspection.joint_of(other)
            rates, distortions = [], []
            with seeded(other.device, inspection.seed), torch.no_grad():
                for rows in joint.slices(_PARTICLES):
                    latents, log_guide = joint[rows].draw(_PARTICLES)
                    log_prior, log_likelihood = joint[rows].log_terms(latents)
                    rates.append((log_guide - log_prior).double().mean(0))
                    distortions.append(-log_likelihood.double().mean(0))
            found.append(_row(other, torch.cat(rates), torch.cat(distortions)))
    return found


def _row(run: Run, rate: Tensor, distortion: Tensor) -> dict[str, Any]:
    objective = run.pieces["objective"]
    beta = 1.0 if isinstance(objective, ELBO) else getattr(objective, "beta", None)
    return {
        "run": str(run.path),
        "beta": None if beta is None else float(beta),
        **scored("rate_nats_per_datum", rate),
        **scored("distortion_nats_per_datum", distortion),
    }


def _label(row: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """A run by its beta, and by its name where it has none or others have the same."""
    if row["beta"] is None:
        return Path(row["run"]).name
    shared = sum(other["beta"] == row["beta"] for other in runs) > 1
    return (f"{Path(row['run']).name}, " if shared else "") + f"β = {row['beta']:g}"


def _cells(row: dict[str, Any]) -> list[str]:
    names = ("rate_nats_per_datum", "distortion_nats_per_datum")
    return [
        row["run"],
        "–" if row["beta"] is None else f"{row['beta']:g}",
        *(number(row[f"{n}{e}"]) for n in names for e in ("", "_standard_error")),
        number(-sum(row[name] for name in names)),
    ]


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
        axes.annotate(literal(_label(row, runs)), (rate, distortion), xytext=(6, 6),
                      textcoords="offset points", fontsize=8.5, color=INK)  # fmt: skip
    axes.set_xlabel("rate, nats per datum")
    axes.set_ylabel("distortion, nats per datum")
    plain(axes)
    return picture_of(figure)


def _against_prior(inspection: Inspection, active: list[int]) -> Picture:
    """ArviZ's picture of p(z_d) and of the aggregate posterior q(z_d) = 1/N sum_n q(z_d|x_n)."""
    from arviz_base import dict_to_dataset
    from arviz_plots import plot_prior_posterior
    from xarray import DataTree

    chosen = sorted((active or list(range(inspection.z.shape[-1])))[:_PANELS])
    groups = {}
    for group in ("prior", "posterior"):
        z = inspection.drawn(group)[:, :_PER_IMAGE, :, chosen]
        groups[group] = dict_to_dataset(
            {"z": z.reshape(1, -1, len(chosen))},
            coords={"latent": [inspection.run.model.latent_name(place) for place in chosen]},
            dims={"z": ["latent"]},
            sample_dims=["chain", "draw"],
        )
    plot = plot_prior_posterior(
        DataTree.from_dict(groups),
        kind="kde",
        visuals={"title": {"size": 9}},
        **panels(len(chosen), 4, 2.3, 1.7),
    )
    return picture_of(plot.viz["figure"].item())


def _scatter(inspection: Inspection) -> Picture:
    from matplotlib import colormaps

    means: NDArray[np.float32] = inspection.means()[:_ENCODED].mean(1).numpy()
    figure = new_figure(6.4, 5.4)
    axes = figure.subplots()
    labels = inspection.labels
    labels = np.full(len(means), -1) if labels is None else labels[:_ENCODED]
    there = np.unique(labels)
    few = len(there[there >= 0]) <= 10
    for label in there:  # -1, which comes first, stands for an unknown one
        colour = colormaps["tab10"](label) if few else colormaps["turbo"](label / there[-1])
        names = inspection.run.data.class_names
        name = names[label] if names and label < len(names) else str(label)
        chosen = means[labels == label]
        colour, name = (colour, literal(name)) if label >= 0 else (FAINT, "unknown")
        axes.scatter(chosen[:, 0], chosen[:, 1], s=10, color=colour, alpha=0.75, linewidths=0,
                     label=name)  # fmt: skip
    if there[-1] >= 0 and len(there) <= 30:
        axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5),
                    markerscale=2, title="label")  # fmt: skip
    axes.set_xlabel("$z_0$")
    axes.set_ylabel("$z_1$")
    axes.set_aspect("equal")
    plain(axes)
    return picture_of(figure)
