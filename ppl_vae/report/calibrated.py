"""Is the inference calibrated, and does the model draw what the data look like?"""

from math import ceil

import numpy as np
from torch import Tensor

from ppl_vae.inference.calibration import Calibration, simulation_based_calibration
from ppl_vae.pictures.figures import BLUE, new_figure
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.predicted import predicted
from ppl_vae.report.section import Picture, Section, picture_of, plain

__all__ = ["BINS", "beyond_chance", "calibrated", "verdict"]

_RANKS = 99  # draws that a true latent is ranked among
BINS = 20
_PANELS = 60
_LEVEL = 0.95


def calibrated(inspection: Inspection, section: Section) -> None:
    """Simulation-based calibration of the guide, and posterior-predictive checks.

    Whole images from the model do not compare with data that have missing pixels.
    """
    calibration = simulation_based_calibration(
        inspection.run.model,
        inspection.run.guide,
        data_points=inspection.effort.simulations,
        draws=_RANKS,
        bins=BINS,
        level=_LEVEL,
        like=inspection.batch() if inspection.run.model.given_class else None,
    )
    code = inspection.run.model.code
    counts = code(calibration.counts).cpu()  # (bins, D)
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
        "p_value": code(calibration.p_value).cpu().tolist(),
        "ends_over_uniform": ends.tolist(),
    }
    section.facts = {
        "verdict": verdict(len(failed), len(active), inspection.effort.simulations),
        "ends": ends[active].mean().item(),
        "narrow": bool(ends[active].mean() > 1.3) and beyond_chance(len(failed), len(active)),
        "shown": min(len(active), _PANELS),
        "holes": inspection.run.spec.holes,
    }
    section.pictures = {"ranks": _histograms(inspection, calibration, counts, active)}
    if not inspection.run.spec.holes:
        predicted(inspection, section)


def beyond_chance(failed: int, active: int) -> bool:
    """Whether chance would seldom have `failed` of the active latents' histograms leave the band.

    Each of them does so with probability 5 %, and so may as many of them as chance has.
    """
    from scipy.stats import binom

    return failed > 0 and bool(binom.sf(failed - 1, active, 1 - _LEVEL) < 1 - _LEVEL)


def verdict(failed: int, active: int, simulations: int) -> str:
    """Whether `failed` histograms outside their bands are more than chance would have."""
    if not failed:
        return (
            f"In all {active} active latents the ranks are uniform as far as {simulations:,} "
            "simulations can tell."
        )
    outside = f"of {active} active latents, the ranks of {failed} leave the band"
    if beyond_chance(failed, active):
        return f"No: {outside} that uniform ranks stay in."
    share = 100 * (1 - _LEVEL)
    return f"It may be: {outside}, as {share:.0f} % of calibrated latents would by chance."


def _histograms(
    inspection: Inspection, calibration: Calibration, counts: Tensor, active: list[int]
) -> Picture:
    chosen = active[:_PANELS]
    names = [inspection.run.model.latent_name(latent) for latent in chosen]
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
        axes.set_title(names[place], fontsize=9, pad=3)
        plain(axes)
        axes.yaxis.get_major_locator().set_params(integer=True)
        if place + columns >= len(chosen):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(f"rank among {calibration.draws}", fontsize=8.5)
        if place % columns == 0:
            axes.set_ylabel("images", fontsize=8.5)
    figure.subplots_adjust(hspace=0.42, wspace=0.12)
    return picture_of(figure)
