"""Code lengths: that of contexts is a distribution over images, and zlib's is that of its bytes."""

import zlib
from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.measures.code_length import context_code_length, zlib_code_length


def every_image(levels: int, *shape: int) -> Tensor:
    """All images of so many grey levels."""
    pixels = int(np.prod(shape))
    values = torch.cartesian_prod(*[torch.arange(levels)] * pixels)
    return values.reshape(-1, *shape)


@pytest.mark.parametrize(
    ("levels", "shape"), [(2, (1, 3, 4)), (4, (1, 2, 3)), (4, (2, 1, 3)), (8, (1, 2, 2))]
)
def test_the_probabilities_of_all_images_sum_to_one(
    levels: int, shape: tuple[int, int, int]
) -> None:
    lengths = context_code_length(every_image(levels, *shape), levels)
    assert (-lengths).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_it_is_the_cost_of_coding_one_pixel_after_the_other() -> None:
    """With a count of one half for each value of a bit to begin with."""
    torch.manual_seed(0)
    images = (torch.rand(3, 1, 9, 7) < 0.3).long()
    for image, length in zip(images[:, 0].tolist(), context_code_length(images, 2), strict=True):
        counts: dict[tuple[int, ...], list[float]] = {}
        total = 0.0
        for y in range(9):
            for x in range(7):
                places = ((y, x - 1), (y - 1, x - 1), (y - 1, x), (y - 1, x + 1))
                context = tuple(image[j][i] if j >= 0 and 0 <= i < 7 else 0 for j, i in places)
                count = counts.setdefault(context, [0.5, 0.5])
                total -= log(count[image[y][x]] / sum(count))
                count[image[y][x]] += 1
        assert length.item() == pytest.approx(total, abs=1e-9)


def test_noise_costs_its_entropy_and_a_plain_image_next_to_nothing() -> None:
    torch.manual_seed(0)
    noise = torch.randint(256, (4, 3, 32, 32))
    pixels = 3 * 32 * 32
    assert (context_code_length(noise, 256) > pixels * log(256)).all()
    assert (context_code_length(noise, 256) < 1.1 * pixels * log(256)).all()
    plain = torch.full((1, 3, 32, 32), 77)
    assert context_code_length(plain, 256).item() < 0.03 * pixels * log(256)


def test_the_length_of_zlib_is_that_of_its_bytes() -> None:
    torch.manual_seed(0)
    for levels, dtype in ((2, np.uint8), (256, np.uint8), (4096, np.dtype(">u2"))):
        values = torch.randint(levels, (5, 1, 6, 6))
        for image, length in zip(values, zlib_code_length(values, levels), strict=True):
            code = zlib.compress(image.numpy().astype(dtype).tobytes(), 9)
            assert length.item() == pytest.approx(8 * len(code) * log(2))
