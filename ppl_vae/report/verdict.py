"""Can the ELBO, log p(x) and q(z|x) of a run be trusted? One paragraph, from the sections."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.inference.pareto import RELIABLE
from ppl_vae.report.calibrated import beyond_chance
from ppl_vae.report.page import number
from ppl_vae.report.true_posterior import MIXED

__all__ = ["verdict"]

_FEW = 0.05  # the share of images whose k-hat may be above 0.7
_CLOSE = 0.5  # nats: a mean gap up to which the ELBO may stand for log p(x), and q for p(z|x)
_RISING = 0.1  # nats that the longest bound may be above the one before it
_SURE = 2.0  # standard errors
_SLOPE = 3.0  # standard errors
_IDLE = 0.05  # nats: the rate of a site below which it holds next to nothing

_RICHER = {
    "BottomUp": ", such as --guide Ladder",
    "DiagonalNormal": ", such as --guide FullRankNormal or IAF",
    "FullRankNormal": ", such as --guide IAF",
    "IAF": ", such as IAF with more --guide.flows",
}

_ENDS = ("", "_standard_error")

Numbers = Mapping[str, Any]
Gap = tuple[float, float, int]


def verdict(
    sections: Mapping[str, Numbers], log_p: str, which: str, guide: str, refinable: bool = True
) -> dict[str, Any]:
    """What the numbers of the sections allow to say of a run, and what to do about it.

    - log p(x), by importance sampling, is trusted where k-hat is at most 0.7 on 95 % of the images.
    - The ELBO is trusted in its place where the gap between them, which is KL(q || p(z|x)), is at
      most 0.5 nats on average, two standard errors included.
    - q(z|x) is trusted where both hold and the ranks of true latents are uniform.

    A section without an answer leaves open what rests on it.

    Args:
        sections: The numbers of each section by its name, as in `posterior.json`.
        log_p: The log-likelihood, log p(x) or log p(x|y).
        which: The images, in words.
        guide: The name of the guide's class.
        refinable: Whether `SemiAmortized` takes the model.

    Returns:
        `elbo`, `log_likelihood` and `posterior`, each true, false or null where it is not known;
        `images` and those `with_k_hat_at_most_0_7`; and the `text`.
    """
    sections = defaultdict(dict, sections)  # one that is not there has no answer
    k_hat, ranks = sections["guide"].get("k_hat"), _ranks(sections)
    images = len(k_hat or [])
    good = sum(value <= RELIABLE for value in k_hat or [])
    sampled = images - good <= _FEW * images if images else None
    gap = _gap(sections["gap"]) or (_gap_by_sampling(sections["guide"]) if sampled else None)
    close = None if gap is None else gap[0] + _SURE * gap[1] <= _CLOSE
    reasons = (sampled, close, None if ranks is None else not ranks[0])
    found = {"elbo": close, "log_likelihood": sampled, "posterior": _all(reasons)}
    x = "x, y" if log_p.endswith("|y)") else "x"
    names = {"elbo": "the ELBO", "log_likelihood": log_p, "posterior": f"q(z|{x})"}
    latent = sections["latent"]
    collapsed = latent.get("collapse")
    idle = "" if collapsed else _idle(latent.get("rate_by_site_nats_per_datum") or {})
    sentences = [
        _head({names[name]: trusted for name, trusted in found.items()}, which),
        _sampling(good, images, log_p, sections) if images else "",
        "" if ranks is None else ranks[1],
        _mixing(sections["posterior"]),
        "" if gap is None else _below(gap, log_p),
        _advice(sections, found, gap, (guide, refinable), log_p, bool(collapsed or idle)),
        f"{collapsed[0].upper()}{collapsed[1:]}." if collapsed else "",
        idle,
    ]
    return {
        **found,
        "images": images,
        "with_k_hat_at_most_0_7": good,
        "text": " ".join(filter(None, sentences)),
    }


def _all(reasons: tuple[bool | None, ...]) -> bool | None:
    """Whether all hold; one that does not decides, and else one that is not known."""
    return False if False in reasons else None if None in reasons else True


def _gap(section: Numbers) -> Gap | None:
    """The mean gap, its standard error, both in nats, and the images; None where one is unknown."""
    gap = section.get("gap_nats_per_datum")
    error = section.get("gap_nats_per_datum_standard_error")  # of a single image none is known
    return None if gap is None or error is None else (gap, error, section["images"])


def _gap_by_sampling(section: Numbers) -> Gap | None:
    """The same from the bound of all draws, which is log p(x) where k-hat is small."""
    gaps, errors = (section.get(f"iwae_gain_nats_per_datum{e}") or [] for e in _ENDS)
    known = gaps and errors and errors[-1] is not None
    return (gaps[-1], errors[-1], section["iwae_images"]) if known else None


def _ranks(sections: Mapping[str, Numbers]) -> tuple[bool, str] | None:
    """Whether the guide fails its calibration, and how; None where it is not known."""
    section = sections["calibration"]
    if section.get("latents_outside_the_band") is None:
        return None
    active = section["active_latents"]
    outside = section["latents_outside_the_band"]
    failed = len(outside)
    if not failed:
        return False, "In simulations the ranks of the latents are uniform."
    said = f"In simulations the ranks of {failed} of {len(active)} active latents"
    if not beyond_chance(failed, len(active)):
        return False, f"{said} leave their band, as chance allows."
    ends = sum(section["ends_over_uniform"][latent] for latent in active) / len(active)
    said += " are not uniform: the guide is"
    if 0.9 <= ends <= 1.1:
        return True, f"{said} shifted or skewed."
    said += " too narrow" if ends > 1 else " too wide"
    shifted = sum(_slopes(section["counts"][latent]) for latent in outside)
    return True, f"{said}, and shifted in {shifted} of them." if shifted else f"{said}."


def _slopes(counts: Sequence[int]) -> bool:
    """Whether one end of a histogram has more ranks than the other, beyond chance."""
    first, *_, last = counts
    return abs(first - last) > _SLOPE * (first + last) ** 0.5


def _head(trusted: dict[str, bool | None], which: str) -> str:
    said = []
    for answer, words in ((True, "can be trusted"), (False, "cannot"), (None, "not known")):
        names = [name for name, value in trusted.items() if value is answer]
        listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
        if names and answer is None:
            said.append(f"of {listed} it is not known")
        elif names:
            words = "cannot be trusted" if answer is False and not said else words
            said.append(f"{listed} {words}")
    text = "; ".join(said)
    return f"{text[0].upper() if text.startswith('the') else text[0]}{text[1:]}, on {which}."


def _sampling(good: int, images: int, log_p: str, sections: Mapping[str, Numbers]) -> str:
    said = f"k-hat is at most 0.7 on {good:,} of {images:,} images"
    if images - good <= _FEW * images:
        return f"{said}."
    section = sections["log_likelihood"]
    gap, error = (section.get(f"bidirectional_gap_nats{e}") for e in _ENDS)
    said += f"; on the others take {log_p} from annealing"
    if gap is None:
        return f"{said}."
    off = max(gap, 0) + _SURE * (error or 0)
    simulated = f"{section['bidirectional_images']:,} simulated images"
    return f"{said}, off by at most about {number(off)} nats on average on {simulated}."


def _below(gap: Gap, log_p: str) -> str:
    mean, error, images = gap
    return (
        f"The ELBO is a bound, {number(mean)} nats (± {number(error)}) below {log_p} on "
        f"{images:,} images, which is also how far the guide is from the true posterior."
    )


def _mixing(section: Numbers) -> str:
    r_hat = [round(value, 3) for value in section.get("r_hat_largest") or []]
    failed = sum(not value <= MIXED for value in r_hat)
    if not failed:
        return ""
    return (
        f"NUTS has not mixed on {failed} of {len(r_hat)} images, so that the true posterior there "
        "is not known: raise --nuts_draws."
    )


def _advice(
    sections: Mapping[str, Numbers],
    found: dict[str, bool | None],
    gap: Gap | None,
    guide: tuple[str, bool],
    log_p: str,
    more: bool,
) -> str:
    """What to do, the most useful first; `more` is whether other advice follows."""
    if None in found.values():
        return ""
    if not found["elbo"] and gap is not None:
        return _larger_gap(sections["gap"], guide)
    if not found["log_likelihood"]:
        return "The tails of the guide are too light: try another --guide."
    bounds = sections["guide"].get("iwae_gain_nats_per_datum") or []
    if len(bounds) > 1 and bounds[-1] - bounds[-2] > _RISING:
        return f"The bound still rises with the number of draws: more --particles for {log_p}."
    if not found["posterior"]:
        better = _remedy(sections["gap"], guide)[1]
        return f"Weight draws from the guide by their importance weights, or try {better}."
    return "" if more else "Nothing needs to be done."


def _idle(rates: Mapping[str, float]) -> str:
    """The sites of several that hold next to nothing."""
    idle = [site for site, rate in rates.items() if rate < _IDLE]
    if not idle:
        return ""
    *first, last = idle
    names = f"{', '.join(first)} and {last} hold" if first else f"{last} holds"
    return (
        f"{names} hardly anything, less than {_IDLE} nats each: try --objective Beta with a longer "
        "--objective.warmup_epochs and --objective.balance true, or a model of fewer sites."
    )


def _larger_gap(section: Numbers, guide: tuple[str, bool]) -> str:
    """The remedy for the larger part of the gap; for both where they cannot be told apart."""
    parts, remedy = _remedy(section, guide)
    return f"Of these {parts}: try {remedy}." if parts else f"Try {remedy}."


def _remedy(section: Numbers, guide: tuple[str, bool]) -> tuple[str, str]:
    """The two parts of the gap in words, and what makes the larger one smaller."""
    name, refinable = guide
    richer = f"another family than {name}{_RICHER.get(name, '')}"
    better = "a larger --network or more --epochs"
    if "approximation_gap_nats_per_datum" not in section:  # it was not split
        return "", f"{richer}, and {better}"
    family, network = (
        section[f"{n}_gap_nats_per_datum"] for n in ("approximation", "amortization")
    )
    errors = (
        section[f"{n}_gap_nats_per_datum_standard_error"] or 0.0
        for n in ("approximation", "amortization")
    )
    unsure = _SURE * sum(error**2 for error in errors) ** 0.5
    parts = f"{number(family)} nats are the family's, {number(network)} the network's"
    if family > network + unsure:
        return parts, richer
    if network > family + unsure:
        return parts, f"{better}, or --guide SemiAmortized" if refinable else better
    return parts, f"{richer}, and {better}"
