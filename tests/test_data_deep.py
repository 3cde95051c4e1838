"""Grey levels of more than eight bits, in arrays and pictures: all bits are kept."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from own_images import COUNT, MASKS, all_of, joined, sane, save_pictures, sorted_rows
from PIL import Image

from ppl_vae.data import Arrays, ImageFolder


@pytest.mark.parametrize("memory_gib", [0, 1])
@pytest.mark.parametrize("dtype", [np.uint16, np.int64, ">u2"])
@pytest.mark.parametrize(
    ("most", "levels"),
    [(200, 256), (1000, 1024), (1024, 4096), (4095, 4096), (16_000, 16_384), (65_535, 65_536)],
)
def test_deep_arrays_are_scaled_by_what_they_hold(arrays, dtype, most, levels, memory_gib) -> None:
    images = np.random.default_rng(0).integers(most, size=(COUNT, 5, 4), dtype=np.int64)
    images[0, 0, 0] = most
    data_set = arrays(images.astype(dtype), memory_gib=memory_gib)
    unit = data_set.load("unit", 0)
    np.testing.assert_allclose(all_of(unit)[:, 0], images / (levels - 1), rtol=1e-6)
    real = data_set.load("real", 0)
    np.testing.assert_array_equal(np.floor(all_of(real)[:, 0].astype(float) * levels), images)
    assert real.levels == unit.levels == levels
    assert f"{levels:,} grey levels".replace(",", "") in real.reference_measure
    deep = f"grey levels of {levels.bit_length() - 1} bits (the largest is {most:,})"
    assert (deep in real.note) == (levels > 256)


@pytest.mark.parametrize("values", [(-5, 100), (0, 65_536), (0, 2**40)])
def test_other_integers_are_refused_and_read_as_real_numbers(arrays, refused, values) -> None:
    images = np.random.default_rng(0).integers(*values, size=(COUNT, 5, 4))
    images[3, 2, 1:3] = values
    said = "numpy.save(FILE, images.astype('float32')), for --data Arrays --data.scale standard"
    refused(arrays(images), "real", "expected grey levels of 0 to 65,535", said)
    data = arrays(images.astype("float32")).load("real", 0)
    np.testing.assert_array_equal(all_of(data)[:, 0], images.astype(np.float32))
    assert data.note.endswith("add --data.scale standard")
    assert sane(arrays(images.astype("float32"), scale="standard"))


def test_pictures_of_more_than_sixteen_bits(arrays, refused, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(650_000, size=(COUNT, 5, 4), dtype=np.int32)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:03}.tif")
    said = "numpy.save(FILE, images.astype('float32')), for --data Arrays --data.scale standard"
    refused(ImageFolder(path=tmp_path), "real", said)
    assert sane(arrays(images.astype("float32"), scale="standard"))


def test_deep_images_do_not_fit_bytes(arrays, refused) -> None:
    images = np.arange(3 * 20, dtype=np.uint16).reshape(3, 4, 5) * 50
    refused(arrays(images), "bytes", "the 4,096 grey levels of Arrays; choose --likelihood Gaus")
    assert arrays(images).load("real", 0).levels == 4096


def write_deep_png(path: Path, pixels: np.ndarray, kind: int) -> None:
    """A PNG of 16 bits, (H, W, C), every line filtered by its neighbours to the left."""
    height, width, channels = pixels.shape
    lines = pixels.astype(">u2").view(np.uint8).reshape(height, 2 * channels * width)
    left = np.pad(lines, ((0, 0), (2 * channels, 0)))[:, : lines.shape[1]]
    filtered = b"".join(b"\1" + line.tobytes() for line in lines - left)

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checked)

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(filtered))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("most", [4095, 65_535])
def test_deep_pngs_keep_all_their_bits(tmp_path: Path, kind, channels, most) -> None:
    """Grey, colour, and both with transparency over white."""
    shape = (COUNT, 5, 4, channels)
    images = np.random.default_rng(0).integers(most + 1, size=shape, dtype=np.uint16)
    if channels in (2, 4):
        images[..., -1] = np.where(MASKS, 65_535, 0)
    for number, image in enumerate(images):
        write_deep_png(tmp_path / f"{number:03}.png", image, kind)
    colours = images[..., : 3 if kind in (2, 6) else 1].astype(float)
    if channels in (2, 4):
        colours = np.where(MASKS[..., None], colours, 65_535)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    levels = 4096 if colours.max() < 4096 else 65_536
    assert data.levels == levels
    assert f"grey levels of {levels.bit_length() - 1} bits" in data.note
    expected = colours.transpose(0, 3, 1, 2) / (levels - 1)
    np.testing.assert_allclose(sorted_rows(joined(data)), sorted_rows(expected), rtol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_tiffs_keep_all_their_bits(tmp_path: Path, order: str) -> None:
    images = np.random.default_rng(0).integers(4096, size=(COUNT, 5, 4, 3), dtype=np.uint16)
    for number, image in enumerate(images):
        entries = [
            (256, 3, 1, 4), (257, 3, 1, 5), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, 200), (277, 3, 1, 3), (278, 3, 1, 5), (279, 4, 1, image.nbytes),
        ]  # fmt: skip
        head = struct.pack(f"{order}2sHI3H", b"II" if order == "<" else b"MM", 42, 14, 16, 16, 16)
        head += struct.pack(f"{order}H", len(entries))
        for tag, kind, count, value in entries:
            short = kind == 3 and count == 1
            head += struct.pack(f"{order}HHI", tag, kind, count)
            head += struct.pack(f"{order}{'HH' if short else 'I'}", value, *([0] * short))
        content = head.ljust(200, b"\0") + image.astype(f"{order}u2").tobytes()
        (tmp_path / f"{number:03}.tif").write_bytes(content)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    expected = images.transpose(0, 3, 1, 2) / 4095
    np.testing.assert_allclose(sorted_rows(joined(data)), sorted_rows(expected), rtol=1e-6)


def test_pictures_of_eight_and_of_sixteen_bits(refused, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(65_536, size=(COUNT, 5, 4), dtype=np.uint16)
    save_pictures(tmp_path / "both", deep)
    shallow = Image.fromarray((deep[7] // 257).astype(np.uint8))
    shallow.save(tmp_path / "both" / "007.png")
    data_set = ImageFolder(path=tmp_path / "both")
    refused(data_set, "real", "007.png of 8", "000.png of 16; save them alike")
    for file in (tmp_path / "both").iterdir():
        shallow.save(file)
    assert data_set.load("unit", 0).levels == 256


def test_pictures_of_floating_point_numbers(refused, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(COUNT, 5, 4)).astype(np.float32)
    data_set = save_pictures(tmp_path / "floats", images, suffix="tif")
    refused(data_set, "real", "one float32 array with numpy.save, for --data Arrays")
    files = sorted((tmp_path / "floats").iterdir())
    np.save(tmp_path / "images.npy", np.array([np.asarray(Image.open(file)) for file in files]))
    data = Arrays(path=tmp_path / "images.npy").load("real", 0)
    np.testing.assert_array_equal(all_of(data)[:, 0], images)
