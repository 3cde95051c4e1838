"""A user's own pictures and arrays."""

import numpy as np
import pytest
import torch
from own_images import SPLITS, all_of, joined, noise, save_pictures, sizes
from PIL import Image

from ppl_vae.data import Arrays, ImageFolder
from ppl_vae.data.source import fixed_order, split_by_name


@pytest.mark.parametrize("suffix", ["png", "bmp", "pgm", "tif", "PNG"])
def test_flat_folder_of_grey_images(tmp_path, suffix):
    images = noise(20, 4, 5)
    save_pictures(tmp_path, images, suffix=suffix)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    data = ImageFolder(path=tmp_path).load("bytes", 0)
    assert data.image_shape == (1, 4, 5)
    places = split_by_name([f"{number:03}.{suffix}".encode() for number in range(20)])
    for split, rows in zip(SPLITS, places, strict=True):
        np.testing.assert_array_equal(getattr(data, split).raw[:, 0], images[rows.numpy()])
    assert data.train.labels is None
    assert data.class_names is None
    assert data.note.endswith("in memory; left out 1 hidden (.hidden.png), 1 .txt (notes.txt)")


def test_folders_are_labels(tmp_path):
    cats = noise(4, 4, 5, 3)
    save_pictures(tmp_path / "cats", cats)
    save_pictures(tmp_path / "dogs" / "small", noise(6, 4, 5))
    data = ImageFolder(path=tmp_path).load("bytes", 0)
    assert data.image_shape == (3, 4, 5)
    assert data.class_names == ("cats", "dogs")
    names = [*(f"cats/{n:03}.png" for n in range(4)), *(f"dogs/small/{n:03}.png" for n in range(6))]
    places = torch.cat(split_by_name([name.encode() for name in names]))
    labels = torch.cat([getattr(data, split).labels for split in SPLITS])
    assert torch.equal(labels, (places >= 4).long())
    first = joined(data)[int((places == 0).nonzero())]
    np.testing.assert_array_equal(first, cats[0].transpose(2, 0, 1))
    assert data.note.endswith("; classes cats 4, dogs 6")


def test_folder_with_other_modes(tmp_path):
    """Palettes of grey are grey, bits are 0 and 255, transparency is white, turned is upright."""
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    palette = Image.fromarray(grey).convert("P")
    palette.save(tmp_path / "0.png")
    Image.fromarray(grey > 9).save(tmp_path / "1.png")
    alpha = np.stack([grey, np.where(grey > 9, 255, 0).astype(np.uint8)], -1)
    Image.fromarray(alpha).save(tmp_path / "2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(grey).copy()).save(tmp_path / "3.png", exif=exif)
    data = ImageFolder(path=tmp_path).load("bytes", 0)
    assert data.image_shape == (1, 4, 5)
    places = torch.cat(split_by_name([b"%d.png" % number for number in range(4)]))
    zero, one, two, three = joined(data)[places.argsort(), 0]
    np.testing.assert_array_equal(zero, grey)
    np.testing.assert_array_equal(one, np.where(grey > 9, 255, 0))
    np.testing.assert_array_equal(two, np.where(grey > 9, grey, 255))
    np.testing.assert_array_equal(three, grey)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(20, 4, 5), (20, 3, 4, 5)])
def test_arrays(tmp_path, dtype, shape):
    stored = np.random.default_rng(0).random(shape)
    stored = stored > 0.5 if dtype is bool else (stored * (200 if dtype == np.uint8 else 1))
    stored = stored.astype(dtype)
    np.save(tmp_path / "images.npy", np.asfortranarray(stored))
    np.savez(tmp_path / "images.npz", images=stored, labels=np.arange(20, dtype=np.int16))
    domain = "binary" if dtype is bool else "real"
    for name in ("images.npy", "images.npz"):
        data_set = Arrays(path=tmp_path / name, dequantize="none")
        assert data_set.default_domain == domain
        data = data_set.load(domain, 0)
        assert sizes(data) == (16, 2, 2)
        expected = stored.astype(np.float32) / np.float32(255 if dtype == np.uint8 else 1)
        np.testing.assert_array_equal(all_of(data).reshape(shape), expected)
        assert data.levels == {bool: 2, np.uint8: 256}.get(dtype)
    assert torch.equal(data.test.labels, fixed_order(20)[:2])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 1, 0, 1], "classes 0 2, 1 3"),
        ([4, 3, -1, 3, 3], "classes 3 3, 4 1; 1 unlabeled"),
        ([-1] * 5, "5 unlabeled"),
        ([True, False] * 2 + [True], "classes 0 2, 1 3"),
    ],
)
def test_the_first_line_lists_the_classes_of_an_array(tmp_path, labels, said):
    pixels = np.random.default_rng(0).integers(256, size=(5, 5, 4), dtype=np.uint8)
    path = tmp_path / "images.npz"
    np.savez(path, images=pixels, labels=np.array(labels), names=np.zeros(3))
    assert Arrays(path=path).load("real", 0).note.endswith(f"in memory; {said}; left out names")
    np.savez(path, images=pixels)
    assert "classes" not in Arrays(path=path).load("real", 0).note


def test_float_arrays_can_be_binarised(tmp_path):
    np.save(tmp_path / "images.npy", np.full((400, 4, 5), 0.25, dtype=np.float32))
    data = Arrays(path=tmp_path / "images.npy", binarize="dynamic").load("binary", 0)
    x = data.train[:]
    assert abs(x.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.numel())
