"""Pictures brought to one size and colour, of every format, with all of their pages."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import SPLITS, joined, noise, save_pictures, sizes, sorted_rows
from PIL import Image, ImageOps, features

from ppl_vae.data import ImageFolder
from ppl_vae.data.pictures import FIRST_SUFFIXES, suffixes

BILINEAR = Image.Resampling.BILINEAR


def mixed(folder: Path, mode: str, count: int = 12) -> list[Image.Image]:
    """Saves pictures of many sizes, and gives them."""
    rng = np.random.default_rng(0)
    pictures = []
    folder.mkdir(exist_ok=True)
    for number in range(count):
        height, width = (int(side) for side in rng.integers(5, 40, 2))
        if mode == "I;16":
            picture = Image.fromarray(rng.integers(2**16, size=(height, width)).astype(np.uint16))
        else:
            picture = Image.fromarray(noise(height, width, 3, seed=number)).convert(mode)
        picture.save(folder / f"{number}.png")
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize("memory_gib", [0, 1])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("crop", ["none", "center"])
def test_pictures_are_resized_as_pillow_does(tmp_path, mode, crop, memory_gib) -> None:
    pictures = mixed(tmp_path / "p", mode)
    data_set = ImageFolder(tmp_path / "p", size=[9, 7], crop=crop, memory_gib=memory_gib)
    domain = "unit" if mode == "I;16" else "bytes"
    data = data_set.load(domain, 0)
    expected = []
    for picture in pictures:
        picture = picture.convert("F") if mode == "I;16" else picture
        fitted = ImageOps.fit(picture, (7, 9), BILINEAR)
        small = fitted if crop == "center" else picture.resize((7, 9), BILINEAR)
        expected.append(np.asarray(small).round().reshape(9, 7, -1).transpose(2, 0, 1))
    images = joined(data) * (2**16 - 1 if mode == "I;16" else 1)
    np.testing.assert_array_equal(sorted_rows(images.round()), sorted_rows(np.array(expected)))
    assert data.image_shape == (3 if mode == "RGB" else 1, 9, 7)


def test_a_crop_keeps_circles_round(tmp_path: Path) -> None:
    """A disc in the middle of a wide picture; stretched it would be an upright ellipse."""
    y, x = np.mgrid[:60, :120] + 0.5
    disc = (np.hypot(y - 30, x - 60) < 25) * np.uint8(255)
    data_set = save_pictures(tmp_path / "p", np.array([disc, disc[::-1], disc + 0]))
    for crop, ratio in (("center", 1.0), ("none", 0.5)):
        image = joined(replace(data_set, size=(40, 40), crop=crop).load("bytes", 0))[0, 0] / 255
        across, down = image[20].sum(), image[:, 20].sum()
        assert across / down == pytest.approx(ratio, rel=0.03)


def test_resized_pictures_of_two_values_are_grey(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((20, 8, 8)) > 0.5
    data_set = save_pictures(tmp_path / "p", masks)
    assert data_set.default_domain == "binary"
    small = replace(data_set, size=[3, 3])
    assert small.default_domain == "real"
    assert small.load("real", 0).levels == 256
    same = replace(data_set, size=[8, 8])
    assert same.default_domain == "binary"
    np.testing.assert_array_equal(
        joined(same.load("binary", 0)), joined(data_set.load("binary", 0))
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "I;16"])
def test_colours_are_chosen(tmp_path: Path, mode: str) -> None:
    if mode == "RGB":
        save_pictures(tmp_path / "p", noise(9, 5, 4, 3))
    elif mode == "I;16":
        save_pictures(tmp_path / "p", noise(9, 5, 4).astype(np.uint16) * 200)
    else:
        save_pictures(tmp_path / "p", noise(9, 5, 4, 3), mode)
    pictures = [Image.open(tmp_path / "p" / f"{n:03}.png") for n in range(9)]
    for colour, channels, to in (("grey", 1, "L"), ("rgb", 3, "RGB")):
        data = ImageFolder(tmp_path / "p", colour=colour).load("unit", 0)
        assert data.image_shape == (channels, 5, 4)
        if mode == "I;16":
            expected = [np.asarray(picture)[None].repeat(channels, 0) for picture in pictures]
        else:
            arrays = [np.asarray(picture.convert(to)) for picture in pictures]
            expected = [array.reshape(5, 4, channels).transpose(2, 0, 1) for array in arrays]
        found = joined(data) * (data.levels - 1)
        np.testing.assert_array_equal(sorted_rows(found.round()), sorted_rows(np.array(expected)))


def test_deep_colours_become_grey_by_the_same_weights(tmp_path: Path) -> None:
    """Pillow cannot convert 16 bits; in the middle of each high byte both agree, up to one."""
    import struct
    import zlib

    high = noise(6, 5, 4, 3)
    (tmp_path / "p").mkdir()
    for number, image in enumerate(high):
        deep = (image.astype(">u2") * 257).tobytes()
        lines = b"".join(b"\0" + deep[24 * row : 24 * (row + 1)] for row in range(5))
        chunks = {
            b"IHDR": struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0),
            b"IDAT": zlib.compress(lines),
        }
        file = b"\x89PNG\r\n\x1a\n"
        for name, body in (chunks | {b"IEND": b""}).items():
            file += struct.pack(">I", len(body)) + name + body
            file += struct.pack(">I", zlib.crc32(name + body))
        (tmp_path / "p" / f"{number}.png").write_bytes(file)
    data = ImageFolder(tmp_path / "p", colour="grey").load("unit", 0)
    assert data.levels == 2**16
    grey = joined(data)[:, 0].reshape(6, -1) * 255
    expected = [np.asarray(Image.fromarray(image).convert("L")).ravel() for image in high]
    distance = np.abs(grey[:, None] - np.array(expected)).max(-1)
    assert sorted(distance.argmin(1)) == [*range(6)]
    assert distance.min(1).max() < 0.51


# Formats


def test_every_format_that_pillow_reads_is_read(tmp_path: Path) -> None:
    image = np.kron(noise(4, 4), np.ones((8, 8), np.uint8))
    written = {".tga", ".ppm", ".jp2", ".ico", ".pcx", ".sgi", ".dds", ".mpo", ".avif", ".qoi"}
    for suffix in written & set(Image.registered_extensions()):
        if suffix != ".avif" or features.check("avif"):
            Image.fromarray(image).convert("RGB").save(tmp_path / f"x{suffix}")
    there = list(tmp_path.iterdir())
    assert {".tga", ".ppm", ".ico"} <= {file.suffix for file in there}
    data = ImageFolder(tmp_path, size=(32, 32), colour="grey").load("bytes", 0)
    assert sum(data.sizes) == len(there)
    assert np.abs(joined(data)[:, 0] - image).mean() < 4  # some formats lose a little
    assert set(FIRST_SUFFIXES) <= set(suffixes())


def test_a_run_of_an_earlier_release_leaves_out_what_it_left_out_then(tmp_path: Path) -> None:
    data_set = save_pictures(tmp_path, noise(9, 5, 4))
    Image.fromarray(noise(5, 4)).save(tmp_path / "icon.tga")
    assert sum(data_set.load("bytes", 0).sizes) == 10
    earlier = replace(data_set, rules=2).load("bytes", 0)
    assert sum(earlier.sizes) == 9
    assert earlier.note.endswith("left out 1 .tga (icon.tga)")


@pytest.mark.parametrize("suffix", [".eps", ".png"])
def test_no_program_runs_for_a_picture(tmp_path: Path, monkeypatch, suffix: str) -> None:
    """Pillow would have Ghostscript draw an EPS file, under whatever name."""

    def run(*_, **__) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr("subprocess.check_call", run)
    monkeypatch.setattr("subprocess.Popen", run)
    save_pictures(tmp_path, noise(3, 5, 4))
    Image.fromarray(noise(5, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / f"x{suffix}")
    if suffix == ".eps":
        data = ImageFolder(tmp_path).load("bytes", 0)
        assert sum(data.sizes) == 3
        assert data.note.endswith("left out 1 .eps (x.eps)")
    else:
        with pytest.raises(ValueError, match=r"could not read .*x.png"):
            ImageFolder(tmp_path).load("bytes", 0)


# Pages


def save_stack(file: Path, pages: np.ndarray) -> None:
    first, *others = map(Image.fromarray, pages)
    first.save(file, save_all=True, append_images=others)


@pytest.mark.parametrize("memory_gib", [0, 1])
def test_all_pages_are_images_in_the_split_of_their_file(tmp_path: Path, memory_gib) -> None:
    counts = np.random.default_rng(0).integers(1, 5, 40)
    for number, count in enumerate(counts):
        pages = noise(count, 5, 4, seed=number)
        pages[:, 0, 0], pages[:, 0, 1] = number, np.arange(count)
        folder = tmp_path / "p" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        save_stack(folder / f"{number}.tif", pages)
    data_set = ImageFolder(tmp_path / "p", memory_gib=memory_gib)
    first, data = data_set.load("bytes", 0), replace(data_set, pages="all").load("bytes", 0)
    assert sum(first.sizes) == 40
    assert "further pages or frames" in first.note
    assert "further" not in data.note
    for split in SPLITS:
        images, labels = getattr(data, split)[:], getattr(data, split).labels
        files, pages = images[:, 0, 0, 0].int().tolist(), images[:, 0, 0, 1].int().tolist()
        expected = getattr(first, split)[:][:, 0, 0, 0].int().tolist()
        assert [*dict.fromkeys(files)] == expected
        assert pages == [page for file in expected for page in range(counts[file])]
        assert labels.tolist() == [file % 2 for file in files]
        # Images that stay on disk are read in any order.
        back = torch.arange(len(images)).flip(0)
        assert torch.equal(getattr(data, split)[back], images.flip(0))
    shared = replace(data_set, pages="all", stratify=True).load("bytes", 0)
    owners = [set(getattr(shared, split)[:][:, 0, 0, 0].tolist()) for split in SPLITS]
    assert [len(each) for each in owners] == [32, 4, 4]
    assert not owners[0] & owners[1] | owners[1] & owners[2] | owners[0] & owners[2]


def test_frames_of_a_gif_are_images(tmp_path: Path) -> None:
    for number in range(3):
        save_stack(tmp_path / f"{number}.gif", noise(4, 8, 8, seed=number) // 64 * 64)
    data = ImageFolder(tmp_path, pages="all", colour="grey").load("bytes", 0)
    assert sizes(data) == (4, 4, 4)
    expected = np.concatenate([noise(4, 8, 8, seed=number) // 64 * 64 for number in range(3)])
    np.testing.assert_array_equal(sorted_rows(joined(data)), sorted_rows(expected))


# Bad input


def test_images_of_many_sizes_are_told_how_to_be_one(tmp_path: Path, refused) -> None:
    pictures = mixed(tmp_path / "p", "L")
    width, height = pictures[0].size
    said = f"resize them, as with --data.size '[{height}, {width}]' (height and width)"
    refused(ImageFolder(tmp_path / "p"), "bytes", "expected images of one size", said)
    remedied = ImageFolder(tmp_path / "p", size=[height, width]).load("bytes", 0)
    assert remedied.image_shape == (1, height, width)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": [8]}, "expected --data.size as height and width, as '[64, 64]'; got [8]"),
        ({"size": [8, 8, 3]}, "as height and width, as '[64, 64]'; got [8, 8, 3]"),
        ({"size": [8, 0]}, "expected --data.size of sizes >= 1"),
        ({"size": "8"}, "expected --data.size as a list of whole numbers"),
        ({"crop": "center"}, "--data.crop center: expected --data.size too"),
        ({"crop": "left", "size": [8, 8]}, "expected --data.crop of none, center; got 'left'"),
        ({"colour": "blue"}, "expected --data.colour of auto, grey, rgb; got 'blue'"),
        ({"pages": 3}, "expected --data.pages of first, all; got 3"),
        ({"validation": 3}, "expected --data.validation as a path; got 3"),
        ({"stratify": 1}, "expected --data.stratify of True, False; got 1"),
    ],
)
def test_wrong_options(options, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        ImageFolder(Path("p"), **options)
