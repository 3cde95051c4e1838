"""New images become what the data set of a run makes of them, or are refused in one line."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_images import noise, save_pictures
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae.data import Facts, new_split
from ppl_vae.errors import InputError

GREY = noise(20, 6, 5)
FACTS = Facts(
    name="Own",
    domain="binary",
    image_shape=(1, 6, 5),
    levels=256,
    binarize="dynamic",
    dequantize="none",
    class_names=None,
)
BITS = replace(FACTS, levels=2, binarize="none")
UNIT = replace(FACTS, domain="unit", binarize="none")
BYTES = replace(FACTS, domain="bytes", binarize="none")
REAL = replace(FACTS, domain="real", binarize="none", dequantize="uniform")
FLOATS = replace(FACTS, domain="real", binarize="none", levels=None)
DEEP = replace(REAL, levels=2**12)
COLOUR = replace(UNIT, image_shape=(3, 6, 5))


def pictures(folder: Path, images: np.ndarray = GREY) -> list[Path]:
    save_pictures(folder, images)
    return sorted(folder.glob("*.png"))


def stored_in(tmp_path: Path) -> dict[str, Any]:
    """The same images as everything that they may be given as."""
    paths = pictures(tmp_path / "pictures")
    return {
        "array": GREY,
        "with channels": GREY[:, None],
        "wide integers": GREY.astype(np.int64),
        "tensor": torch.from_numpy(GREY),
        "list of arrays": [*GREY],
        "list of tensors": [*torch.from_numpy(GREY)],
        "paths": paths,
        "names": [str(path) for path in paths],
        "opened": [Image.open(path) for path in paths],
        "made": [Image.fromarray(image) for image in GREY],
        "mixed": [paths[0], *(Image.fromarray(image) for image in GREY[1:])],
    }


@pytest.mark.parametrize("facts", [FACTS, UNIT, BYTES, REAL], ids=lambda facts: facts.domain)
def test_whatever_holds_the_images_they_are_the_same(tmp_path: Path, facts: Facts) -> None:
    splits = {name: new_split(each, facts) for name, each in stored_in(tmp_path).items()}
    expected = splits["array"][:]
    for name, split in splits.items():
        assert torch.equal(split[:], expected), name
        assert torch.equal(split[:], split[:]), name  # the noise was drawn once
    assert splits["array"].names is None
    assert splits["paths"].names is not None
    assert splits["paths"].names[3].endswith(b"003.png")


@pytest.mark.parametrize(
    ("facts", "exact"),
    [
        (UNIT, GREY / np.float32(255)),
        (BYTES, GREY),
        (replace(FACTS, binarize="threshold"), GREY >= 128),
        (replace(REAL, dequantize="none"), GREY / np.float32(255)),
        (replace(BYTES, levels=17), (GREY // 16).astype(np.float32) * 255 / 16),
    ],
)
def test_grey_levels_reach_the_domain_by_their_formula(facts: Facts, exact: np.ndarray) -> None:
    images = GREY // 16 if facts.levels == 17 else GREY
    expected = np.round(exact) if facts.domain == "bytes" else exact
    np.testing.assert_array_equal(new_split(images, facts)[:].numpy()[:, 0], expected)


def test_the_noise_is_that_of_the_formula() -> None:
    dequantised = new_split(GREY, REAL)[:].numpy()[:, 0]
    np.testing.assert_array_equal(np.floor(256 * dequantised), GREY)
    many = np.full((4000, 6, 5), 64, np.uint8)
    drawn = new_split(many, FACTS)[:]
    assert set(drawn.unique().tolist()) == {0, 1}
    probability, error = 64 / 255, (64 / 255 * 191 / 255 / drawn.numel()) ** 0.5
    assert abs(drawn.mean().item() - probability) < 4 * error


def test_pictures_count_by_their_intensity(tmp_path: Path) -> None:
    """A run on 17 levels takes pictures of 256 where their intensity is what counts."""
    paths = pictures(tmp_path / "eight")
    for levels in (17, None):
        unit = new_split(paths, replace(UNIT, levels=levels))[:].numpy()[:, 0]
        np.testing.assert_array_equal(unit, GREY / np.float32(255))
        drawn = new_split(paths, replace(FACTS, levels=levels))
        assert torch.equal(drawn[:], new_split(GREY, FACTS)[:])
    wide = noise(3, 6, 5).astype(np.uint16) * 256 + 7
    sixteen = pictures(tmp_path / "sixteen", wide)
    for given in (sixteen, [Image.open(path) for path in sixteen]):
        unit = new_split(given, UNIT)[:].numpy()[:, 0]
        np.testing.assert_array_equal(unit, wide / np.float32(65535))
    twelve = pictures(tmp_path / "twelve", wide // 16)
    exact = new_split(twelve, DEEP)[:].numpy()[:, 0]
    np.testing.assert_array_equal(np.floor(4096 * exact), wide // 16)


def test_pictures_are_read_as_those_of_a_folder_are(tmp_path: Path) -> None:
    """Upright, laid over white, grey from colour and colour from grey."""
    rgb = noise(4, 6, 5, 3)
    paths = pictures(tmp_path / "colour", rgb)
    images = new_split(paths, COLOUR)[:].numpy()
    np.testing.assert_array_equal(images, rgb.transpose(0, 3, 1, 2) / np.float32(255))
    grey = np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in rgb])
    np.testing.assert_array_equal(new_split(paths, UNIT)[:].numpy()[:, 0], grey / np.float32(255))
    as_colour = new_split(pictures(tmp_path / "grey"), COLOUR)[:]
    assert torch.equal(as_colour, new_split(GREY, UNIT)[:].expand(-1, 3, -1, -1))
    clear = Image.new("RGBA", (5, 6), (0, 0, 0, 0))
    assert (new_split(clear, UNIT)[:] == 1).all()
    lying = Image.fromarray(GREY[0].T)
    exif = lying.getexif()
    exif[0x0112] = 5  # rows and columns are swapped
    lying.save(tmp_path / "lying.png", exif=exif)
    for given in (tmp_path / "lying.png", Image.open(tmp_path / "lying.png")):
        assert torch.equal(new_split(given, UNIT)[:], new_split(GREY[0], UNIT)[:])


def test_images_of_two_values() -> None:
    bits = GREY > 99
    for given in (bits, bits.astype(np.uint8), bits.astype(np.float32), torch.from_numpy(bits)):
        assert torch.equal(new_split(given, BITS)[:, :], torch.from_numpy(bits[:, None]).float())
    black_and_white = [Image.fromarray(each) for each in bits]
    assert torch.equal(new_split(black_and_white, BITS)[:], new_split(bits, BITS)[:])
    # They are what they are for a run that draws 0 or 1 from grey levels.
    assert torch.equal(new_split(bits, FACTS)[:], new_split(bits, BITS)[:])


def test_floating_point_values_are_taken_as_they_are() -> None:
    values = (GREY / 255).astype(np.float32)
    for facts in (UNIT, REAL, FLOATS):
        assert new_split(values, facts)[:].numpy()[:, 0].tolist() == values.tolist()
    bits = values.round()
    assert torch.equal(new_split(bits, FACTS)[:], torch.from_numpy(bits)[:, None])
    whole = GREY.astype(np.float64)
    assert new_split(whole, BYTES)[:].numpy()[:, 0].tolist() == whole.tolist()
    far = 100 * values - 50
    assert new_split(far, FLOATS)[:].numpy()[:, 0].tolist() == far.tolist()
    standard = replace(FLOATS, scale="standard", moments=(2.0, 4.0))
    np.testing.assert_allclose(new_split(far, standard)[:].numpy()[:, 0], (far - 2) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("image", "facts", "shape"),
    [
        (GREY[0], UNIT, (1, 1, 6, 5)),
        (GREY[:1], UNIT, (1, 1, 6, 5)),
        (GREY, UNIT, (20, 1, 6, 5)),
        (noise(3, 6, 5), COLOUR, (1, 3, 6, 5)),
        (noise(2, 3, 6, 5), COLOUR, (2, 3, 6, 5)),
        (Image.fromarray(GREY[0]), UNIT, (1, 1, 6, 5)),
    ],
)
def test_axes_that_are_left_out(image: Any, facts: Facts, shape: tuple[int, ...]) -> None:
    assert tuple(new_split(image, facts)[:].shape) == shape


REFUSED: dict[str, tuple[Any, Facts, str]] = {
    "levels": (GREY, replace(FACTS, levels=17), "0 to 16, as the run's data have; got whole"),
    "below": (GREY.astype(int) - 300, FACTS, "got negative ones; no grey level is below 0"),
    "0 and 255": (255 * (GREY > 9), BITS, "choose a threshold, as with images > 127"),
    "0 and 1": ((GREY > 9) * 1, FACTS, "truth values with images.astype(bool)"),
    "whole": (GREY, FLOATS, "expected floating-point values such as those of the run's data"),
    "truth": (GREY > 9, UNIT, "truth values are binary images, and the run's are unit images"),
    "fractions": (GREY / 255, FACTS, "with (images * 255).round().astype(int)"),
    "large": (GREY / 1.0, FACTS, "or 0 and 1 alone of a floating-point type; got floating"),
    "unit": (GREY / 1.0, UNIT, "or values between 0 and 1 of a floating-point type; got"),
    "real": (GREY / 1.0, REAL, "with images.round().astype(int)"),
    "bytes": (GREY / 255, BYTES, "or whole numbers of 0 to 255 of a floating-point type"),
    "not finite": (
        np.full((6, 5), np.inf),
        FLOATS,
        "expected finite values; 30 of 30 are infinite",
    ),
    "missing": (GREY * np.nan, FACTS, "fill them with ppl_vae.restore --corruption Masked"),
    "negative floats": (GREY / -2.0, UNIT, "no grey level is below 0"),
    "grey floats of bits": (GREY / 255, BITS, "as with images > 0.5"),
    "of fewer levels": (GREY / 1.0, replace(UNIT, levels=17), "(images * (16 / 255)).round()"),
    "nothing": (None, FACTS, "or paths of picture files; got None"),
    "a loader": (DataLoader(TensorDataset(torch.from_numpy(GREY))), FACTS, "give its .dataset"),
    "size": (GREY[:, 1:], FACTS, "expected images of 1 x 6 x 5 (channels, height, width)"),
    "last": (noise(2, 6, 5, 3), COLOUR, "transpose them with images.transpose(0, 3, 1, 2)"),
    "colour": (noise(2, 3, 6, 5), FACTS, "make them of 1 channel"),
    "several": ([GREY[0], GREY[1, 1:]], FACTS, "expected images of one shape; got several"),
    "text": (np.array([["a"]]), FACTS, "expected an array or a tensor of numbers, pictures"),
    "none": ([], FACTS, "expected at least one image; got none"),
    "no images": (GREY[:0], FACTS, "got (0, 1, 6, 5)"),
    "no file": ("nothing.png", FACTS, "expected a picture file at nothing.png; there is none"),
    "folder": (".", FACTS, "there is a folder; name a file, or give ImageFolder(path=...)"),
    "no picture": (__file__, FACTS, "it is damaged or no image"),
    "picture size": (Image.fromarray(GREY[0, 1:]), FACTS, "of 5 x 6 pixels, as the run's are;"),
    "mixed": ([Image.fromarray(GREY[0]), GREY[1]], FACTS, "got ndarray among them"),
    "greys": (Image.fromarray(GREY[0]), BITS, "expected pictures of black and white alone"),
    "256 of 17": (Image.fromarray(GREY[0]), replace(REAL, levels=17), "the run's data 17; give"),
    "256 of bytes": (Image.fromarray(GREY[0]), replace(BYTES, levels=17), "of 0 to 16"),
    "256 of 4096": (Image.fromarray(GREY[0]), DEEP, "256 grey levels and the run's data 4,096"),
    "256 of none": (Image.fromarray(GREY[0]), FLOATS, "256 grey levels and the run's data none"),
    "deep": (Image.fromarray(GREY[0].astype(np.int32)), REAL, "a picture has 65,536 grey levels"),
    "too deep": (Image.fromarray(GREY[0].astype(np.int32) * 99), DEEP, "of 0 to 4,095; got"),
    "depths": (
        [Image.fromarray(GREY[0]), Image.fromarray(GREY[0].astype(np.int32))],
        UNIT,
        "all of 8 bits or all of 16",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_runs_data_could_not_have_is_refused(kind: str) -> None:
    images, facts, said = REFUSED[kind]
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        new_split(images, facts)
    assert "\n" not in str(caught.value)


def test_labels_by_number_and_by_name() -> None:
    named = replace(FACTS, class_names=("cat", "dog"))
    for labels in (["dog", "cat"], [1, 0], np.array([1, 0]), torch.tensor([1, 0])):
        assert new_split(GREY[:2], named, labels).labels.tolist() == [1, 0]
    assert new_split(GREY[:2], named, [-1, 1]).labels.tolist() == [-1, 1]
    assert new_split(GREY[0], named, "dog").labels.tolist() == [1]
    for labels, said in (
        (["bird"], "expected one of cat, dog; got bird"),
        ([-2], "expected labels of 0, 1, ..., or -1 for none; got -2"),
        ([0.5], "the number of its class or its name; got labels of float64"),
        ([0.5, 1], "one label for each of 1 images, the number"),
    ):
        with pytest.raises(InputError, match=re.escape(said)) as caught:
            new_split(GREY[0], named, labels)
        assert "--" not in str(caught.value)
    with pytest.raises(InputError, match=r"^labels: expected the number of a class, since they"):
        new_split(GREY[0], FACTS, "dog")


@pytest.mark.parametrize("kind", ["array", "tensor", "list", "paths"])
def test_images_with_their_labels_as_a_pair(tmp_path: Path, kind: str) -> None:
    held = {"array": GREY, "tensor": torch.from_numpy(GREY), "list": [*GREY]}
    images = held[kind] if kind in held else pictures(tmp_path)
    labels = np.arange(20) % 3
    for given in (labels, labels.tolist(), torch.from_numpy(labels)):
        split = new_split((images, given), FACTS)
        assert torch.equal(split[:], new_split(GREY, FACTS)[:])
        assert split.labels.tolist() == labels.tolist()
    assert new_split((images, None), FACTS).labels is None
    with pytest.raises(InputError, match="expected labels once"):
        new_split((images, labels), FACTS, labels)


def test_two_images_are_no_pair() -> None:
    assert torch.equal(new_split((GREY[0], GREY[1]), FACTS)[:], new_split(GREY[:2], FACTS)[:])
    image, label = GREY[0], 2
    assert new_split((image, label), FACTS).labels.tolist() == [2]


def test_a_data_set_of_torch() -> None:
    labels = torch.arange(20) % 3
    split = new_split(TensorDataset(torch.from_numpy(GREY), labels), FACTS)
    assert torch.equal(split[:], new_split(GREY, FACTS)[:])
    assert torch.equal(split.labels, labels)
