"""The numbers that are reported of a pair: means with their standard errors, bits, active units."""

from math import log, prod, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from models import Model
from ppl_vae.data import Facts

__all__ = [
    "active_latents",
    "active_units",
    "bits_per_dim",
    "collapse",
    "has_collapsed",
    "mean_and_error",
    "quantity",
    "scored",
]

_ACTIVE = 0.01  # variance of E_q[z] above which a latent is used
_RESAMPLES = 200
_COLLAPSED = 0.1  # nats, a rate below which z says nothing about x
_ALMOST = log(2)  # nats, one bit: no yes-or-no question about x can be answered for sure from z
_MUCH = 1.0  # nats that many draws gain
_ENOUGH = 100  # images, of which a mean rate is right to about a tenth


def mean_and_error(values: ArrayLike | Tensor) -> tuple[float, float | None]:
    """The mean of N numbers, and its standard error s / sqrt(N) with s^2 over N - 1.

    Of accuracies, 0 or 1 each, that is the binomial error. A single number has none.
    """
    array = torch.as_tensor(np.asarray(values.cpu() if isinstance(values, Tensor) else values))
    array = array.double()
    error = (array.std() / sqrt(len(array))).item() if len(array) > 1 else None
    return array.mean().item(), error


def scored(name: str, values: ArrayLike | Tensor) -> dict[str, float | None]:
    """`mean_and_error` under the names `name` and `name_standard_error`."""
    mean, error = mean_and_error(values)
    return {name: mean, f"{name}_standard_error": error}


def quantity(model: Model, holes: bool = False) -> str:
    """The log-likelihood that a pair estimates: given y where the model takes the class as given.

    A model that sums its classes out is measured as one of images alone. Of images with missing
    pixels it is the log-likelihood of the observed ones.
    """
    x = "x_observed" if holes else "x"
    return f"log p({x}|y)" if model.given_class else f"log p({x})"


def bits_per_dim(log_likelihood: Tensor, data: Facts, observed: Tensor | None = None) -> Tensor:
    """-log2 of the probability of an image of the original, per pixel and channel, (N,).

    Where L grey levels were dequantised, x = (v + u) / L with u uniform, the density of x bounds
    the mass of v by log P(v) >= E_u log p(x) - C H W log L (Theis, van den Oord and Bethge, 2016,
    equation 6), and the bits are those of v. Otherwise they are of the density or mass itself.

    Args:
        log_likelihood: log p(x), (N,) in nats.
        data: The data set of the images.
        observed: How many values of each image are not missing, (N,); all unless given.
    """
    nats = -log_likelihood / (prod(data.image_shape) if observed is None else observed)
    if data.dequantize == "uniform" and data.levels is not None:
        nats = nats + log(data.levels)
    return nats / log(2)


def active_latents(means: Tensor) -> list[int]:
    """The latents with Var_x(E_q[z_d]) > 0.01, those that vary most first; all of a single image.

    Burda, Grosse and Salakhutdinov (2016, section 5.2).

    Args:
        means: E_q[z] of N images, (N, D), or two independent estimates of it, (N, 2, D), whose
            covariance over the images has no bias.
    """
    if len(means) < 2:
        return list(range(means.shape[-1]))
    means = means.double().reshape(len(means), -1, means.shape[-1])
    apart = means - means.mean(0)
    variance = (apart[:, 0] * apart[:, -1]).sum(0) / (len(means) - 1)
    order = variance.argsort(descending=True, stable=True).tolist()
    return [latent for latent in order if variance[latent] > _ACTIVE]


def active_units(means: Tensor) -> dict[str, Any]:
    """How many latents are active, of means as `active_latents` takes them.

    The standard error is that of the count over bootstrap resamples of the images.
    """
    if len(means) < 2:
        return {"active_units": None, "active_units_standard_error": None}
    generator = torch.Generator().manual_seed(_RESAMPLES)
    means = means.double().cpu()
    picks = torch.randint(len(means), (_RESAMPLES, len(means)), generator=generator)
    counts = torch.tensor([len(active_latents(means[pick])) for pick in picks])
    return {
        "active_units": len(active_latents(means)),
        "active_units_standard_error": counts.double().std().item(),
    }


def has_collapsed(rate: float, active: int | None = None) -> bool:
    """Whether z says nothing about x: a rate below 0.1 nats on average, or no active latent."""
    return rate < _COLLAPSED or active == 0


def collapse(
    rate: float | None,
    active: int | None = None,
    images: int | None = None,
    gain: float | None = None,
) -> str | None:
    """The advice for a posterior that has collapsed to the prior, or nearly; None for any other.

    Bowman et al. (2016, section 3); a decoder that ignores z is a local optimum of the ELBO. The
    rate is at least the mutual information of x and z, so that below log 2 nats, one bit, z hardly
    tells two kinds of images apart, however many latents vary by more than the threshold.

    Args:
        rate: KL(q(z|x) || p(z)) on average, in nats, where it is known.
        active: How many latents are active, where it is known.
        images: How many images both are of, where they may be too few to tell.
        gain: How far the bound of many draws is above the ELBO, in nats, where it is known. Much of
            it says that x depends on z, and that the guide is not yet near the posterior.
    """
    if rate is None or (images is not None and images < _ENOUGH):
        return None
    if gain is not None and gain > _MUCH:
        return None
    collapsed = has_collapsed(rate, active)
    if not collapsed and rate >= _ALMOST:
        return None
    units = "" if active is None else f" and {active} latents are active"
    if collapsed:
        name, little = "posterior collapse", "so that z says nothing about x"
    else:
        name, little = "near posterior collapse", "below one bit: z says almost nothing about x"
    # A rate without active latents is that of a q(z|x) alike for all x, as early in training.
    longer = "" if rate < _COLLAPSED else "more --epochs, "
    return (
        f"{name}: the rate is {rate:.2f} nats{units}, {little}; "
        f"try {longer}--objective Beta with a longer --objective.warmup_epochs or "
        "--objective.free_bits, or a --network of fewer layers"
    )
