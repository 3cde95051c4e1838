"""How sure is log p(x)? An interval, not a number."""

from math import log
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.errors import InputError
from ppl_vae.inference.ais import AIS, Bidirectional, ais, bidirectional
from ppl_vae.inference.marginal_likelihood import marginal_likelihood_estimator
from ppl_vae.inference.pareto import RELIABLE, log_mean, pareto_k
from ppl_vae.measures.scores import mean_and_error
from ppl_vae.pictures.figures import BLUE, FAINT, GREEN, INK, ORANGE, new_figure
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, picture_of, plain

__all__ = ["intervals"]

_CHAINS = 16
_SHORTER = 4  # times, than from the prior, is the way from the guide
_SIMULATED = 2  # images drawn for each that is shown, with half the chains
_HMC_CHAINS = 4
_FEW = 5  # dimensions up to which the estimator of appendix D is of use

Interval = tuple[Tensor, Tensor, Tensor]  # an estimate of log p(x) with two ends, each (B,) in nats

_LABELS = {
    "importance_sampling": "importance sampling",
    "ais": "AIS from the prior",
    "ais_from_guide": "AIS from the guide",
    "appendix_d": "AEVB, appendix D",
}


def intervals(inspection: Inspection, section: Section) -> None:
    """Importance sampling and AIS from below, on simulated data bidirectional AIS from above."""
    run, effort = inspection.run, inspection.effort
    size = min(effort.shown, len(inspection.images))
    joint = inspection.joint(size)
    weights = joint.log_weights(effort.particles).cpu()
    k_hat = pareto_k(weights).k_hat
    short = max(1, effort.temperatures // _SHORTER)
    annealed = ais(joint, chains=_CHAINS, temperatures=effort.temperatures)
    nearer = ais(joint, chains=_CHAINS, temperatures=short, start="guide")
    both = bidirectional(
        run.model,
        run.guide,
        _SIMULATED * size,
        chains=_CHAINS // _SIMULATED,
        temperatures=short,
        start="guide",
        like=joint.batch,
    )
    level = annealed.level
    methods = {
        "importance_sampling": _importance(weights, k_hat, level),
        "ais": _ends(annealed),
        "ais_from_guide": _ends(nearer),
    }
    refused = None
    if inspection.z.shape[-1] <= _FEW:
        try:
            methods["appendix_d"] = _appendix_d(joint, effort.nuts_draws, level)
        except InputError as error:
            refused = str(error)
    gap, gap_error = mean_and_error(both.gap.cpu())
    section.numbers = {
        "images": [int(index) for index in inspection.images[:size]],
        "particles": len(weights),
        "temperatures": effort.temperatures,
        "temperatures_from_guide": short,
        "chains": _CHAINS,
        "level": level,
        "k_hat": k_hat.tolist(),
    }
    for name, values in methods.items():
        for end, value in zip(("", "_lower", "_upper"), values, strict=True):
            section.numbers[f"{name}{end}_nats"] = value.tolist()
    section.numbers |= {
        "ais_acceptance": annealed.acceptance.tolist(),
        "ais_from_guide_acceptance": nearer.acceptance.tolist(),
        "bidirectional_images": len(both.gap),
        "bidirectional_below_nats": both.below.log_likelihood.tolist(),
        "bidirectional_above_nats": both.above.tolist(),
        "bidirectional_gap_nats": gap,
        "bidirectional_gap_nats_standard_error": gap_error,
    }
    names = [inspection.name(place) for place in range(size)]
    section.facts = {
        "size": size,
        "latents": inspection.z.shape[-1],
        "few": _FEW,
        "refused": refused,
        "appendix_d": "appendix_d" in methods,
        "nearer": _beside(methods, "ais_from_guide"),
        "further": _beside(methods, "ais"),
        "off": max(gap, 0.0) + 2 * (gap_error or 0.0),
        "head": ["", "k-hat", *(_LABELS[name] for name in methods)],
        "rows": [
            [name, number(k_hat[place].item()), *(_cell(v, place) for v in methods.values())]
            for place, name in enumerate(names)
        ],
    }
    section.pictures = {
        "intervals": _picture(methods, names, inspection.log_p),
        "enclosed": _enclosed(both),
    }


def _ends(found: AIS) -> Interval:
    return found.log_likelihood.cpu(), found.lower.cpu(), found.upper.cpu()


def _beside(methods: dict[str, Interval], name: str) -> dict[str, float | None]:
    """How much an estimate differs from importance sampling's, and how long its intervals are."""
    value, lower, upper = methods[name]
    more, error = mean_and_error(value - methods["importance_sampling"][0])
    return {"more": more, "error": error, "length": (upper - lower).mean().item()}


def _cell(values: Interval, place: int) -> str:
    value, lower, upper = (number(each[place].item()) for each in values)
    return f"{value} [{lower}, {upper}]"


def _appendix_d(joint: Joint, draws: int, level: float) -> Interval:
    """By chains of NUTS, with the interval of Student's t over them."""
    from scipy.stats import t as student

    found = marginal_likelihood_estimator(joint, draws=2 * draws, warmup=draws, chains=_HMC_CHAINS)
    value = found.log_likelihood.cpu()
    half = float(student.ppf((1 + level) / 2, _HMC_CHAINS - 1)) * found.standard_error.cpu()
    return value, value - half, value + half


def _importance(weights: Tensor, k_hat: Tensor, level: float) -> Interval:
    """log mean_k w_k with an interval, each (B,).

    It is the normal one where k-hat is below 0.7. Above, the spread of the draws does not show how
    wrong the estimate is: the lower end is that of Markov's inequality, P(mean w > p / a) <= a,
    which holds for all weights, and there is no upper end.
    """
    mean, error = log_mean(weights)
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    lower = (mean - half).minimum(mean - log(1 / (1 - level)))
    doubtful = k_hat > RELIABLE
    return (
        mean,
        torch.where(doubtful, lower, mean - half),
        (mean + half).masked_fill(doubtful, torch.inf),
    )


def _picture(methods: dict[str, Interval], names: list[str], log_p: str) -> Picture:
    """Intervals beside each other, image by image, relative to the first method's estimate."""
    reference = methods["importance_sampling"][0]
    figure = new_figure(1.7 * len(names) + 2, 3)
    axes = figure.subplots()
    colours = (ORANGE, BLUE, GREEN, INK)
    ends = torch.cat([each - reference for triple in methods.values() for each in triple])
    ends = ends[ends.isfinite()]
    arrow = 0.1 * (ends.max() - ends.min()).item()  # above the highest point
    for place, (name, (value, low, high)) in enumerate(methods.items()):
        x = np.arange(len(names)) + 0.16 * (place - (len(methods) - 1) / 2)
        open_ends = high.isinf().numpy()
        top = (reference + ends.max() + arrow).where(high.isinf(), high)
        spans = [(value - low).numpy(), (top - value).numpy()]
        axes.errorbar(x, (value - reference).numpy(), yerr=spans, fmt="o", color=colours[place],
                      label=_LABELS[name], markersize=4, capsize=3)  # fmt: skip
        axes.plot(x[open_ends], (top - reference).numpy()[open_ends], "^", color=colours[place])
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel(f"{log_p} − importance\nsampling, nats")
    axes.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    plain(axes)
    return picture_of(figure)


def _enclosed(both: Bidirectional) -> Picture:
    below = both.below.log_likelihood.cpu().numpy()
    above = both.above.cpu().numpy()
    middle = (below + above) / 2
    figure = new_figure(0.6 * len(below) + 3, 2.4)
    axes = figure.subplots()
    places = np.arange(len(below))
    axes.vlines(places, below - middle, above - middle, color=FAINT)
    axes.scatter(places, below - middle, marker="^", s=28, color=BLUE, label="below: AIS")
    axes.scatter(places, above - middle, marker="v", s=28, color=ORANGE, label="above: reverse AIS")
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xlim(-0.6, len(below) - 0.4)
    axes.set_xlabel("simulated image")
    axes.set_ylabel("nats, from the middle")
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    plain(axes)
    return picture_of(figure)
