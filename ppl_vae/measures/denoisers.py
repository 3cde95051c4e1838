"""What scikit-image makes of corrupted images, its parameters chosen by its own calibration."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.corruptions import Corruption, Downsampled, Masked, SaltAndPepper

__all__ = ["METHODS", "SHORT", "compare", "installed", "missing"]

METHODS = {
    "total_variation": "total variation",
    "nonlocal_means": "non-local means",
    "wavelets": "wavelets",
    "median": "median",
    "biharmonic": "biharmonic",
    "bicubic": "bicubic",
}
"""The names of the methods, for people."""

SHORT = METHODS | {
    "total_variation": "TV",
    "nonlocal_means": "NLM",
    "biharmonic": "biharm.",
}
"""The same where there is little room."""

_CALIBRATED_ON = 16  # images that share one choice of parameters

Image = NDArray[np.floating[Any]]
Restorer = Callable[..., Image]


def installed() -> bool:
    """Whether scikit-image is there."""
    return find_spec("skimage") is not None


def missing(corruption: Corruption) -> str | None:
    """What the methods for a corruption lack, and how to add it; None where all are there."""
    if not installed():
        what = "scikit-image is not installed"
    elif not isinstance(corruption, Masked | Downsampled) and not find_spec("pywt"):
        what = "PyWavelets is not installed, so wavelets are left out"
    else:
        return None
    return f"{what}; pip install 'ppl-vae[restore]' adds it"


def compare(corruption: Corruption, y: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The images restored by each method that is meant for the corruption, (B, C, H, W).

    Noise of all kinds: total variation (Chambolle, 2004), non-local means (Buades, Coll and Morel,
    2005) and, where PyWavelets is installed, wavelets; their parameters are those of the least
    self-supervised loss (Batson and Royer, 2019) by `skimage.restoration.calibrate_denoiser`,
    summed over 16 images, and of the method and its form by `denoise_invariant`, for which that
    loss is meant, the one is taken that is nearer to the originals. Beside them a median filter
    for salt and pepper. Missing pixels: the biharmonic equation. Fewer pixels: bicubic
    interpolation.

    Args:
        corruption: p(y|x).
        y: What is seen, (B, ...), in units of intensity, missing pixels NaN.
        x: The originals, (B, C, H, W).
    """
    images = y.double().cpu().numpy()
    if isinstance(corruption, Masked):
        from skimage.restoration import inpaint_biharmonic

        found: dict[str, list[Image]]
        found = {"biharmonic": [_inpainted(inpaint_biharmonic, image) for image in images]}
    elif isinstance(corruption, Downsampled):
        from skimage.transform import resize

        channels, height, width = y.shape[1:]
        whole = (channels, height * corruption.factor, width * corruption.factor)
        found = {"bicubic": [resize(image, whole, order=3) for image in images]}
    else:
        pictures = [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in images]
        goal = x.double().cpu().numpy()
        found = {}
        for name, forms in _calibrated(pictures).items():
            made = [np.stack([form(picture) for picture in pictures]) for form in forms]
            made = [m[:, None] if m.ndim == 3 else m.transpose(0, 3, 1, 2) for m in made]
            found[name] = [*min(made, key=lambda images: float(((images - goal) ** 2).mean()))]
        if isinstance(corruption, SaltAndPepper):
            from scipy.ndimage import median_filter

            found["median"] = [median_filter(image, size=(1, 3, 3)) for image in images]
    return {name: torch.as_tensor(np.stack(each)).to(y) for name, each in found.items()}


def _inpainted(inpaint: Restorer, image: Image) -> Image:
    return inpaint(np.nan_to_num(image), np.isnan(image).any(0), channel_axis=0)


def _calibrated(pictures: list[Image]) -> dict[str, tuple[Restorer, Restorer]]:
    """Each denoiser of (H, W) or (H, W, C) with its parameters, as it is and invariant."""
    from skimage.restoration import (
        calibrate_denoiser,
        denoise_invariant,
        denoise_nl_means,
        denoise_tv_chambolle,
        denoise_wavelet,
    )

    choices: dict[str, tuple[Restorer, dict[str, Any]]] = {
        "total_variation": (denoise_tv_chambolle, {"weight": np.geomspace(0.02, 2, 12)}),
        "nonlocal_means": (
            denoise_nl_means,
            {"h": np.geomspace(0.02, 1, 8), "patch_size": [3, 5], "patch_distance": [6]},
        ),
    }
    if find_spec("pywt"):
        sigmas = {"sigma": np.geomspace(0.02, 1, 8), "rescale_sigma": [True]}
        choices["wavelets"] = (denoise_wavelet, sigmas)
    result: dict[str, tuple[Restorer, Restorer]] = {}
    axis = None if pictures[0].ndim == 2 else -1
    for name, (denoise, parameters) in choices.items():
        losses = []
        for picture in pictures[:_CALIBRATED_ON]:
            _, (tested, lost) = calibrate_denoiser(
                picture, denoise, {**parameters, "channel_axis": [axis]}, extra_output=True
            )
            losses.append(lost)
        best = tested[int(np.sum(losses, 0).argmin())]
        invariant = partial(denoise_invariant, denoise_function=denoise, denoiser_kwargs=best)
        result[name] = (partial(denoise, **best), invariant)
    return result
