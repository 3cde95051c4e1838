"""Does the model draw what the data look like? Posterior-predictive checks."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data import new_split
from ppl_vae.latents.views import sample
from ppl_vae.pictures.figures import BLUE, INK, new_figure, sheet
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, picture_of, plain

__all__ = ["nearest", "pixel_differences", "predicted"]

_NEIGHBOURS = 12
_COMPARED = 200  # images whose nearest training image is sought
_ROWS = 2000  # images at a time
_FAR = 3.0  # standard errors
_SCALE = 5.0  # standard errors, the ends of the colours


def predicted(inspection: Inspection, section: Section) -> None:
    """Total ink, the marginals of the pixels and the nearest training images.

    The columns of a table have no total, and there are no pictures of its rows.
    """
    if not inspection.run.facts.table:
        _totals(inspection, section)
    _neighbours(inspection, section)


def _totals(inspection: Inspection, section: Section) -> None:
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
    section.facts["ink"] = rows
    if len(data_ink) > 1:
        section.pictures["ink"] = _ink(ink, data_ink, site)
    section.pictures["pixels"] = _pixels(
        inspection, section, observed.values, drawn["prior_predictive"].values
    )


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
    figure = plot.viz["figure"].item()
    (axes,) = figure.axes
    axes.set_title("")
    axes.set_xlabel("total ink, sum of the pixels")
    axes.set_ylabel("share of images")
    plain(axes)
    return picture_of(figure)


def pixel_differences(data: NDArray[Any], drawn: NDArray[Any]) -> NDArray[np.float64]:
    """How far the means of the data and of the model's images are apart, pixel by pixel.

    In standard errors of the difference if the two had one distribution: the variance is that of
    both together, so that a pixel that a few hundred images leave black and the model seldom
    fills is no surprise. 0 where all images agree.

    Args:
        data: (N, ...).
        drawn: (M, ...).

    Returns:
        The mean of the model less that of the data, (...).
    """
    sizes = np.array([len(data), len(drawn)], dtype=np.float64)
    (first, inside), (second, more) = (_moments(part) for part in (data, drawn))
    between = sizes.prod() / sizes.sum() * (second - first) ** 2
    variance = (inside + more + between) / sizes.sum()
    error = np.sqrt(variance * (1 / sizes).sum())
    return np.divide(second - first, error, out=np.zeros_like(error), where=error > 0)


def _moments(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sum of squared deviations, a piece at a time: float64 takes eight times as much."""
    mean = images.mean(0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for start in range(0, len(images), _ROWS):
        squares += ((images[start : start + _ROWS] - mean) ** 2).sum(0)
    return mean, squares


def _pixels(inspection: Inspection, section: Section, data: NDArray[Any], drawn: Any) -> Picture:
    flat = drawn.reshape(-1, *drawn.shape[3:])
    apart = pixel_differences(data, flat)
    over = float((np.abs(apart) > _FAR).mean())
    section.numbers["pixels_that_differ_by_3_standard_errors_fraction"] = over
    means = inspection.display(np.stack([data.mean(0), flat.mean(0, dtype=np.float64)]))
    figure = new_figure(7, 2.4)
    left, middle, right = figure.subplots(1, 3)
    for axes, mean, title in ((left, means[0], "mean of the data"), (middle, means[1], "of p(x)")):
        axes.imshow(mean.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
    shown = right.imshow(apart.mean(0), cmap="RdBu_r", vmin=-_SCALE, vmax=_SCALE)
    right.set_title("p(x) less data", fontsize=9)
    bar = figure.colorbar(shown, ax=(left, middle, right), fraction=0.025, pad=0.02)
    bar.set_label("standard errors", fontsize=8.5)
    bar.ax.tick_params(labelsize=8.5)
    for axes in (left, middle, right):
        axes.set_axis_off()
    section.facts["colours"] = len(apart) > 1
    return picture_of(figure)


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
        return
    drawn = sample(run, min(_COMPARED, 10 * _NEIGHBOURS), inspection.seed)
    x = new_split(drawn["draw"], run.facts).to(run.device)[:]
    own = inspection.batch(_COMPARED)[0]
    with torch.no_grad():
        distance, index = nearest(x, run.data.train)
        test, _ = nearest(own, run.data.train)
    section.numbers |= {
        "nearest_training_distance_samples_median": distance.median().item(),
        "nearest_training_distance_data_median": test.median().item(),
    }
    if run.facts.table:
        return
    count = min(_NEIGHBOURS, len(x))
    images = [x[:count], run.data.train[index[:count]]]
    figure = sheet(
        np.stack([inspection.display(each) for each in images]),
        row_labels=["x from p(x)", "nearest training image"],
    )
    section.pictures["neighbours"] = picture_of(figure, exact=True)
