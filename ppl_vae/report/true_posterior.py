"""What does the true posterior look like?"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.densities.joint import Joint
from ppl_vae.inference.bridge import bridge_log_likelihood
from ppl_vae.inference.datatree import nuts_datatree
from ppl_vae.inference.nuts import NutsPosterior, nuts_posterior
from ppl_vae.pictures.figures import BLUE, FAINT, GREEN, INK, ORANGE, new_figure
from ppl_vae.report.inspection import Inspection
from ppl_vae.report.page import number
from ppl_vae.report.section import Picture, Section, panels, picture_of, plain

__all__ = ["MIXED", "true_posterior"]

_CHAINS = 4
_WARMUP = 0.5  # of the draws that are kept
MIXED = 1.01  # R-hat up to which chains count as mixed; Vehtari et al. (2021)
_PANELS = 5  # latents shown for each image
_PAIRS = 2  # pairs of latents shown for each image
_POINTS = 800
_RANKED = 100  # draws of each chain whose ranks are drawn


def true_posterior(inspection: Inspection, section: Section) -> None:
    """NUTS on p(z|x) for some images, beside the guide."""
    size = min(inspection.effort.shown, len(inspection.images))
    draws = inspection.effort.nuts_draws
    joint, warmup = inspection.joint(size), max(1, round(_WARMUP * draws))
    nuts = nuts_posterior(joint, draws=draws, warmup=warmup, chains=_CHAINS)
    inspection.tree["nuts"] = nuts_datatree(nuts, inspection.images[:size].tolist())
    code = inspection.run.model.code
    exact = code(nuts.latents).cpu().numpy()  # (C, S, B, D)
    guide = inspection.drawn("posterior")[:, :, :size]
    dimension = exact.shape[-1]
    active = sorted(inspection.active()) or list(range(dimension))
    ratio = guide.std((0, 1)) / exact.std((0, 1))  # (B, D)
    r_hat, ess = (code(value).double().flatten(1).cpu() for value in (nuts.r_hat, nuts.ess))
    to_posterior, from_posterior, log_p = _divergences(
        joint, nuts, inspection.statistic("log_weight")[:, :size], ess.amin(1)
    )

    names = [inspection.name(place) for place in range(size)]
    section.numbers = {
        "images": [int(index) for index in inspection.images[:size]],
        "chains": _CHAINS,
        "draws": draws,
        "divergences": nuts.divergences.tolist(),
        "r_hat_largest": r_hat.amax(1).tolist(),
        "ess_smallest": ess.amin(1).tolist(),
        "log_likelihood_nats": log_p.tolist(),
        "kl_guide_to_posterior_nats": to_posterior.tolist(),
        "kl_posterior_to_guide_nats": from_posterior.tolist(),
        "active_latents": active,
        "standard_deviation_ratio": ratio[:, active].tolist(),
    }
    shown = ratio[:, active]
    largest = r_hat.amax(1).numpy().round(3)  # as the table shows it
    section.facts = {
        "size": size,
        "first": names[0],
        "mixing": MIXED,
        "mixed": int((largest <= MIXED).sum()),
        "ratio": {
            "median": float(np.median(shown)),
            "least": float(shown.min()),
            "largest": float(shown.max()),
        },
        "to_posterior": to_posterior.mean().item(),
        "rows": [
            [
                names[place],
                str(int(nuts.divergences[place])),
                number(float(largest[place]), 3),
                number(ess[place].min().item(), 0),
                number(to_posterior[place].item()),
                number(from_posterior[place].item()),
                *(number(float(f(shown[place]))) for f in (np.min, np.median, np.max)),
            ]
            for place in range(size)
        ],
    }
    section.pictures = {
        "marginals": _marginals(inspection, exact, guide, active),
        "ratios": _ratios(shown, active, names),
        "ranks": _ranks(inspection, exact, active),
    }
    if dimension > 1:
        section.pictures["pairs"] = _pairs(inspection, exact, guide, names)


def _divergences(
    joint: Joint, nuts: NutsPosterior, q: Tensor, ess: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(q || p(z|x)), KL(p(z|x) || q) and log p(x) of each image, (B,) in nats.

    `q` are log-weights of draws from the guide, (K, B).
    """
    flat = {site: value.flatten(0, 1).split(joint.rows(len(joint)))
            for site, value in nuts.latents.items()}  # fmt: skip
    parts = []
    with torch.no_grad():
        for values in zip(*flat.values(), strict=True):
            latents = dict(zip(flat, values, strict=True))
            weights = torch.stack(joint.log_terms(latents)).sum(0) - joint.log_guide(latents)
            parts.append(weights.double().cpu())
    p = torch.cat(parts)
    log_p = bridge_log_likelihood(q, p, ess)
    return log_p - q.mean(0), p.mean(0) - log_p, log_p


def _group(inspection: Inspection, z: NDArray[Any], images: list[str], latents: list[int]) -> Any:
    from arviz_base import dict_to_dataset
    from xarray import DataTree

    names = [inspection.run.model.latent_name(latent) for latent in latents]
    dataset = dict_to_dataset(
        {"z": z},
        coords={"image": images, "latent": names},
        dims={"z": ["image", "latent"]},
        sample_dims=["chain", "draw"],
    )
    return DataTree.from_dict({"posterior": dataset})


def _marginals(
    inspection: Inspection, exact: NDArray[Any], guide: NDArray[Any], active: list[int]
) -> Picture:
    from arviz_plots import plot_dist
    from matplotlib.lines import Line2D

    size = exact.shape[2]
    chosen = active[:_PANELS]
    images = [f"image {int(index)}" for index in inspection.images[:size]]
    groups = {
        "NUTS": _group(inspection, exact[..., chosen], images, chosen),
        "guide": _group(inspection, guide[..., chosen], images, chosen),
    }
    plot = plot_dist(
        groups,
        kind="kde",
        visuals={
            "credible_interval": False,
            "point_estimate": False,
            "point_estimate_text": False,
            "title": {"size": 9},
        },
        color=[INK, ORANGE],
        **panels(len(chosen) * size, len(chosen), 1.9, 1.5),
    )
    figure = plot.viz["figure"].item()
    figure.supylabel("density", fontsize=9)
    lines = [
        Line2D([], [], color=colour, label=label)
        for colour, label in ((INK, "true posterior (NUTS)"), (ORANGE, "guide"))
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return picture_of(figure)


def _pairs(
    inspection: Inspection, exact: NDArray[Any], guide: NDArray[Any], names: list[str]
) -> Picture:
    """Draws of the two latents that are most correlated in the posterior of each image."""
    size, dimension = exact.shape[2:]
    columns = min(_PAIRS, dimension * (dimension - 1) // 2)
    figure = new_figure(2.7 * size + 0.4, 2.7 * columns)
    panels = figure.subplots(columns, size, squeeze=False)
    generator, name = np.random.default_rng(inspection.seed), inspection.run.model.latent_name
    for place in range(size):
        p, q = (draws[:, :, place].reshape(-1, dimension) for draws in (exact, guide))
        upper = np.triu(np.abs(np.corrcoef(p.T)), 1)
        order = np.argsort(upper, axis=None)[::-1]
        for row in range(columns):
            first, second = np.unravel_index(order[row], upper.shape)
            axes = panels[row, place]
            for draws, colour in ((p, INK), (q, ORANGE)):
                some = generator.choice(len(draws), min(_POINTS, len(draws)), replace=False)
                axes.scatter(*draws[some][:, [first, second]].T, s=3, alpha=0.35, linewidths=0,
                             color=colour)  # fmt: skip
            axes.set_xlabel(name(int(first)))
            axes.set_ylabel(name(int(second)), labelpad=1)
            if row == 0:
                axes.set_title(names[place], fontsize=9)
            plain(axes)
    figure.subplots_adjust(wspace=0.5, hspace=0.35)
    return picture_of(figure)


def _ratios(ratio: NDArray[Any], active: list[int], names: list[str]) -> Picture:
    figure = new_figure(max(4.5, 0.3 * len(active) + 2.6), 2.9)
    axes = figure.subplots()
    colours = [BLUE, ORANGE, INK, GREEN, "#cc79a7", "#56b4e9"]
    for place, name in enumerate(names):
        spread = 0.5 * (place - (len(names) - 1) / 2) / max(1, len(names))
        axes.scatter(np.arange(len(active)) + spread, ratio[place], s=14, label=name,
                     color=colours[place % len(colours)], linewidths=0)  # fmt: skip
    axes.axhline(1, color=FAINT, linewidth=0.8)
    axes.set_yscale("log", base=2)
    low, high = min(0.5, ratio.min() / 1.1), max(2.0, ratio.max() * 1.1)
    axes.set_ylim(low, high)
    ticks = 2.0 ** np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks(range(len(active)), [str(latent) for latent in active])
    axes.set_xlabel("active latent")
    axes.set_ylabel("standard deviation,\nguide / NUTS")
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))
    plain(axes)
    return picture_of(figure)


def _ranks(inspection: Inspection, exact: NDArray[Any], active: list[int]) -> Picture:
    """ArviZ's picture of how the chains of the first image rank among each other."""
    from arviz_plots import plot_rank

    chosen = active[: 2 * _PANELS]
    # ArviZ 0.8 draws a wrong band around chains that are much longer.
    some = exact[:, :: -(-exact.shape[1] // _RANKED)]
    image = f"image {int(inspection.images[0])}"
    tree = _group(inspection, some[:, :, :1, chosen], [image], chosen)
    plot = plot_rank(tree, visuals={"title": {"size": 9}}, **panels(len(chosen), _PANELS, 1.9, 1.6))
    return picture_of(plot.viz["figure"].item())
