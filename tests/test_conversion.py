"""Every conversion from stored images to a domain, against NumPy."""

import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from own_images import SPLITS

from models import DOMAINS
from ppl_vae.data import Conversion, DataSet, Digits, Images, Source
from ppl_vae.data.conversion import EVALUATION_SEED, bernoulli_draw, dequantised


@dataclass(frozen=True)
class Grey(DataSet):
    """Random images with a number of levels, or floating-point ones where that is 0."""

    levels: int = 256
    count: int = 12
    default_domain = "binary"

    def source(self):
        generator = torch.Generator().manual_seed(3)
        shape = (self.count, 1, 4, 5)
        if self.levels:
            pixels = torch.randint(self.levels, shape, generator=generator, dtype=torch.uint8)
        else:
            pixels = torch.rand(shape, generator=generator)
        images = Images(pixels, torch.arange(self.count))
        third = self.count // 3
        return Source(images[:third], images[third : 2 * third], images[2 * third :])

    def load(self, domain, seed):
        return Conversion.choose(self, domain, self.levels or None)(self.source(), seed)


def numpy_image(split: str, data_set: Grey) -> np.ndarray:
    return getattr(data_set.source(), split).pixels.numpy()


FORMULAS = {
    "unit": ({}, lambda v, top: v / np.float32(top)),
    "real": ({"dequantize": "none"}, lambda v, top: v / np.float32(top)),
    "bytes": ({}, lambda v, top: np.round(v.astype(np.float64) * 255 / top)),
    "binary": ({"binarize": "threshold"}, lambda v, top: v / top >= 0.5),
}


@pytest.mark.parametrize("domain", FORMULAS)
@pytest.mark.parametrize("levels", [256, 17, 5, 0])
def test_values_are_those_of_the_formula(domain, levels):
    """Floating-point values, which have no levels, stay as they are or are cut at one half."""
    if domain == "bytes" and not levels:
        return
    options, formula = FORMULAS[domain]
    data_set = Grey(levels=levels, **options)
    data = data_set.load(domain, 0)
    for split in SPLITS:
        got = getattr(data, split)
        assert (got.raw.dtype == torch.uint8) == (levels > 0 or domain == "binary")
        assert got[:].dtype == torch.float32
        expected = formula(numpy_image(split, data_set), max(1, levels - 1))
        np.testing.assert_array_equal(got[:].numpy(), expected)


def test_threshold_at_every_level():
    for levels in (2, 3, 16, 17, 255, 256):
        grey = np.arange(levels)
        np.testing.assert_array_equal(grey >= levels // 2, grey / (levels - 1) >= 0.5)


@pytest.mark.parametrize("levels", [256, 17])
def test_dequantised_lies_in_its_level(levels):
    data_set = Grey(levels=levels)
    data = data_set.load("real", 0)
    for split in SPLITS:
        got = getattr(data, split)[:].double().numpy()
        np.testing.assert_array_equal(np.floor(got * levels), numpy_image(split, data_set))
        assert got.min() >= 0
        assert got.max() < 1


@pytest.mark.parametrize("binarize", ["auto", "none"])
def test_binary_images_stay_as_they_are(binarize):
    data_set = Grey(levels=2, binarize=binarize)
    data = data_set.load("binary", 0)
    assert data.binarize == "none"
    for split in SPLITS:
        got = getattr(data, split)[:].numpy()
        np.testing.assert_array_equal(got, numpy_image(split, data_set))


def test_evaluation_draws_against_numpy():
    """Over several chunks: the noise is the stated seed's, cut at the intensity."""
    data_set = Grey(count=3 * 4096 + 300)
    data = data_set.load("binary", 0)
    for number, split in enumerate(("validation", "test")):
        generator = torch.Generator().manual_seed(EVALUATION_SEED + number)
        grey = getattr(data_set.source(), split).pixels
        noise = torch.cat([torch.rand(c.shape, generator=generator) for c in grey.split(4096)])
        expected = noise.numpy() < grey.numpy() / np.float32(255)
        np.testing.assert_array_equal(getattr(data, split).raw.numpy(), expected)


@pytest.mark.parametrize("levels", [256, 17])
def test_dynamic_draws_have_the_intensities_as_means(levels):
    grey = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    draws = 4_000
    x = bernoulli_draw(grey.expand(draws, 1, 1, levels), levels - 1).double().numpy()
    assert set(np.unique(x)) == {0.0, 1.0}
    p = np.arange(levels) / (levels - 1)
    error = x.mean(0).ravel() - p
    standard_error = np.sqrt(p * (1 - p) / draws)
    assert (np.abs(error) <= 5 * standard_error).all()
    inner = standard_error > 0
    z = error[inner] / standard_error[inner]
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / inner.sum())


def test_dequantisation_noise_is_uniform():
    count = 100_000
    u = (dequantised(torch.full((count,), 255, dtype=torch.uint8), 256) * 256).double() - 255
    assert abs(u.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / count)
    assert abs(u.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / count)
    assert u.min() >= 0
    assert u.max() < 1


@pytest.mark.parametrize(
    ("domain", "options"),
    [("binary", {}), ("binary", {"binarize": "fixed"}), ("real", {}), ("real", {"levels": 17})],
)
def test_validation_and_test_never_change(domain, options):
    data_set = Grey(**options)
    first, second = data_set.load(domain, 0), data_set.load(domain, 1)
    for split in ("validation", "test"):
        one, other = getattr(first, split), getattr(second, split)
        assert torch.equal(one[:], other[:])
        assert torch.equal(one[:], one[:])
        assert torch.equal(one[[2, 0]], one[:][[2, 0]])
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(first.validation[:4], first.test[:4])


def test_fixed_changes_with_the_seed_only():
    data_set = Grey(binarize="fixed")
    zero, again, one = (data_set.load("binary", seed).train for seed in (0, 0, 1))
    assert zero.raw.dtype == torch.uint8
    assert torch.equal(zero[:], zero[:])
    assert torch.equal(zero[:], again[:])
    assert not torch.equal(zero[:], one[:])


@pytest.mark.parametrize("domain", ["binary", "real"])
def test_training_noise_is_fresh_and_from_the_global_generator(domain):
    train = Grey().load(domain, 0).train
    first, second = train[:], train[:]
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    one = train[:]
    torch.manual_seed(0)
    assert torch.equal(one, train[:])


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("data_set", [Digits(), Grey(), Grey(levels=17)])
def test_loading_leaves_the_global_generator_alone(domain, data_set):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data_set.load(domain, 0)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


def test_moving_moves_images_and_labels():
    data = Grey().load("unit", 0).to("meta")
    for split in SPLITS:
        assert getattr(data, split).raw.device.type == "meta"
        assert getattr(data, split).labels.device.type == "meta"
        assert getattr(data, split)[:2].device.type == "meta"


@pytest.mark.parametrize(
    ("data_set", "domain", "measure", "said"),
    [
        (Grey(), "binary", "counting measure on {0, 1}", "binarize dynamic (auto)"),
        (Grey(binarize="fixed"), "binary", "counting measure on {0, 1}", "binarize fixed, 4 / 4"),
        (Grey(), "bytes", "counting measure on {0, ..., 255}", "bytes data, 4 / 4 / 4"),
        (
            Grey(),
            "real",
            "Lebesgue measure on [0, 1], 256 grey levels dequantised with uniform noise",
            "dequantize uniform (auto)",
        ),
        (
            Grey(dequantize="none", levels=17),
            "real",
            "Lebesgue measure on the real line, 17 grey levels scaled to [0, 1] and not "
            "dequantised",
            "dequantize none, 4 / 4 / 4",
        ),
        (
            Grey(),
            "unit",
            "Lebesgue measure on [0, 1], 256 grey levels scaled to [0, 1] and not dequantised",
            "unit data, 4 / 4 / 4",
        ),
        (
            Grey(levels=0),
            "real",
            "Lebesgue measure on the real line, floating-point values as they are",
            "dequantize none (auto)",
        ),
    ],
)
def test_measure_and_note_say_what_was_done(data_set, domain, measure, said):
    data = data_set.load(domain, 0)
    assert data.reference_measure == measure
    assert said in data.note
    assert "\n" not in data.note
    assert data.levels == (data_set.levels or None)
    assert (data.name, data.domain, data.image_shape) == ("Grey", domain, (1, 4, 5))


def test_auto_is_none_where_the_images_are_not_drawn():
    """Only data that is binary by default is binarised unasked."""
    for domain in ("unit", "bytes", "real"):
        assert Grey().load(domain, 0).binarize == "none"
    assert replace(Grey(), binarize="fixed").load("binary", 0).binarize == "fixed"
    assert Digits().load("binary", 0).binarize == "dynamic"


def test_importing_loads_no_reader():
    code = (
        "import sys, ppl_vae.data;"
        "print([m for m in ('torchvision', 'sklearn', 'scipy', 'PIL', 'matplotlib')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
