"""Bad files of one's own, and of Frey Face: one line that names the file and the remedy."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_images import noise, save_pictures

from ppl_vae.data import Arrays, DataSet, FreyFace, ImageFolder
from ppl_vae.errors import InputError

GREY = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
REAL = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)


def npz(folder: Path, **arrays: np.ndarray) -> Arrays:
    np.savez(folder / "images.npz", **arrays)
    return Arrays(path=folder / "images.npz")


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def matrix(folder: Path, **arrays: np.ndarray) -> FreyFace:
    from scipy.io import savemat

    savemat(folder / "frey_rawface.mat", arrays)
    return FreyFace(root=folder)


def frey_face(content: bytes) -> Callable[[Path], FreyFace]:
    return lambda folder: FreyFace(root=written(folder, "frey_rawface.mat", content).parent)


def two_sizes(folder: Path) -> ImageFolder:
    save_pictures(folder, noise(2, 4, 6))
    return save_pictures(folder, noise(1, 4, 5))


def both_kinds(folder: Path) -> ImageFolder:
    save_pictures(folder / "cats", noise(1, 4, 5))
    return save_pictures(folder, noise(1, 4, 5))


DAMAGED = "frey_rawface.mat", "replace it with the original"
CASES: dict[str, tuple[Callable[[Path], DataSet], tuple[str, ...]]] = {
    "no Frey Face": (FreyFace, ("FreyFace/frey_rawface.mat", "--data.root DIR")),
    "an empty Frey Face": (frey_face(b""), DAMAGED),
    "a text as Frey Face": (frey_face(b"no matrix"), DAMAGED),
    "zeros as Frey Face": (frey_face(bytes(500)), DAMAGED),
    "a matrix of another name": (lambda f: matrix(f, gg=np.zeros(3)), DAMAGED),
    "too few faces": (lambda f: matrix(f, ff=np.zeros((560, 3), np.uint8)), DAMAGED),
    "no folder": (lambda f: ImageFolder(path=f / "no"), ("there is nothing", "--data.path DIR")),
    "a file for a folder": (
        lambda f: ImageFolder(path=written(f, "0.png", b"")),
        ("there is a file", "--data.path DIR"),
    ),
    "no images": (
        lambda f: ImageFolder(path=written(f, "notes.txt", b"no image").parent),
        ("found none", "--data.path DIR"),
    ),
    "two sizes": (two_sizes, ("000.png of 5 x 4", "001.png of 6 x 4", "resize")),
    "images beside folders": (both_kinds, ("got both", "000.png", "move one kind")),
    "no array": (lambda f: Arrays(path=f / "no.npy"), ("there is none", "--data.path FILE")),
    "another suffix": (
        lambda f: Arrays(path=f / "images.mat"),
        ("a .npy or .npz file", "numpy.save"),
    ),
    "an archive without images": (lambda f: npz(f, x=GREY), ("got x", "images=...")),
    "too many labels": (
        lambda f: npz(f, images=GREY, labels=np.arange(4)),
        ("one label for each of 3 images",),
    ),
    "labels of floats": (lambda f: npz(f, images=GREY, labels=np.arange(3.0)), ("integer type",)),
    "labels of text": (
        lambda f: npz(f, images=GREY, labels=np.array(["a", "b", "c"])),
        ("integer type",),
    ),
    "two labels each": (
        lambda f: npz(f, images=GREY, labels=np.zeros((3, 2), int)),
        ("shape (N,)",),
    ),
    **{
        f"labels to {labels[2]}": (
            lambda f, labels=labels: npz(f, images=GREY, labels=np.array(labels)),
            ("labels of 0, 1, ..., or -1 where one is unknown", "number the classes 0, 1, ..."),
        )
        for labels in ([0, 1, 10**9], [-3, 0, 1])
    },
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_read_is_refused_with_the_remedy(refused, tmp_path, name) -> None:
    build, said = CASES[name]
    refused(build(tmp_path), "real", *said)


def test_a_missing_array_has_no_domain(tmp_path):
    with pytest.raises(InputError, match="there is none"):
        _ = Arrays(path=tmp_path / "no.npy").default_domain


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif", "pgm"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
def test_truncated_images(refused, tmp_path, suffix, kept):
    data_set = save_pictures(tmp_path, noise(4, 30, 40), suffix=suffix)
    path = tmp_path / f"002.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(data_set, "real", f"002.{suffix}", "replace or remove it")


def test_pickles_are_never_opened(refused, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    trap = np.array([Trap(), None], dtype=object)
    np.save(tmp_path / "objects.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", images=trap)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("objects.npy", "objects.npz", "pickle.npy"):
        said = name, "could not read", "as plain numbers"
        assert "allow_pickle" not in refused(Arrays(path=tmp_path / name), "real", *said)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.3, 0.9])
def test_truncated_arrays(refused, tmp_path, name, kept):
    images = np.random.default_rng(0).random((30, 4, 5))
    path = tmp_path / name
    np.save(path, images) if name.endswith("npy") else np.savez(path, images=images)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(Arrays(path=path), "real", name, "could not read", "save it again")


def test_a_header_that_claims_too_much(refused, tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, GREY)
    path.write_bytes(path.read_bytes().replace(b"(3, 4, 5), ", b"(9" + b"0" * 8 + b",)"))
    refused(Arrays(path=path), "real", "save it again")


def test_a_damaged_member_of_an_archive(refused, tmp_path):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, images=np.random.default_rng(0).random((30, 4, 5)))
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset + 200
    content = bytearray(path.read_bytes())
    content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    refused(Arrays(path=path), "real", "save it again")


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite(refused, arrays, bad, dtype):
    array = REAL.astype(dtype)
    array[1, 2, :3] = bad
    refused(arrays(array), "real", "3 of 60 values infinite", "remove or replace")


def test_doubles_beyond_float32(refused, arrays):
    refused(arrays(REAL.astype(np.float64) * 1e300), "real", "infinite (as float32)")


@pytest.mark.parametrize("shape", [(60,), (1, 3, 1, 4, 5), (0, 4, 5), (3, 0, 5)])
def test_wrong_shapes(refused, arrays, shape):
    array = np.zeros(shape, np.uint8)
    refused(arrays(array), "real", "(N, H, W) or (N, C, H, W)", str(shape), "reshape")


@pytest.mark.parametrize(("channels", "left"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_channels_last(refused, arrays, channels, left):
    images = np.arange(3 * 8 * 8 * channels).reshape(3, 8, 8, channels).astype(np.uint8)
    some = "" if channels == left else f"[:, :{left}]"
    assert refused(arrays(images), "real").endswith(f"images.transpose(0, 3, 1, 2){some}")
    remedied = arrays(images.transpose(0, 3, 1, 2)[:, :left]).load("real", 0)
    assert remedied.image_shape == (left, 8, 8)


@pytest.mark.parametrize(("channels", "left"), [(2, 1), (4, 3), (7, 3)])
def test_too_many_channels(refused, arrays, channels, left):
    images = np.random.default_rng(0).integers(256, size=(3, channels, 8, 8), dtype=np.uint8)
    refused(arrays(images), "real", f"got {channels}", f"images[:, :{left}]")
    assert arrays(images[:, :left]).load("real", 0).image_shape == (left, 8, 8)


def test_an_archive_with_other_arrays(tmp_path):
    np.savez(tmp_path / "images.npz", images=GREY, x_test=GREY, y=REAL)
    note = Arrays(path=tmp_path / "images.npz").load("real", 0).note
    assert note.endswith("; left out x_test, y")


@pytest.mark.parametrize("dtype", [np.complex64, "S3", "datetime64[s]"])
def test_wrong_types(refused, arrays, dtype):
    array = np.zeros((3, 4, 5), dtype)
    refused(arrays(array), "real", f"got {array.dtype}", "save them as one of these")
