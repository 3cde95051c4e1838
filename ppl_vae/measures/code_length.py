"""How many nats a lossless code needs for an image: the complexity of what is in it."""

import zlib
from math import log, pi

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["context_code_length", "zlib_code_length"]

_CONTEXTS = 16  # values of four neighbours


def context_code_length(values: Tensor, levels: int) -> Tensor:
    """The length of each image in an adaptive code of its own strokes and textures.

    The grey levels are written as bit planes of their Gray code, as in JBIG (ITU-T T.82, 1993).
    Each bit is coded given the four of its plane to the left and above, by a frequency that is
    learned on the way with the estimator of Krichevsky and Trofimov (1981). After n0 zeros and n1
    ones a context has cost

        -log B(n0 + 1/2, n1 + 1/2) + log B(1/2, 1/2),

    in any order, which is summed over contexts, planes and channels. exp(-length) is therefore a
    distribution over images: that of a model which knows neighbourhoods and no shapes.

    Args:
        values: Grey levels 0, ..., levels - 1, (N, C, H, W).
        levels: How many there are.

    Returns:
        (N,) in nats, float64.
    """
    values = values.long()
    gray = values ^ (values >> 1)
    image = torch.arange(values.shape[0] * values.shape[1], device=values.device)
    cells = 2 * _CONTEXTS * image.reshape(*values.shape[:2], 1, 1)
    total = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for plane in range((levels - 1).bit_length()):
        bit = gray >> plane & 1
        above = pad(bit, (1, 1, 1, 0))[..., :-1, :]
        left = pad(bit, (1, 0))[..., :-1]
        context = left + 2 * above[..., :-2] + 4 * above[..., 1:-1] + 8 * above[..., 2:]
        where = (cells + 2 * context + bit).flatten()
        counts = where.bincount(minlength=2 * _CONTEXTS * len(image)).double() + 0.5
        zeros, ones = counts.reshape(len(values), -1, 2).unbind(-1)
        log_beta = zeros.lgamma() + ones.lgamma() - (zeros + ones).lgamma()
        total -= (log_beta - log(pi)).sum(-1)
    return total


def zlib_code_length(values: Tensor, levels: int) -> Tensor:
    """The length of each image's grey levels, one or two bytes each, compressed by zlib.

    Args:
        values: Grey levels 0, ..., levels - 1, (N, C, H, W).
        levels: How many there are.

    Returns:
        (N,) in nats, float64: 8 log 2 for each byte.
    """
    images = values.cpu().numpy().astype("uint8" if levels <= 256 else ">u2")
    lengths = [len(zlib.compress(image.tobytes(), 9)) for image in images]
    return 8 * log(2) * torch.tensor(lengths, dtype=torch.float64, device=values.device)
