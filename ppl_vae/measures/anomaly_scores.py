"""Scores of how unlike the training images an image is: in nats, larger where more anomalous."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.data import Facts, Split
from ppl_vae.errors import InputError
from ppl_vae.measures.code_length import context_code_length, zlib_code_length
from ppl_vae.measures.estimates import Estimates

__all__ = [
    "CODED",
    "SCORES",
    "Evidence",
    "Score",
    "check_grey_levels",
    "code_lengths",
    "log_volume",
]

Score = Literal[
    "exemplar_complexity",
    "complexity",
    "zlib_complexity",
    "log_likelihood",
    "elbo",
    "distortion",
    "rate",
    "typicality",
    "likelihood_ratio",
    "likelihood_regret",
]

_BATCH = 500


@dataclass(frozen=True)
class Evidence:
    """What the scores of N images are computed from; nats, (N,) each.

    Attributes:
        estimates: Of the run's pair.
        log_volume: log p(x) - log P(v) of the grey levels v of an image, see `log_volume`.
        code_lengths: The lengths L(v) in lossless codes, by the name of the code.
        background: Estimates of the background run's pair.
        usual: The mean of log p(x) over training images.
        amortization_gap: Of the guide, see `ppl_vae.inference.gaps`.
        exemplar_elbo: See `ppl_vae.measures.exemplars`.
    """

    estimates: Estimates
    log_volume: float = 0.0
    code_lengths: Mapping[str, Tensor] = field(default_factory=dict)
    background: Estimates | None = None
    usual: float | None = None
    amortization_gap: Tensor | None = None
    exemplar_elbo: Tensor | None = None


def _log_likelihood(evidence: Evidence) -> Tensor:
    """-log p(x). Bishop, Novelty detection and neural network validation, 1994."""
    return -evidence.estimates.log_likelihood


def _elbo(evidence: Evidence) -> Tensor:
    """-ELBO, the bound in place of log p(x)."""
    return -evidence.estimates.elbo


def _distortion(evidence: Evidence) -> Tensor:
    """-E_q log p(x|z), the "reconstruction probability" of An and Cho (2015)."""
    return evidence.estimates.distortion


def _rate(evidence: Evidence) -> Tensor:
    """KL(q(z|x) || p(z)): how far from the prior the code lies."""
    return evidence.estimates.rate


def _complexity(evidence: Evidence) -> Tensor:
    """-log P(v) - L(v), with the code of `context_code_length`.

    Serra et al., Input complexity and out-of-distribution detection, 2020, equation (2), where L is
    the length of a PNG or FLIF file. exp(-L) is a distribution here, so that the score is the log
    ratio of the probabilities of v under a model of strokes and textures alone and under the run's.
    """
    log_mass = evidence.estimates.log_likelihood - evidence.log_volume
    return -log_mass - evidence.code_lengths["context"]


def _zlib_complexity(evidence: Evidence) -> Tensor:
    """The same with the length that zlib, the code in a PNG, has for the grey levels."""
    log_mass = evidence.estimates.log_likelihood - evidence.log_volume
    return -log_mass - evidence.code_lengths["zlib"]


def _exemplar_complexity(evidence: Evidence) -> Tensor:
    """`complexity` with an ELBO in place of log p(x): that of the aggregate posterior as the prior.

    What decoder and guide have learned is kept, and codes between those of training images cost
    what they are worth.
    """
    assert evidence.exemplar_elbo is not None
    log_mass = evidence.exemplar_elbo - evidence.log_volume
    return -log_mass - evidence.code_lengths["context"]


def _likelihood_ratio(evidence: Evidence) -> Tensor:
    """log p_background(x) - log p(x).

    Ren et al., Likelihood ratios for out-of-distribution detection, 2019, equation (5): the
    background is a pair that was trained on images with replaced pixels.
    """
    assert evidence.background is not None
    return evidence.background.log_likelihood - evidence.estimates.log_likelihood


def _typicality(evidence: Evidence) -> Tensor:
    """|-log p(x) - H|, with H the mean of -log p(x) over training images.

    Nalisnick et al., Detecting out-of-distribution inputs to deep generative models using
    typicality, 2019, equation (4) for a single image.
    """
    assert evidence.usual is not None
    return (evidence.estimates.log_likelihood - evidence.usual).abs()


def _likelihood_regret(evidence: Evidence) -> Tensor:
    """max_q ELBO - ELBO: what is gained by fitting q(z) to the image alone.

    Xiao, Yan and Amit, Likelihood regret, 2020, equation (6).
    """
    assert evidence.amortization_gap is not None
    return evidence.amortization_gap


SCORES: dict[str, Callable[[Evidence], Tensor]] = {
    "exemplar_complexity": _exemplar_complexity,
    "complexity": _complexity,
    "zlib_complexity": _zlib_complexity,
    "log_likelihood": _log_likelihood,
    "elbo": _elbo,
    "distortion": _distortion,
    "rate": _rate,
    "typicality": _typicality,
    "likelihood_ratio": _likelihood_ratio,
    "likelihood_regret": _likelihood_regret,
}
"""Each score by its name: (N,) in nats, larger where more anomalous."""

_CODES = {"context": context_code_length, "zlib": zlib_code_length}
CODED = {"exemplar_complexity": "context", "complexity": "context", "zlib_complexity": "zlib"}
"""The code that a score needs the length of."""


def code_lengths(
    names: Sequence[str],
    images: Split,
    data: Facts,
    advance: Callable[[int], None] = lambda images: None,
) -> dict[str, Tensor]:
    """The lengths L(v) in nats that the scores of these names need, (N,) each, by the code.

    Args:
        names: Of scores; those without a code are left out.
        images: N images.
        data: Of the run. Its levels L are those of every v, also where the images were stored with
            more or fewer, so that the lengths of calibration images compare with all others.
        advance: Called after each piece with the number of images in it.

    Raises:
        InputError: If the run's images have no grey levels.
    """
    codes = sorted({CODED[name] for name in names if name in CODED})
    if not codes:
        return {}
    levels = _levels(data)
    result: dict[str, list[Tensor]] = {code: [] for code in codes}
    for (x,) in images.in_turn(_BATCH, labelled=False):
        values = _grey_levels(x, data)
        for code in codes:
            result[code].append(_CODES[code](values, levels))
        advance(len(x))
    return {code: torch.cat(lengths) for code, lengths in result.items()}


def check_grey_levels(names: Sequence[str], *data: Facts) -> None:
    """Refuses scores that need a code length of images without grey levels.

    Raises:
        InputError: See there.
    """
    if any(name in CODED for name in names):
        for each in data:
            _levels(each)


def _levels(data: Facts) -> int:
    """How many values a pixel has in the domain."""
    if data.domain in ("binary", "bytes"):
        return {"binary": 2, "bytes": 256}[data.domain]
    if data.levels is None:
        raise InputError(
            f"--scores: a code length needs grey levels, and {data.name} has floating-point "
            "numbers; choose others, such as --scores '[log_likelihood]'"
        )
    return data.levels


def _grey_levels(x: Tensor, data: Facts) -> Tensor:
    """The nearest grey levels v of images x in the domain, int64."""
    if data.domain in ("binary", "bytes"):
        return x.long()
    top = _levels(data) - 1
    nearest = (x * (top + 1)).floor() if data.dequantize == "uniform" else (x * top).round()
    return nearest.clamp(0, top).long()


def log_volume(data: Facts) -> float:
    """log p(x) - log P(v), in nats: C H W log L where L levels were dequantised, else 0.

    log P(v) >= E_u log p(x) - C H W log L (Theis, van den Oord and Bethge, 2016, equation 6).
    """
    if data.dequantize != "uniform" or data.levels is None:
        return 0.0
    channels, height, width = data.image_shape
    return channels * height * width * log(data.levels)
