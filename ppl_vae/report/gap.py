"""Where does the gap between the ELBO and log p(x) come from?"""

from dataclasses import replace

import numpy as np
from torch import Tensor

from ppl_vae.densities.joint import Batch
from ppl_vae.inference.ais import ais
from ppl_vae.inference.gaps import Gaps, gap_decomposition
from ppl_vae.pictures.figures import BLUE, FAINT, ORANGE, new_figure
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.section import (
    Picture,
    Section,
    Table,
    mean_and_error,
    number,
    picture_of,
    plain,
)

__all__ = ["gap"]

_PARTICLES = 2000
_CHAINS = 8
_LEAPFROG_STEPS = 5
_RELIABLE = 0.7  # k-hat
_SHORTER = 4  # times than the annealing of the few images that get intervals


def gap(inspection: Inspection, section: Section) -> None:
    """log p(x) - ELBO, split as in Cremer, Li and Duvenaud (2018)."""
    run, size = inspection.run, min(inspection.effort.gap_images, len(inspection.images))
    batch = inspection.batch(size)
    gaps = gap_decomposition(
        run.model, run.guide, batch, particles=_PARTICLES, steps=inspection.effort.gap_steps
    )
    gaps, doubtful, told = _annealed(inspection, batch, gaps)
    whole = gaps.approximation_gap + gaps.amortization_gap
    rows = {
        "log p(x)": ("log_likelihood", gaps.log_likelihood),
        "ELBO, the family fitted to each image": ("best_elbo", gaps.best_elbo),
        "ELBO of the guide": ("elbo", gaps.elbo),
        "approximation gap": ("approximation_gap", gaps.approximation_gap),
        "amortization gap": ("amortization_gap", gaps.amortization_gap),
        "gap": ("gap", whole),
    }
    section.numbers = {
        "images": size,
        "particles": _PARTICLES,
        "temperatures": _temperatures(inspection),
        "chains": _CHAINS,
    }
    table = []
    for label, (name, values) in rows.items():
        mean, error = mean_and_error(values)
        section.numbers[f"{name}_nats_per_datum"] = mean
        section.numbers[f"{name}_nats_per_datum_standard_error"] = error
        table.append([label, number(mean), number(error)])
    unsettled = 1 - gaps.converged.double().mean().item()
    section.numbers |= {
        "k_hat_above_0_7_fraction": doubtful.double().mean().item(),
        "not_converged_fraction": unsettled,
    }
    for name in ("approximation_gap", "amortization_gap"):
        section.numbers[f"{name}_nats"] = getattr(gaps, name).tolist()
        error = getattr(gaps, f"{name}_standard_error")
        section.numbers[f"{name}_nats_standard_error"] = error.tolist()
    approximation, amortization = (
        number(each.mean().item()) for each in (gaps.approximation_gap, gaps.amortization_gap)
    )
    section.text = [
        f"Of the {number(whole.mean().item())} nats between log p(x) and the ELBO, {approximation} "
        "remain when the guide's family is fitted to each image by itself: the family's limit, or "
        f"approximation gap. The other {amortization} are the amortization gap: what one network "
        "for all images loses of it.",
        "The split is that of Cremer, Li and Duvenaud (2018). log p(x) is importance-sampled from "
        f"the fitted distribution with {_PARTICLES:,} draws, {told} The estimates are below "
        "log p(x) on average, so that the approximation gap is at least about what is said here.",
    ]
    if unsettled:
        section.text.append(
            f"On {100 * unsettled:.0f} % of the images the fit had not converged after "
            f"{inspection.effort.gap_steps:,} steps, so that some of what is called approximation "
            "gap there is amortization; --gap_steps raises the limit."
        )
    section.tables = [
        Table(
            f"Means over {size:,} images, nats per datum; the standard error covers the choice of "
            "the images and the draws",
            ["", "nats per datum", "standard error"],
            table,
        )
    ]
    section.pictures = [_bars(gaps)]


def _temperatures(inspection: Inspection) -> int:
    return max(1, inspection.effort.temperatures // _SHORTER)


def _annealed(inspection: Inspection, batch: Batch, gaps: Gaps) -> tuple[Gaps, Tensor, str]:
    """log p(x) by annealing where importance sampling is not to be trusted, and in words why.

    The fitted distribution is no good proposal where the family is what limits: log p(x) would come
    out too low, and with it the approximation gap. Of the two lower bounds that is taken which is
    higher on average over these images; image by image it would be the one with the luckier draws.
    """
    doubtful = gaps.k_hat > _RELIABLE
    if not doubtful.any():
        return gaps, doubtful, f"whose k-hat is below {_RELIABLE} on every image."
    run = inspection.run
    found = ais(
        run.model,
        run.guide,
        tuple(part[doubtful] for part in batch),
        chains=_CHAINS,
        temperatures=_temperatures(inspection),
        leapfrog_steps=_LEAPFROG_STEPS,
        start="guide",
    )
    told = (
        f"whose k-hat is above {_RELIABLE} on {100 * doubtful.double().mean().item():.0f} % of the "
        "images. There log p(x) would be too low, and was annealed from the guide to the posterior "
        f"as well, {_CHAINS} chains through {_temperatures(inspection):,} temperatures with a "
        f"standard error of {number(found.standard_error.mean().item())} nats an image. That was "
    )
    higher = (found.log_likelihood - gaps.log_likelihood[doubtful]).mean().item()
    if higher <= 0:
        return gaps, doubtful, told + f"{number(-higher)} nats lower on average, and is not taken."
    log_p, log_p_error = gaps.log_likelihood.clone(), gaps.log_likelihood_standard_error.clone()
    gap_error = gaps.approximation_gap_standard_error.clone()
    log_p[doubtful], log_p_error[doubtful] = found.log_likelihood, found.standard_error
    gap_error[doubtful] = found.standard_error.hypot(gaps.best_elbo_standard_error[doubtful])
    better = replace(
        gaps,
        log_likelihood=log_p,
        log_likelihood_standard_error=log_p_error,
        approximation_gap=log_p - gaps.best_elbo,
        approximation_gap_standard_error=gap_error,
    )
    return better, doubtful, told + f"{number(higher)} nats higher on average, and is taken."


def _bars(gaps: Gaps) -> Picture:
    order = (gaps.approximation_gap + gaps.amortization_gap).argsort(descending=True)
    approximation = gaps.approximation_gap[order].cpu().numpy()
    amortization = gaps.amortization_gap[order].cpu().numpy()
    figure = new_figure(8, 3)
    axes = figure.subplots()
    places = range(len(order))
    axes.bar(places, approximation, width=0.85, color=BLUE, label="approximation gap: the family")
    # Estimates of a gap near zero fall below it: such bars hang down, beside the other's.
    bottom = np.where(approximation * amortization > 0, approximation, 0)
    axes.bar(
        places, amortization, width=0.85, bottom=bottom, color=ORANGE,
        label="amortization gap: the network",
    )  # fmt: skip
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_xlabel("images, the largest gap first")
    axes.set_ylabel("log p(x) − ELBO, nats")
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    return picture_of(
        figure, "The two gaps of each image, one on the other; below zero where the estimate is."
    )
