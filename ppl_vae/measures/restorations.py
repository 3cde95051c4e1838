"""How near restored images are to their originals, and how honest their uncertainty is."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.measures.denoisers import installed
from ppl_vae.measures.scores import scored

__all__ = ["coverage", "crps", "over_hidden", "psnr", "restoration_scores", "ssim"]

_LEVEL = 0.9
_SURE = 0.01  # of intensity, a standard deviation below which a pixel counts as known


def psnr(original: Tensor, restored: Tensor, span: float = 1.0) -> Tensor:
    """10 log10(span^2 / mean squared error) of each image, (B,) in decibels.

    Args:
        original: (B, C, H, W).
        restored: (B, C, H, W).
        span: From the least to the largest value that an image may have.
    """
    error = (original.double() - restored.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(span**2 / error.clamp(min=1e-10))


def ssim(original: Tensor, restored: Tensor, span: float = 1.0) -> NDArray[np.float64] | None:
    """The structural similarity of each image, (B,), by scikit-image: at most 1.

    Wang, Bovik, Sheikh and Simoncelli (2004), with its windows of 7 x 7 pixels. None where an
    image is smaller.

    Args:
        original: (B, C, H, W).
        restored: (B, C, H, W).
        span: From the least to the largest value that an image may have.
    """
    from skimage.metrics import structural_similarity

    if min(original.shape[2:]) < 7:
        return None
    pairs: Any = zip(original.cpu().numpy(), restored.cpu().numpy(), strict=True)
    return np.array(
        [structural_similarity(a, b, data_range=span, channel_axis=0) for a, b in pairs]
    )


def crps(original: Tensor, draws: Tensor) -> Tensor:
    """The continuous ranked probability score of each image, (B,), the mean over its pixels.

    E|X - x| - E|X - X'| / 2, in units of intensity, from S draws without bias (Gneiting and
    Raftery, 2007, equation 21). Of a distribution that is one point it is the absolute error.

    Args:
        original: x, (B, C, H, W).
        draws: X, (S, B, C, H, W), S >= 2.
    """
    return _crps_of_values(original, draws).flatten(1).mean(1)


def _crps_of_values(original: Tensor, draws: Tensor) -> Tensor:
    size = len(draws)
    far = (draws - original).abs().mean(0)
    rank = (2 * torch.arange(1, size + 1).to(draws) - size - 1).reshape(-1, *[1] * original.dim())
    apart = (rank * draws.sort(0).values).sum(0) / (size * (size - 1))
    return far - apart


def coverage(original: Tensor, draws: Tensor, generator: torch.Generator) -> Tensor:
    """The share of pixels whose value lies in the central 90 % of their draws, (B,).

    By the rank of the original among the draws, with ties broken at random: where p(x_i|y) is
    right, ranks are uniform, of continuous and of discrete pixels alike (Czado, Gneiting and Held,
    2009). Only pixels count whose draws have a standard deviation above 0.01: the others are known.

    Args:
        original: x, (B, C, H, W).
        draws: X, (S, B, C, H, W).
        generator: On the CPU; breaks ties.

    Returns:
        NaN for an image without such a pixel.
    """
    below, equal = (draws < original).sum(0), (draws == original).sum(0)
    uniform = torch.rand(original.shape, generator=generator, dtype=torch.float64)
    # A rank of 0 to S, each as likely, and a place within it.
    rank = below + (equal + 1) * uniform.to(original.device)
    place = rank / (len(draws) + 1)
    inside = (place > (1 - _LEVEL) / 2) & (place < (1 + _LEVEL) / 2)
    counted = draws.std(0) > _SURE
    return (inside & counted).flatten(1).sum(1).double() / counted.flatten(1).sum(1)


def over_hidden(values: Tensor, hidden: Tensor) -> Tensor:
    """The mean of a score over the values of each row that were hidden.

    Args:
        values: The score of each value, (B, C, H, W).
        hidden: (B, C, H, W), bool; all values count where none was hidden.

    Returns:
        (B,), or fewer: a row without a hidden value among others that have one is left out.
    """
    hidden = hidden | ~hidden.any()
    count = hidden.flatten(1).sum(1)
    return ((values.double() * hidden).flatten(1).sum(1) / count)[count > 0]


def restoration_scores(
    x: Tensor, mean: Tensor, draws: Tensor | None = None, hidden: Tensor | None = None
) -> dict[str, Any]:
    """PSNR, SSIM, CRPS, and with draws the coverage, each with its standard error over images.

    Of the rows of a table, which have no least and largest value, the squared error in place of the
    first two, in the units that the networks see; it and the CRPS are over the hidden values.

    Args:
        x: The originals, (B, C, H, W).
        mean: The restorations, (B, C, H, W).
        draws: From p(x|y), (S, B, C, H, W), where there are some.
        hidden: Of the rows of a table, which values were missing, (B, C, H, W) bool.
    """
    span = float(x.max() - x.min()) if x.min() < 0 or x.max() > 1 else 1.0
    points = mean[None].expand(2, *mean.shape)
    every = points if draws is None else draws
    values: dict[str, Any]
    if hidden is None:
        values = {"psnr_decibels": psnr(x, mean, span), "crps": crps(x, every)}
    else:
        square = (x.double() - mean.double()).square()
        values = {
            "squared_error_per_value": over_hidden(square, hidden),
            "crps": over_hidden(_crps_of_values(x, every), hidden),
        }
    similar = ssim(x, mean, span) if installed() and hidden is None else None
    if similar is not None:
        values["ssim"] = similar
    if draws is not None:
        inside = coverage(x, draws, torch.Generator().manual_seed(0))
        if not inside.isnan().all():
            values["coverage_of_90_percent"] = inside[~inside.isnan()]
    return {key: number for name in values for key, number in scored(name, values[name]).items()}
