"""Images are what their values say: two values, few or many grey levels, or real numbers."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import COUNT, MASKS, all_of, joined, sane, save_pictures, sorted_rows

from ppl_vae.data import Conversion, DataSet, Images, Source
from ppl_vae.data.source import fixed_order

# Two values


@pytest.mark.parametrize("memory_gib", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (bool, (0, 1)),
        *product([np.uint8, np.uint16, np.int64, np.float32], [(0, 1), (0, 255), (3, 200)]),
    ],
)
def test_arrays_of_two_values_are_binary(arrays, dtype, values, memory_gib) -> None:
    low, high = values
    data_set = arrays(np.where(MASKS, high, low).astype(dtype), memory_gib=memory_gib)
    assert data_set.default_domain == "binary"
    for binarize in ("auto", "dynamic", "threshold"):
        data = replace(data_set, binarize=binarize).load("binary", 0)
        np.testing.assert_array_equal(all_of(data)[:, 0], MASKS)
        assert (data.levels, data.binarize) == (2, "none")
        assert (f"two values ({low} and {high})" in data.note) == (dtype is not bool)


@pytest.mark.parametrize("top", [1, 255])
@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_pictures_of_two_values_are_binary(tmp_path: Path, top: int, mode: str) -> None:
    top = 255 if mode == "1" else top
    images = (MASKS * top).astype(np.uint8)
    if mode == "RGB":
        images = np.stack([images, 0 * images, images], -1)
    data_set = save_pictures(tmp_path / "masks", images, "1" if mode == "1" else None)
    assert data_set.default_domain == "binary"
    data = data_set.load("binary", 0)
    expected = images[:, None] if mode != "RGB" else images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(sorted_rows(joined(data)), sorted_rows(expected / top))
    assert f"two values (0 and {top})" in data.note


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_two_values_under_other_likelihoods_are_two_grey_levels(arrays, dtype) -> None:
    data_set = arrays((MASKS * 255).astype(dtype))
    np.testing.assert_array_equal(all_of(data_set.load("unit", 0))[:, 0], MASKS)
    np.testing.assert_array_equal(all_of(data_set.load("bytes", 0))[:, 0], 255 * MASKS)
    data = data_set.load("real", 0)
    np.testing.assert_array_equal(np.floor(2 * all_of(data)[:, 0]), MASKS)
    assert "2 grey levels dequantised" in data.reference_measure


def test_floats_of_two_values_stay_real_under_a_likelihood_for_real_data(arrays) -> None:
    data = arrays(MASKS.astype(np.float32)).load("real", 0)
    np.testing.assert_array_equal(all_of(data)[:, 0], MASKS)
    assert data.levels is None


@pytest.mark.parametrize("third", [1, 2, 254])
def test_one_pixel_of_a_third_value_makes_grey_levels(arrays, third: int) -> None:
    images = (MASKS * 255).astype(np.uint8)
    images[-1, -1, -1] = third
    data_set = arrays(images)
    assert data_set.default_domain == "real"
    assert data_set.load("unit", 0).levels == 256
    with pytest.raises(ValueError, match=r"grey levels of Arrays; add --data.binarize dynamic"):
        data_set.load("binary", 0)
    remedied = replace(data_set, binarize="dynamic").load("binary", 0)
    np.testing.assert_array_equal(all_of(remedied)[:-1, 0], MASKS[:-1])


def test_images_of_one_value_are_grey_unless_they_are_bits(arrays) -> None:
    data = arrays(np.zeros((COUNT, 5, 4), bool)).load("binary", 0)
    assert data.levels == 2
    assert not all_of(data).any()
    data_set = arrays(np.zeros((COUNT, 5, 4), np.uint8))
    assert data_set.default_domain == "real"
    assert data_set.load("real", 0).levels == 256


# Real numbers


@pytest.mark.parametrize("memory_gib", [0, 1])
def test_real_numbers_are_said_with_their_range(arrays, memory_gib) -> None:
    images = np.random.default_rng(0).normal(3, 2, size=(COUNT, 5, 4)).astype(np.float32)
    data_set = arrays(images, memory_gib=memory_gib)
    note = data_set.load("real", 0).note
    assert f"; values of {images.min():g} to {images.max():g}" in note
    assert "look like" not in note


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_look_like_grey_levels(arrays, refused, dtype) -> None:
    """Each remedy of the line is followed to the end."""
    images = np.random.default_rng(0).integers(256, size=(COUNT, 5, 4))
    images[0, 0, :2] = 0, 255
    data_set = arrays(images.astype(dtype))
    note = data_set.load("real", 0).note
    assert note.endswith(
        "values of 0 to 255, which look like grey levels: save them as uint8 with "
        "images.round().astype('uint8'), or add --data.scale standard"
    )
    refused(data_set, "unit", "scale them to [0, 1] with images / images.max()")
    np.testing.assert_allclose(
        all_of(arrays(images / images.max()).load("unit", 0))[:, 0], images / 255, rtol=1e-6
    )
    shifted = images - 7.0
    refused(arrays(shifted), "unit", "(images - images.min()) / numpy.ptp(images)")
    scaled = arrays((shifted - shifted.min()) / np.ptp(shifted)).load("unit", 0)
    np.testing.assert_allclose(all_of(scaled)[:, 0], images / 255, atol=1e-6)
    data = arrays(images.astype(dtype).round().astype("uint8")).load("real", 0)
    assert (data.levels, data.dequantize) == (256, "uniform")
    standard = arrays(images.astype(dtype), scale="standard").load("real", 0)
    assert "look like" not in standard.note
    assert "standardised" in standard.note
    assert sane(arrays(images.astype(dtype), scale="standard"))
    assert sane(arrays(images.astype(dtype).round().astype("uint8")))
    assert "floating-point values standardised" in standard.reference_measure


@pytest.mark.parametrize(("most", "bits"), [(1023, 10), (65_535, 16)])
def test_floats_that_look_like_deep_grey_levels(arrays, most: int, bits: int) -> None:
    """Each remedy of the line is followed to the end."""
    images = np.random.default_rng(0).integers(most, size=(COUNT, 5, 4)).astype(np.float32)
    images[0, 0, :2] = 0, most
    assert not sane(arrays(images))
    assert (
        arrays(images)
        .load("real", 0)
        .note.endswith(
            f"values of 0 to {most:g}, which look like grey levels: save them as uint16 with "
            "images.round().astype('uint16'), or add --data.scale standard"
        )
    )
    data_set = arrays(images.round().astype("uint16"))
    assert data_set.load("real", 0).levels == 2**bits
    assert sane(data_set)
    standard = arrays(images, scale="standard")
    assert "look like" not in standard.load("real", 0).note
    assert sane(standard)


@pytest.mark.parametrize(("low", "high"), [(-100, 3899.5), (-30, 2), (0.5, 20), (0, 1e6)])
def test_floats_that_are_far_from_one(arrays, low: float, high: float) -> None:
    images = np.random.default_rng(0).uniform(low, high, size=(COUNT, 5, 4))
    assert not sane(arrays(images))
    note = arrays(images).load("real", 0).note
    assert note.endswith("which are far from 1: add --data.scale standard")
    standard = arrays(images, scale="standard")
    assert "far from" not in standard.load("real", 0).note
    assert sane(standard)
    assert "far from" not in arrays(images / 10 / abs(images).max()).load("real", 0).note


def test_few_whole_levels_as_floats(arrays) -> None:
    images = np.random.default_rng(0).integers(17, size=(COUNT, 5, 4)).astype(float)
    images[0, 0, 0] = 16
    assert "divide them by 16, or add --data.scale standard" in arrays(images).load("real", 0).note
    assert "look like" not in arrays(images / 16).load("real", 0).note
    assert sane(arrays(images / 16))
    assert sane(arrays(images, scale="standard"))
    images[fixed_order(COUNT)[-1], 0, 0] = 0.5  # a training image; those that come later are whole
    assert "look like" not in arrays(images).load("real", 0).note


@pytest.mark.parametrize("memory_gib", [0, 1])
def test_standardised_by_the_training_images(arrays, memory_gib) -> None:
    images = np.random.default_rng(0).gamma(2, 300, size=(COUNT, 3, 5, 4))
    data = arrays(images, scale="standard", memory_gib=memory_gib).load("real", 0)
    training = images[fixed_order(COUNT)[8:].numpy()].astype(np.float32).astype(float)
    expected = (images - training.mean()) / training.std()
    np.testing.assert_allclose(all_of(data), expected, rtol=1e-5, atol=1e-6)
    train = data.train[:].double()
    assert abs(train.mean()) < 1e-5
    assert abs(train.std(correction=0) - 1) < 1e-5


def test_standardising_what_is_not_real(arrays, refused) -> None:
    floats = np.random.default_rng(0).random((COUNT, 5, 4))
    refused(arrays(floats, scale="standard"), "unit", "--data.scale standard", "leave it out")
    grey = (255 * floats).astype(np.uint8)
    refused(arrays(grey, scale="standard"), "real", "grey levels of Arrays", "leave it out")
    constant = arrays(np.full((COUNT, 5, 4), 2.5), scale="standard").load("real", 0)
    assert not all_of(constant).any()


def test_floats_as_bytes_become_bytes_as_is_said(arrays, refused) -> None:
    images = np.random.default_rng(0).integers(256, size=(COUNT, 5, 4)) / 255
    said = "(255 * images).round().astype('uint8')"
    refused(arrays(images), "bytes", said)
    data = arrays((255 * images).round().astype("uint8")).load("bytes", 0)
    np.testing.assert_allclose(all_of(data)[:, 0] / 255, images, atol=1e-12)


# Data sets of one's own


@dataclass(frozen=True)
class Own(DataSet):
    """Says how many levels its pixels have."""

    kind: str = "unit"
    levels: int | None = 256
    default_domain = "real"

    def load(self, domain, seed):
        pixels = {
            "unit": torch.linspace(0, 1, 120),
            "bytes": torch.arange(120, dtype=torch.uint8) * 2,
            "int": torch.arange(120) - 3,
        }[self.kind].reshape(6, 1, 4, 5)
        source = Source(*(Images(pixels[at : at + 2]) for at in (0, 2, 4)))
        return Conversion.choose(self, domain, self.levels)(source, seed)


def test_what_a_data_set_says_of_its_pixels_is_looked_at(refused) -> None:
    refused(
        Own(), "real", "expected integers below 256 from Own", "got torch.float32", "levels=None"
    )
    assert "values of 0 to 1" in Own(levels=None).load("real", 0).note
    refused(Own(kind="bytes", levels=None), "real", "expected floating-point values from Own")
    refused(Own(kind="bytes", levels=17), "real", "grey levels of 0 to 16 from Own; got 0 to 238")
    assert Own(kind="bytes").load("real", 0).levels == 256
    refused(Own(kind="int"), "real", "grey levels of 0 to 255 from Own; got -3 to 116")


def test_noise_within_a_level_stays_there() -> None:
    from ppl_vae.data.conversion import dequantised

    for levels in (2, 17, 256, 4096, 65_536):
        raw = torch.tensor([0, 1, levels - 1])
        for u in (0.0, 1 - 2**-24):
            x = dequantised(raw, levels, torch.full((3,), u)).double()
            assert torch.equal((levels * x).floor(), raw.double())
