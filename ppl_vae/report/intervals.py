"""How sure is log p(x)? An interval, not a number."""

from math import log, sqrt
from typing import Any

import numpy as np
from torch import Tensor

from ppl_vae.ais import ais, bidirectional
from ppl_vae.errors import InputError
from ppl_vae.figures import BLUE, FAINT, INK, ORANGE, new_figure
from ppl_vae.marginal_likelihood import marginal_likelihood_estimator
from ppl_vae.pareto import pareto_k
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

__all__ = ["intervals"]

_CHAINS = 16
_FEW = 5  # dimensions up to which the estimator of appendix D is of use


def intervals(inspection: Inspection, section: Section) -> None:
    """Importance sampling and AIS from below, on simulated data bidirectional AIS from above."""
    run, effort = inspection.run, inspection.effort
    size = min(effort.shown, len(inspection.images))
    weights = inspection.joint(size).log_weights(effort.particles).cpu()
    k_hat = pareto_k(weights).k_hat
    importance = weights.logsumexp(0) - log(len(weights))
    annealed = ais(
        run.model,
        run.guide,
        inspection.batch(size),
        chains=_CHAINS,
        temperatures=effort.temperatures,
    )
    both = bidirectional(
        run.model,
        run.guide,
        size,
        chains=_CHAINS,
        temperatures=effort.temperatures,
        like=inspection.batch(size),
    )
    log_p, lower, upper = (
        value.cpu() for value in (annealed.log_likelihood, annealed.lower, annealed.upper)
    )
    gap, gap_error = mean_and_error(both.gap.cpu())
    methods: dict[str, tuple[Tensor, Tensor, Tensor]] = {
        f"importance sampling, {len(weights):,} draws": _importance(weights, annealed.level),
        f"AIS, {effort.temperatures:,} temperatures, {_CHAINS} chains": (log_p, lower, upper),
    }
    appendix: dict[str, Any] = {}
    text = ""
    if inspection.z.shape[-1] <= _FEW:
        try:
            found = marginal_likelihood_estimator(
                run.model, run.guide, inspection.batch(size), draws=2 * effort.nuts_draws,
                warmup=effort.nuts_draws,
            )  # fmt: skip
            value, error = found.log_likelihood.cpu(), found.standard_error.cpu()
            methods["AEVB, appendix D"] = (value, value - 2 * error, value + 2 * error)
            appendix = {
                "appendix_d_nats": value.tolist(),
                "appendix_d_nats_standard_error": error.tolist(),
            }
        except InputError as error:
            text = f" The estimator of AEVB's appendix D was not computed: {error}."
    else:
        text = (
            " The estimator of AEVB's appendix D is left out: it is of use up to about "
            f"{_FEW} latents, and there are {inspection.z.shape[-1]}."
        )
    section.numbers = {
        "images": [int(index) for index in inspection.images[:size]],
        "particles": len(weights),
        "temperatures": effort.temperatures,
        "chains": _CHAINS,
        "level": annealed.level,
        "importance_sampling_nats": importance.tolist(),
        "k_hat": k_hat.tolist(),
        "ais_nats": log_p.tolist(),
        "ais_nats_standard_error": annealed.standard_error.tolist(),
        "ais_lower_nats": lower.tolist(),
        "ais_upper_nats": upper.tolist(),
        "ais_acceptance": annealed.acceptance.tolist(),
        **appendix,
        "bidirectional_below_nats": both.below.log_likelihood.tolist(),
        "bidirectional_above_nats": both.above.tolist(),
        "bidirectional_gap_nats": gap,
        "bidirectional_gap_nats_standard_error": gap_error,
    }
    more, more_error = mean_and_error(log_p - importance)
    section.text = [
        f"On {size} images, annealing finds {number(abs(more))} nats "
        f"{'more' if more >= 0 else 'less'} than importance sampling on average "
        f"(± {number(more_error)}), and its intervals at {100 * annealed.level:.0f} % are "
        f"{number((upper - lower).mean().item())} nats long. On images that the model drew, where "
        f"log p(x) can be enclosed, the bounds are {number(gap)} nats apart (± "
        f"{number(gap_error)}): "
        "in expectation, annealing with these settings is off by no more than that there.",
        "Both estimates lie below log p(x) on average. Importance sampling draws from the guide; "
        "AIS "
        "(Neal, 2001; Wu et al., 2017) goes from the prior to the posterior through "
        f"{effort.temperatures:,} temperatures with Hamiltonian Monte Carlo. The upper bound "
        f"(Grosse et "
        "al., 2015) needs an exact draw from the posterior, which only simulated data have." + text,
    ]
    section.tables = [
        Table(
            "log p(x) in nats",
            ["", "k-hat", "importance sampling", "AIS", "lower end", "upper end"],
            [
                [
                    inspection.name(place),
                    number(k_hat[place].item()),
                    *(number(v[place].item()) for v in (importance, log_p, lower, upper)),
                ]
                for place in range(size)
            ],
        )
    ]
    names = [inspection.name(place) for place in range(size)]
    section.pictures = [_picture(methods, names, annealed.level)]
    section.pictures.append(_enclosed(both))


def _importance(weights: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    """log mean_k w_k with its normal interval, each (B,)."""
    from scipy.stats import norm

    mean = weights.logsumexp(0) - log(len(weights))
    error = (weights - mean).exp().std(0) / sqrt(len(weights))
    quantile = float(norm.ppf((1 + level) / 2))
    return mean, mean - quantile * error, mean + quantile * error


def _picture(
    methods: dict[str, tuple[Tensor, Tensor, Tensor]], names: list[str], level: float
) -> Picture:
    """Intervals beside each other, image by image, relative to the first method's estimate."""
    reference = next(iter(methods.values()))[0]
    figure = new_figure(1.7 * len(names) + 2, 3)
    axes = figure.subplots()
    for place, ((label, (value, low, high)), colour) in enumerate(
        zip(methods.items(), (ORANGE, BLUE, INK), strict=False)
    ):
        x = np.arange(len(names)) + 0.18 * (place - (len(methods) - 1) / 2)
        ends = [(value - low).numpy(), (high - value).numpy()]
        axes.errorbar(x, (value - reference).numpy(), yerr=ends, fmt="o", color=colour, label=label,
                      markersize=4, capsize=3)  # fmt: skip
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("log p(x) − importance\nsampling, nats")
    axes.legend(frameon=False, fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    plain(axes)
    return picture_of(
        figure,
        f"Estimates of log p(x) with intervals at {100 * level:.0f} %, over that of importance "
        f"sampling. "
        "An interval knows only of the draws that were made: one from weights with a large k-hat "
        "is too "
        "short.",
    )


def _enclosed(both: Any) -> Picture:
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
    return picture_of(
        figure, "Images drawn from the model: stochastic lower and upper bounds of log p(x)."
    )
