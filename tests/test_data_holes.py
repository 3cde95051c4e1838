"""NaN in floating-point images: missing pixels, as they are read, converted and refused."""

import numpy as np
import pytest
import torch
from own_images import all_of, noise

from ppl_vae.data import Arrays, Conversion, new_split

GREY = noise(60, 5, 4)
MISSING = np.random.default_rng(1).random(GREY.shape) < 0.4
MISSING[:, 0, 0] = False


def holed(values: np.ndarray) -> np.ndarray:
    return np.where(MISSING, np.nan, values).astype(np.float32)


@pytest.mark.parametrize("memory_gib", [0, 1])
@pytest.mark.parametrize(
    ("values", "domain", "options", "levels"),
    [
        (GREY > 99, "binary", {}, 2),
        (200 * (GREY > 99), "binary", {}, 2),
        (GREY, "bytes", {}, 256),
        (GREY, "unit", {}, 256),
        (GREY, "real", {}, 256),
        (GREY, "binary", {"binarize": "dynamic"}, 256),
        (GREY, "binary", {"binarize": "threshold"}, 256),
        (4 * GREY.astype(int), "real", {"dequantize": "none"}, 1024),
    ],
)
def test_whole_numbers_with_holes_become_what_they_become_without(
    arrays, values, domain, options, levels, memory_gib
) -> None:
    whole = values if values.dtype == bool else values.astype(np.uint16)
    expected = arrays(whole, **options).load(domain, 0)
    data = arrays(holed(values), memory_gib=memory_gib, **options).load(domain, 0)
    assert (data.levels, data.dequantize, data.binarize) == (
        levels, expected.dequantize, expected.binarize
    )  # fmt: skip
    assert data.holes
    count = MISSING.sum()
    assert f"{count} of 1,200 pixels ({100 * count / 1200:.3g} %) are missing (NaN)" in data.note
    assert ("whole numbers, read as grey levels" in data.note) == (levels == 256)
    for name in ("train", "validation", "test"):
        split, other = getattr(data, name), getattr(expected, name)
        torch.manual_seed(3)
        x = split[:]
        torch.manual_seed(3)
        y = other[:]
        there = ~x.isnan()
        torch.testing.assert_close(x[there], y[there], rtol=0, atol=0)
        torch.testing.assert_close(split.observed(), there.flatten(1).sum(1))
    assert sum(data.missing) == count == np.isnan(all_of(data)).sum()


def test_a_fixed_binarisation_and_replaced_values_keep_holes(arrays) -> None:
    for options in ({"binarize": "fixed"}, {"binarize": "dynamic", "perturb": 0.5}):
        data = arrays(holed(GREY), **options).load("binary", 0)
        assert np.isnan(all_of(data)).sum() == MISSING.sum()
        assert set(np.unique(all_of(data)[~np.isnan(all_of(data))])) == {0, 1}


def test_real_numbers_with_holes_are_standardised_by_those_that_are_there(arrays) -> None:
    values = np.random.default_rng(2).normal(3, 2, GREY.shape)
    data = arrays(holed(values), scale="standard").load("real", 0)
    assert data.levels is None
    train = data.train.raw.numpy()
    np.testing.assert_allclose(data.moments, (np.nanmean(train), np.nanstd(train)), rtol=1e-5)
    x = data.train[:].numpy()
    np.testing.assert_allclose((np.nanmean(x), np.nanstd(x)), (0, 1), atol=1e-5)


def test_real_numbers_without_holes_are_as_they_were(arrays) -> None:
    """Whole numbers of a floating-point type too: only NaN makes them grey levels."""
    data = arrays(GREY.astype(np.float32)).load("real", 0)
    assert (data.levels, data.holes, data.missing) == (None, False, (0, 0, 0))
    assert "missing" not in data.note


def test_new_images_follow_those_of_a_run_with_holes(arrays) -> None:
    facts = arrays(holed(GREY)).load("real", 0)
    split = new_split(holed(GREY), facts)  # grey levels, as the run's
    assert split[:].isnan().sum() == MISSING.sum()
    torch.testing.assert_close(split[:][~split[:].isnan()], (
        new_split(GREY, facts)[:][~split[:].isnan()]
    ))  # fmt: skip
    intensities = new_split(holed(GREY / 255), facts)[:].numpy()
    np.testing.assert_array_equal(intensities[:, 0], holed(GREY / 255))


def test_new_images_with_holes_for_a_run_without(arrays) -> None:
    facts = arrays(GREY).load("real", 0)
    with pytest.raises(ValueError, match=r"expected all pixels.*missing \(NaN\); fill them with"):
        new_split(holed(GREY / 255), facts)


def test_images_of_which_nothing_is_known_are_named(arrays, refused) -> None:
    values = holed(GREY)
    values[[7, 41]] = np.nan
    said = ("2 of 60 in", "images.npy have none, at index 7, 41; leave them out")
    refused(arrays(values), "real", *said)
    refused(arrays(values, memory_gib=0), "bytes", *said)
    kept = values[~np.isnan(values).reshape(len(values), -1).all(1)]  # the remedy
    assert sum(arrays(kept).load("real", 0).sizes) == 58


def test_holes_do_not_excuse_infinity_or_another_domain(arrays, refused) -> None:
    values = holed(GREY / 255)
    values[3, 0, 0] = np.inf
    refused(arrays(values), "unit", "1 of 1,200 values infinite")
    refused(arrays(holed(GREY / 255)), "bytes", "(255 * images).round(), or choose")
    refused(arrays(holed(GREY / 100)), "unit", "scale them to [0, 1]")


def test_integers_are_not_looked_at_for_holes() -> None:
    data = Arrays.of(GREY).load("bytes", 0)
    assert data.train.observed().tolist() == [20] * len(data.train)
    assert Conversion.choose(Arrays.of(GREY), "bytes", 256).levels == 256
