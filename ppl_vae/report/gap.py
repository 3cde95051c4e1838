"""Where does the gap between the ELBO and log p(x) come from?"""

from ppl_vae.figures import BLUE, ORANGE, new_figure
from ppl_vae.gaps import Gaps, gap_decomposition
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


def gap(inspection: Inspection, section: Section) -> None:
    """log p(x) - ELBO, split as in Cremer, Li and Duvenaud (2018)."""
    run, size = inspection.run, min(inspection.effort.gap_images, len(inspection.images))
    gaps = gap_decomposition(
        run.model,
        run.guide,
        inspection.batch(size),
        particles=_PARTICLES,
        steps=inspection.effort.gap_steps,
    )
    whole = gaps.approximation_gap + gaps.amortization_gap
    rows = {
        "log p(x)": ("log_likelihood", gaps.log_likelihood),
        "ELBO, the family fitted to each image": ("best_elbo", gaps.best_elbo),
        "ELBO of the guide": ("elbo", gaps.elbo),
        "approximation gap": ("approximation_gap", gaps.approximation_gap),
        "amortization gap": ("amortization_gap", gaps.amortization_gap),
        "gap": ("gap", whole),
    }
    section.numbers = {"images": size, "particles": _PARTICLES}
    table = []
    for label, (name, values) in rows.items():
        mean, error = mean_and_error(values)
        section.numbers[f"{name}_nats_per_datum"] = mean
        section.numbers[f"{name}_nats_per_datum_standard_error"] = error
        table.append([label, number(mean), number(error)])
    unreliable = (gaps.k_hat > 0.7).double().mean().item()
    unsettled = 1 - gaps.converged.double().mean().item()
    section.numbers |= {
        "k_hat_above_0_7_fraction": unreliable,
        "not_converged_fraction": unsettled,
        "approximation_gap_nats": gaps.approximation_gap.tolist(),
        "amortization_gap_nats": gaps.amortization_gap.tolist(),
    }
    share = (gaps.approximation_gap.mean() / whole.mean()).item()
    section.text = [
        f"Of the {number(whole.mean().item())} nats between log p(x) and the ELBO, "
        f"{number(gaps.approximation_gap.mean().item())} ({100 * share:.0f} %) remain when the "
        f"guide's "
        "family is fitted to each image by itself: the family's limit, or approximation gap. The "
        "other "
        f"{number(gaps.amortization_gap.mean().item())} are the amortization gap: what one network "
        f"for "
        "all images loses of it.",
        "The split is that of Cremer, Li and Duvenaud (2018). log p(x) is importance-sampled from "
        "the "
        f"fitted distribution with {_PARTICLES:,} draws; its k-hat is above 0.7 on "
        f"{100 * unreliable:.0f} % of the images, where log p(x), and with it the approximation "
        f"gap, is "
        "an underestimate.",
    ]
    if unsettled:
        section.text.append(
            f"On {100 * unsettled:.0f} % of the images the fit had not converged after "
            f"{inspection.effort.gap_steps:,} steps, so that some of what is called approximation "
            f"gap "
            "there is not; --gap_steps raises the limit."
        )
    section.tables = [
        Table(
            f"Means over {size:,} images, nats per datum; the standard error covers the choice of "
            f"the "
            "images and the draws",
            ["", "nats per datum", "standard error"],
            table,
        )
    ]
    section.pictures = [_bars(gaps)]


def _bars(gaps: Gaps) -> Picture:
    order = (gaps.approximation_gap + gaps.amortization_gap).argsort(descending=True)
    approximation = gaps.approximation_gap[order].cpu().numpy()
    amortization = gaps.amortization_gap[order].cpu().numpy()
    figure = new_figure(8, 3)
    axes = figure.subplots()
    places = range(len(order))
    axes.bar(places, approximation, width=0.85, color=BLUE, label="approximation gap: the family")
    axes.bar(
        places, amortization, width=0.85, bottom=approximation, color=ORANGE,
        label="amortization gap: the network",
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_xlabel("images, the largest gap first")
    axes.set_ylabel("log p(x) − ELBO, nats")
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    return picture_of(figure, "The two gaps of each image, one on the other.")
