"""From a trained likelihood to masses of pixels in whole numbers."""

from decimal import Decimal
from functools import cache

from models import Bernoulli, BetaBinomial, DiscretizedLogistic, Likelihood, MixtureOfLogistics
from ppl_vae.coding.latents import INVERSE
from ppl_vae.coding.mixture_pixels import MixturePixels
from ppl_vae.coding.pixels import (
    COUNTS,
    BetaBinomialPixels,
    BinaryPixels,
    LogisticPixels,
    Pixels,
)
from ppl_vae.coding.tables import MASS, Table, activation_table, sigmoid, softplus, tabulate
from ppl_vae.errors import InputError

__all__ = ["PIXELS", "pixels_of"]

PIXELS: tuple[type[Pixels], ...] = (BinaryPixels, BetaBinomialPixels, LogisticPixels, MixturePixels)


def pixels_of(likelihood: Likelihood) -> Pixels:
    """A likelihood in whole numbers.

    Raises:
        InputError: If it is no mass on binary images or bytes.
    """
    if type(likelihood) is Bernoulli:
        return BinaryPixels(_logistic_cdf())
    if type(likelihood) is BetaBinomial:
        return BetaBinomialPixels(_concentration(likelihood.floor))
    if type(likelihood) is DiscretizedLogistic:
        inverse = _inverse_scale(likelihood.floor, likelihood.initial_log_scale)
        return LogisticPixels(inverse, _logistic_cdf())
    if type(likelihood) is MixtureOfLogistics:
        inverse = _inverse_scale(likelihood.floor, likelihood.initial_log_scale)
        slope, cdf = activation_table("Tanh"), _logistic_cdf()
        return MixturePixels(likelihood.components, _exponential(), slope, inverse, cdf)
    raise InputError(
        "expected a likelihood of binary images or bytes, whose pixels have masses; got "
        f"{type(likelihood).__name__}; train with --likelihood BetaBinomial for 8-bit images or "
        "Bernoulli for binary ones"
    )


@cache
def _logistic_cdf() -> Table:
    return tabulate(sigmoid, MASS)


@cache
def _concentration(floor: float) -> Table:
    least = Decimal(floor)
    return tabulate(lambda x: least + softplus(x), COUNTS, rising=True)


@cache
def _inverse_scale(floor: float, initial_log_scale: float) -> Table:
    least, middle = Decimal(floor), Decimal(initial_log_scale)
    return tabulate(lambda x: 1 / (least + (middle + x).exp()), INVERSE)


@cache
def _exponential() -> Table:
    return tabulate(lambda x: min(x, Decimal(0)).exp(), INVERSE)
