"""Where does the gap between the ELBO and log p(x) come from?"""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.inference.ais import ais
from ppl_vae.inference.gaps import Gaps, gap_decomposition
from ppl_vae.inference.pareto import RELIABLE
from ppl_vae.measures.scores import scored
from ppl_vae.pictures.figures import BLUE, FAINT, ORANGE, new_figure
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, Unanswered, picture_of, plain

__all__ = ["gap"]

_PARTICLES = 2000
_CHAINS = 8
_LEAPFROG_STEPS = 5
_ENDS = ("", "_standard_error")
_SHORTER = 4  # times than the annealing of the few images that get intervals


def gap(inspection: Inspection, section: Section) -> None:
    """log p(x) - ELBO, split as in Cremer, Li and Duvenaud (2018)."""
    size = min(inspection.effort.gap_images, len(inspection.images))
    joint = inspection.joint(size)
    if joint.structure.in_guide:
        raise Unanswered(
            "the guide draws the class of an image, and such a family is not fitted to each image"
        )
    gaps = gap_decomposition(joint, particles=_PARTICLES, steps=inspection.effort.gap_steps)
    doubtful = gaps.k_hat > RELIABLE
    section.facts = {"size": size, "steps": inspection.effort.gap_steps}
    if doubtful.any():
        gaps, section.facts["annealing_gain"], section.facts["annealing_standard_error"] = (
            _annealed(inspection, joint, gaps, doubtful)
        )
    rows = {
        inspection.log_p: ("log_likelihood", gaps.log_likelihood),
        "ELBO, the family fitted to each image": ("best_elbo", gaps.best_elbo),
        "ELBO of the guide": ("elbo", gaps.elbo),
        "approximation gap": ("approximation_gap", gaps.approximation_gap),
        "amortization gap": ("amortization_gap", gaps.amortization_gap),
        "gap": ("gap", gaps.approximation_gap + gaps.amortization_gap),
    }
    section.numbers = {
        "images": size,
        "particles": _PARTICLES,
        "temperatures": _temperatures(inspection),
        "chains": _CHAINS,
        "k_hat_above_0_7_fraction": doubtful.double().mean().item(),
        "not_converged_fraction": 1 - gaps.converged.double().mean().item(),
    }
    for name, values in rows.values():
        section.numbers |= scored(f"{name}_nats_per_datum", values)
    section.facts["rows"] = [
        [label, *(number(section.numbers[f"{name}_nats_per_datum{e}"]) for e in _ENDS)]
        for label, (name, _) in rows.items()
    ]
    for name in ("approximation_gap", "amortization_gap"):
        for end in _ENDS:
            section.numbers[f"{name}_nats{end}"] = getattr(gaps, f"{name}{end}").tolist()
    section.pictures = {"bars": _bars(gaps)}


def _temperatures(inspection: Inspection) -> int:
    return max(1, inspection.effort.temperatures // _SHORTER)


def _annealed(
    inspection: Inspection, joint: Joint, gaps: Gaps, doubtful: Tensor
) -> tuple[Gaps, float, float]:
    """log p(x) by annealing where importance sampling is not to be trusted.

    The fitted distribution is no good proposal where the family is the limit: log p(x) would come
    out too low mostly, and with it the approximation gap. The lower bound is taken that is higher
    on average over these images; image by image it would be the one with the luckier draws.

    Returns:
        The gaps, and how much higher and how uncertain annealing was on average, in nats.
    """
    found = ais(
        joint[doubtful],
        chains=_CHAINS,
        temperatures=_temperatures(inspection),
        leapfrog_steps=_LEAPFROG_STEPS,
        start="guide",
    )
    # Weights of few chains are skewed: their interval says more than the spread of the chains.
    error = (found.upper - found.lower) / (2 * NormalDist().inv_cdf((1 + found.level) / 2))
    gain = (found.log_likelihood - gaps.log_likelihood[doubtful]).mean().item()
    if gain <= 0:
        return gaps, gain, error.mean().item()
    log_p, log_p_error = gaps.log_likelihood.clone(), gaps.log_likelihood_standard_error.clone()
    gap_error = gaps.approximation_gap_standard_error.clone()
    log_p[doubtful], log_p_error[doubtful] = found.log_likelihood, error
    gap_error[doubtful] = error.hypot(gaps.best_elbo_standard_error[doubtful])
    better = replace(
        gaps,
        log_likelihood=log_p,
        log_likelihood_standard_error=log_p_error,
        approximation_gap=log_p - gaps.best_elbo,
        approximation_gap_standard_error=gap_error,
    )
    return better, gain, error.mean().item()


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
    axes.bar(places, amortization, width=0.85, bottom=bottom, color=ORANGE,
             label="amortization gap: the network")  # fmt: skip
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_xlabel("images, the largest gap first")
    axes.set_ylabel("log p(x) − ELBO, nats")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    plain(axes)
    return picture_of(figure)
