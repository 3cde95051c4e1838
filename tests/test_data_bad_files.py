"""Bad files of one's own, and of Frey Face: one line that names the file and the remedy."""

import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from ppl_vae.data import Arrays, FreyFace, ImageFolder
from ppl_vae.errors import InputError

GREY = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
REAL = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)


# Frey Face


def test_missing_frey_face(refused, tmp_path):
    refused(FreyFace(root=tmp_path), "real", "FreyFace/frey_rawface.mat", "--data.root DIR")


@pytest.mark.parametrize("content", [b"", b"no matrix", bytes(500)])
def test_damaged_frey_face(refused, tmp_path, content):
    (tmp_path / "frey_rawface.mat").write_bytes(content)
    refused(FreyFace(root=tmp_path), "real", "frey_rawface.mat", "replace it with the original")


@pytest.mark.parametrize("matrix", [{"gg": np.zeros(3)}, {"ff": np.zeros((560, 3), np.uint8)}])
def test_another_matrix_than_frey_face(refused, tmp_path, matrix):
    from scipy.io import savemat

    savemat(tmp_path / "frey_rawface.mat", matrix)
    refused(FreyFace(root=tmp_path), "real", "replace it with the original")


# Folders


def picture(path, mode="L", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(256, size=(size[1], size[0]), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def test_no_folder(refused, tmp_path):
    refused(ImageFolder(path=tmp_path / "no"), "real", "there is nothing", "--data.path DIR")
    file = picture(tmp_path / "0.png")
    refused(ImageFolder(path=file), "real", "there is a file", "--data.path DIR")


def test_no_images(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    refused(ImageFolder(path=tmp_path), "real", "found none", "--data.path DIR")


def test_mixed_sizes(refused, tmp_path):
    picture(tmp_path / "0.png")
    picture(tmp_path / "1.png", size=(6, 4))
    refused(ImageFolder(path=tmp_path), "real", "0.png of 5 x 4", "1.png of 6 x 4", "resize")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif", "pgm"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
def test_truncated_images(refused, tmp_path, suffix, kept):
    for number in range(4):
        picture(tmp_path / f"{number}.{suffix}", size=(40, 30))
    path = tmp_path / f"2.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(ImageFolder(path=tmp_path), "real", f"2.{suffix}", "replace or remove it")


def test_images_beside_folders_of_images(refused, tmp_path):
    picture(tmp_path / "0.png")
    picture(tmp_path / "cats" / "1.png")
    refused(ImageFolder(path=tmp_path), "real", "got both", "0.png", "move one kind")


def test_fewer_images_than_splits(refused, tmp_path):
    for number in range(2):
        picture(tmp_path / f"{number}.png")
    refused(ImageFolder(path=tmp_path), "real", "at least 3 images", "got 2", "add images")


# Arrays


def test_missing_array(refused, tmp_path):
    refused(Arrays(path=tmp_path / "no.npy"), "real", "there is none", "--data.path FILE")
    with pytest.raises(InputError, match="there is none"):
        _ = Arrays(path=tmp_path / "no.npy").default_domain


def test_another_suffix(refused, tmp_path):
    refused(Arrays(path=tmp_path / "images.mat"), "real", "a .npy or .npz file", "numpy.save")


def test_pickles_are_never_opened(refused, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    trap = np.array([Trap(), None], dtype=object)
    np.save(tmp_path / "objects.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", images=trap)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("objects.npy", "objects.npz", "pickle.npy"):
        refused(Arrays(path=tmp_path / name), "real", name, "could not read", "as plain numbers")
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite(refused, arrays, bad, dtype):
    array = REAL.astype(dtype)
    array[1, 2, :3] = bad
    refused(arrays(array), "real", "3 of 60 values NaN or infinite", "remove or replace")


def test_doubles_beyond_float32(refused, arrays):
    refused(arrays(REAL.astype(np.float64) * 1e300), "real", "NaN or infinite (as float32)")


@pytest.mark.parametrize("shape", [(60,), (3, 20), (1, 3, 1, 4, 5), (0, 4, 5), (3, 0, 5)])
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


def test_an_archive_without_images(refused, tmp_path):
    np.savez(tmp_path / "images.npz", x=GREY)
    refused(Arrays(path=tmp_path / "images.npz"), "real", "got x", "images=...")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(4), "one label for each of 3 images"),
        (np.arange(3.0), "integer type"),
        (np.zeros((3, 2), int), "shape (N,)"),
        (np.array(["a", "b", "c"]), "integer type"),
    ],
)
def test_bad_labels(refused, tmp_path, labels, said):
    np.savez(tmp_path / "images.npz", images=GREY, labels=labels)
    refused(Arrays(path=tmp_path / "images.npz"), "real", said)
