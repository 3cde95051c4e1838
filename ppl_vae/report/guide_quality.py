"""How good is the guide, datum by datum?"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.inference.pareto import (
    RELIABLE,
    ImportanceWeightedBounds,
    ParetoK,
    iwae_curve,
    pareto_k,
)
from ppl_vae.measures.encoding import decoded_mean
from ppl_vae.pictures.figures import BLUE, FAINT, INK, new_figure, sheet
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, picture_of, plain

__all__ = ["guide_quality"]

_CURVE_IMAGES = 100
_SHOWN = 10  # of the worst images, and of the best


def guide_quality(inspection: Inspection, section: Section) -> None:
    """k-hat, effective sample sizes, the bound of K draws over K, and the worst images."""
    weights = inspection.statistic("log_weight")
    draws, size = weights.shape
    diagnosis = pareto_k(weights)
    k_hat, ess = diagnosis.k_hat, diagnosis.ess
    unreliable = (k_hat > RELIABLE).double().mean().item()
    shown = min(_CURVE_IMAGES, size)
    curve = iwae_curve(inspection.joint(shown).log_weights(inspection.effort.particles))
    gain, error = _gain(curve)

    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    worst = k_hat.argsort(descending=True, stable=True)
    each_row = max(1, min(_SHOWN, size // 2))
    rows = worst[:each_row], worst.flip(0)[:each_row]
    section.numbers = {
        "draws": draws,
        "images": size,
        "k_hat_median": k_hat.quantile(0.5).item(),
        "k_hat_mean": k_hat.mean().item(),
        "k_hat_above_0_7_fraction": unreliable,
        "ess_median": ess.quantile(0.5).item(),
        "k_hat": k_hat.tolist(),
        "ess": ess.tolist(),
        "worst_images": [int(inspection.images[place]) for place in worst[:_SHOWN]],
        "iwae_images": shown,
        "iwae_particles": curve.particles.tolist(),
        "iwae_nats_per_datum": curve.bound.mean(1).tolist(),
        "iwae_gain_nats_per_datum": gain.tolist(),
        "iwae_gain_nats_per_datum_standard_error": error.tolist(),
    }
    section.facts = {
        "head": ["", *(f"{100 * q:.0f} %" for q in quantiles.tolist()), "largest"],
        "quantiles": [
            [name, *(number(value, digits) for value in [*each.quantile(quantiles), each.max()])]
            for name, each, digits in (("k-hat", k_hat, 2), ("ESS, draws", ess, 1))
        ],
        "shown": [
            [(int(inspection.images[place]), k_hat[place].item()) for place in places]
            for places in rows
        ],
    }
    section.pictures = {
        "distributions": _distributions(diagnosis, draws),
        "curve": _curve(curve, gain, error, shown),
    }
    if not inspection.run.facts.table:
        section.pictures["images"] = _images(inspection, rows)


def _gain(curve: ImportanceWeightedBounds) -> tuple[Tensor, Tensor]:
    """E_x[L_K - L_1] and its standard error over the images, (M,) in nats."""
    gain = curve.bound - curve.bound[0]
    size = gain.shape[1]
    error = gain.std(1) / size**0.5 if size > 1 else torch.zeros(len(gain), dtype=gain.dtype)
    return gain.mean(1), error


def _distributions(diagnosis: ParetoK, draws: int) -> Picture:
    figure = new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    k_hat, ess = diagnosis.k_hat.numpy(), diagnosis.ess.numpy()
    left.hist(k_hat, bins=30, color=BLUE)
    low, high = left.get_xlim()
    for value, side in ((0.5, "right"), (RELIABLE, "left")):
        if low < value < high:
            left.axvline(value, color=INK, linewidth=0.9, linestyle="--")
            place = left.get_xaxis_transform()
            left.text(value, 1.01, f"{value}", transform=place, ha=side, fontsize=8, color=INK)
    left.set_xlabel("k-hat (above 0.7: not reliable)")
    right.hist(np.log10(ess), bins=np.linspace(0, np.log10(draws), 31), color=BLUE)
    right.set_xlim(0, np.log10(draws))
    ticks = [t for t in (1, 10, 100, 1000, 10_000) if t <= draws]
    right.set_xticks(np.log10(ticks), [f"{tick:,}" for tick in ticks])
    right.set_xlabel(f"effective sample size of {draws:,} draws (log scale)")
    for axes in (left, right):
        plain(axes)
        axes.set_ylabel("images")
        axes.yaxis.get_major_locator().set_params(integer=True)
    figure.subplots_adjust(wspace=0.28)
    return picture_of(figure)


def _curve(curve: ImportanceWeightedBounds, gain: Tensor, error: Tensor, images: int) -> Picture:
    figure = new_figure(6, 3.2)
    axes = figure.subplots()
    ks = curve.particles.numpy()
    for image in range(min(images, 20)):
        each = (curve.bound[:, image] - curve.bound[0, image]).numpy()
        axes.plot(ks, each, color=FAINT, linewidth=0.6, alpha=0.5)
    axes.fill_between(ks, gain - 2 * error, gain + 2 * error, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(ks, gain, color=BLUE, linewidth=1.8, marker="o", markersize=3.5)
    axes.set_xscale("log")
    axes.set_xlabel("K, draws in one bound")
    axes.set_ylabel("$L_K -$ ELBO, nats per datum")
    plain(axes)
    return picture_of(figure)


def _images(inspection: Inspection, places: tuple[Tensor, Tensor]) -> Picture:
    rows: list[NDArray[np.float64]] = []
    with torch.no_grad():
        for chosen in places:
            places_there = chosen.to(inspection.images.device)
            x, *labels = (part[places_there] for part in inspection.batch())
            z = torch.as_tensor(inspection.z[:, chosen.numpy()].mean(0)).to(x)
            rows += [
                inspection.display(x),
                inspection.display(decoded_mean(inspection.run.model, z, *labels)),
            ]
    figure = sheet(
        np.stack(rows),
        row_labels=["largest k-hat", "reconstruction", "smallest k-hat", "reconstruction"],
        blocks=(2, len(places[0])),
    )
    return picture_of(figure, exact=True)
