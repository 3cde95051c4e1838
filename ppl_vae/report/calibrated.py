"""Is the inference calibrated, and does the model draw what the data look like?"""

from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.calibration import Calibration, simulation_based_calibration
from ppl_vae.figures import BLUE, INK, new_figure, sheet
from ppl_vae.latent_space import sample
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.section import Picture, Section, Table, number, picture_of, plain

__all__ = ["BINS", "calibrated", "nearest"]

_RANKS = 99  # draws that a true latent is ranked among
BINS = 20
_PANELS = 20
_NEIGHBOURS = 12
_COMPARED = 200  # images whose nearest training image is sought
_ROWS = 2000  # training images at a time
_LEVEL = 0.95


def calibrated(inspection: Inspection, section: Section) -> None:
    """Simulation-based calibration of the guide, and checks of what the model predicts."""
    calibration = simulation_based_calibration(
        inspection.run.model,
        inspection.run.guide,
        data_points=inspection.effort.simulations,
        draws=_RANKS,
        bins=BINS,
        level=_LEVEL,
        like=inspection.batch() if inspection.run.model.labelled else None,
    )
    counts = calibration.counts[inspection.latent].cpu()  # (bins, D)
    low, high = calibration.band
    active = sorted(inspection.active()) or list(range(counts.shape[1]))
    outside = ((counts < low) | (counts > high)).any(0)
    failed = [latent for latent in active if outside[latent]]
    ends = counts[[0, -1]].double().mean(0) / (inspection.effort.simulations / BINS)
    section.numbers = {
        "simulations": inspection.effort.simulations,
        "ranked_among": _RANKS,
        "band": [low, high],
        "level": _LEVEL,
        "active_latents": active,
        "latents_outside_the_band": failed,
        "counts": counts.T.tolist(),
        "p_value": calibration.p_value[inspection.latent].cpu().tolist(),
        "ends_over_uniform": ends.tolist(),
    }
    mean_ends = ends[active].mean().item()
    section.text = [
        (
            f"No: of {len(active)} active latents, the ranks of {len(failed)} leave the band that "
            f"uniform "
            "ranks stay in."
            if failed
            else f"In all {len(active)} active latents the ranks are uniform as far as "
            f"{inspection.effort.simulations:,} simulations can tell."
        )
        + f" The outermost bins hold {number(mean_ends)} times what they would if the guide were "
        "the posterior" + (": it is too narrow." if mean_ends > 1.3 else "."),
        "Simulation-based calibration (Talts et al., 2018): z and x are drawn from the model, and "
        "each "
        f"z_d is ranked among {_RANKS} draws from q(z|x). A histogram with its mass at both ends "
        "belongs to a guide that is too narrow, a hump to one that is too wide, a slope to one "
        "that is "
        f"biased. A histogram of uniform ranks stays in the grey band with probability "
        f"{100 * _LEVEL:.0f} %. The images are the model's own: this says nothing about how well "
        f"the "
        "model fits the data.",
    ]
    section.pictures = [_histograms(calibration, counts, active)]
    _predict(inspection, section)
    _neighbours(inspection, section)


def _histograms(calibration: Calibration, counts: Tensor, active: list[int]) -> Picture:
    chosen = active[:_PANELS]
    columns = min(5, len(chosen))
    rows = ceil(len(chosen) / columns)
    figure = new_figure(2.0 * columns + 0.5, 1.45 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    width = (calibration.draws + 1) // len(counts)
    lefts = np.arange(len(counts)) * width
    for place, axes in enumerate(panels.flat):
        if place >= len(chosen):
            axes.set_visible(False)
            continue
        axes.axhspan(*calibration.band, color="#cccccc", linewidth=0)
        heights = counts[:, chosen[place]].numpy()
        axes.bar(lefts, heights, width=0.9 * width, align="edge", color=BLUE, alpha=0.85)
        axes.set_title(f"$z_{{{chosen[place]}}}$", fontsize=9, pad=3)
        plain(axes)
        if place + columns >= len(chosen):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(f"rank among {calibration.draws}", fontsize=8.5)
        if place % columns == 0:
            axes.set_ylabel("images", fontsize=8.5)
    figure.subplots_adjust(hspace=0.42, wspace=0.12)
    return picture_of(
        figure,
        "Ranks of the true z_d among draws from the guide"
        + (
            f", the first {len(chosen)} of {len(active)} active latents"
            if len(active) > len(chosen)
            else ""
        )
        + "; grey, where the whole histogram of a calibrated guide stays.",
    )


def _predict(inspection: Inspection, section: Section) -> None:
    """Total ink and the marginals of the pixels, of the model's images beside the data's."""
    site = str(next(iter(inspection.tree.children["observed_data"].data_vars)))
    groups = ("prior_predictive", "posterior_predictive")
    observed = inspection.variable("observed_data", site).astype("float64")
    event = [str(dim) for dim in observed.dims[1:]]
    drawn = {group: inspection.variable(group, site) for group in groups}
    ink = {g: v.sum(event, dtype="float64") for g, v in drawn.items()}
    data_ink = observed.sum(event)
    rows = []
    checks: dict[str, Any] = {}
    for name, of in (("mean", np.mean), ("standard deviation", np.std)):
        truth = float(of(data_ink.values))
        row = [name, number(truth, 1)]
        for group in groups:
            each = of(ink[group].values, axis=-1).ravel()
            p_value = float((each >= truth).mean())
            row += [number(float(each.mean()), 1), number(p_value)]
            key = f"{group}_total_ink_{name.replace(' ', '_')}"
            checks |= {key: float(each.mean()), f"{key}_p_value": p_value}
        rows.append(row)
        checks[f"total_ink_{name.replace(' ', '_')}"] = truth
    section.numbers |= checks
    section.tables.append(
        Table(
            "Total ink, the sum of the pixels of an image; p: share of replicated data sets in "
            "which "
            "it is at least as large",
            ["over the images", "data", "x from p(x)", "p", "x given its own z", "p"],
            rows,
        )
    )
    section.text.append(
        "Total ink is the sum of the pixels. Images drawn from p(x) test the model; images drawn "
        "given "
        "the z of an image test how well it is reconstructed."
    )
    if len(data_ink) > 1:
        section.pictures.append(_ink(ink, data_ink, site))
    section.pictures.append(_pixels(inspection, observed.values, drawn["prior_predictive"].values))


def _ink(ink: dict[str, Any], data_ink: Any, site: str) -> Picture:
    from arviz_plots import plot_ppc_dist
    from xarray import DataTree

    values = ink["prior_predictive"]
    tree = DataTree.from_dict(
        {
            "prior_predictive": values.to_dataset(name="total ink"),
            "observed_data": data_ink.to_dataset(name="total ink"),
        }
    )
    plot = plot_ppc_dist(
        tree,
        group="prior_predictive",
        num_samples=min(50, values.sizes["chain"] * values.sizes["draw"]),
        kind="ecdf",
        visuals={
            "observed_dist": {"color": INK, "width": 2},
            "predictive_dist": {"color": BLUE, "alpha": 0.3},
            "title": {"size": 10},
        },
        backend="matplotlib",
        figure_kwargs={"figsize": (6, 3.2)},
    )
    return picture_of(
        plot.viz["figure"].item(),
        "Total ink, the share of images with no more of it: black the data, each thin blue line as "
        "many "
        "images drawn from p(x).",
    )


def _pixels(inspection: Inspection, data: NDArray[Any], drawn: NDArray[Any]) -> Picture:
    flat = drawn.reshape(-1, *drawn.shape[3:])
    model_mean = flat.mean(0, dtype=np.float64)
    data_mean = data.mean(0)
    spread = np.sqrt(data.var(0) / len(data) + flat.var(0, dtype=np.float64) / len(flat))
    z = (model_mean - data_mean) / np.maximum(spread, 1e-12)
    z = np.where(spread > 0, z, 0.0)
    means = inspection.display(np.stack([data_mean, model_mean]))
    difference = np.clip(0.5 + z / 10, 0, 1)  # five standard errors are black or white
    figure = sheet(
        np.stack([means[0], means[1], difference])[None],
        column_labels=["data, mean", "p(x), mean", "difference"],
    )
    over = float((np.abs(z) > 3).mean())
    return picture_of(
        figure,
        "Pixel by pixel: the mean of the data, that of the model's images, and their difference in "
        "standard errors, from black (-5, the model has less) to white (+5). "
        f"{100 * over:.0f} % of the pixels differ by more than 3.",
        exact=True,
    )


def nearest(x: Tensor, split: Any, rows: int = _ROWS) -> tuple[Tensor, Tensor]:
    """The nearest of a split's images to each of x (B, C, H, W).

    Returns:
        The distance, root mean square over the pixels, and the index, each (B,).
    """
    best = torch.full((len(x),), torch.inf, device=x.device)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    wanted = x.flatten(1).float()
    for start in range(0, len(split), rows):
        there = split[start : start + rows].flatten(1).float()
        distances, places = torch.cdist(wanted, there).min(1)
        closer = distances < best
        best = torch.where(closer, distances, best)
        index = torch.where(closer, places + start, index)
    return best / wanted.shape[1] ** 0.5, index


def _neighbours(inspection: Inspection, section: Section) -> None:
    """Does the model repeat training images?"""
    run = inspection.run
    if inspection.split_name == "train":
        section.text.append(
            "Nearest training images are not sought for images of the training split."
        )
        return
    drawn = sample(run, min(_COMPARED, 10 * _NEIGHBOURS), inspection.seed)
    x = torch.as_tensor(drawn["draw"], device=run.device)
    own = inspection.batch(_COMPARED)[0]
    with torch.no_grad():
        distance, index = nearest(x, run.data.train)
        test, _ = nearest(own, run.data.train)
    section.numbers |= {
        "nearest_training_distance_samples_median": distance.median().item(),
        "nearest_training_distance_data_median": test.median().item(),
    }
    section.text.append(
        "The nearest training image is "
        f"{number(distance.median().item(), 3)} away from an image drawn from p(x) and "
        f"{number(test.median().item(), 3)} from one of the {inspection.split_name} split (median "
        f"root "
        "mean square over the pixels): a model that repeats its training images would be much "
        "closer "
        "than data are."
    )
    count = min(_NEIGHBOURS, len(x))
    images = [x[:count], run.data.train[index[:count]]]
    figure = sheet(
        np.stack([inspection.display(each) for each in images]),
        row_labels=["x from p(x)", "nearest training image"],
    )
    section.pictures.append(
        picture_of(
            figure,
            "Images drawn from the model, each above the training image that is nearest.",
            exact=True,
        )
    )
