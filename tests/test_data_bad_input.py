"""Bad input to the data sets: one line that says what came and what to do, and no traceback."""

import builtins
import pickle

import numpy as np
import pytest
import torch
from own_images import noise, write_mnist

from ppl_vae.data import (
    CIFAR10,
    EMNIST,
    MNIST,
    SVHN,
    CelebA,
    Digits,
    FreyFace,
    Images,
    Omniglot,
)
from ppl_vae.errors import InputError

# Domains


GREY = np.arange(3 * 20, dtype=np.uint8).reshape(3, 4, 5)
REAL = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)


def test_binary_likelihood_on_grey_levels(refused, arrays):
    message = refused(arrays(GREY), "binary")
    assert message == (
        "a likelihood for binary data does not fit the grey levels of Arrays; add --data.binarize "
        "dynamic, or choose --likelihood Gaussian"
    )
    refused(Digits(binarize="none"), "binary", "Digits", "--data.binarize dynamic")
    refused(arrays(REAL), "binary", "--data.binarize dynamic")


@pytest.mark.parametrize("data_set", [CIFAR10, SVHN, CelebA, FreyFace])
def test_binary_likelihood_is_refused_before_files_are_read(refused, tmp_path, data_set):
    refused(data_set(root=tmp_path / "nowhere"), "binary", "--data.binarize dynamic")


@pytest.mark.parametrize("domain", ["unit", "bytes", "real"])
@pytest.mark.parametrize("binarize", ["dynamic", "fixed", "threshold"])
def test_binarised_data_under_another_likelihood(refused, domain, binarize):
    said = f"{domain} data", f"--data.binarize {binarize}", "--likelihood Bernoulli"
    refused(Digits(binarize=binarize), domain, *said)


@pytest.mark.parametrize(("domain", "binarize"), [("unit", "none"), ("binary", "dynamic")])
def test_floats_outside_unit(refused, arrays, domain, binarize):
    said = "values of Arrays, which are 0 to 2", "scale them"
    refused(arrays(2 * REAL, binarize=binarize), domain, *said)


@pytest.mark.parametrize("domain", ["binary", "unit", "bytes"])
def test_dequantised_data_under_another_likelihood(refused, domain):
    refused(Digits(dequantize="uniform"), domain, "--data.dequantize uniform", "leave it out")


@pytest.mark.parametrize(
    ("data_set", "domain", "remedies"),
    [
        (Digits(binarize="none"), "binary", [(Digits(binarize="dynamic"), "binary")]),
        (Digits(binarize="none"), "binary", [(Digits(binarize="none"), "real")]),
        (Digits(binarize="fixed"), "unit", [(Digits(), "unit")]),
        (Digits(binarize="fixed"), "unit", [(Digits(binarize="fixed"), "binary")]),
        (Digits(dequantize="uniform"), "bytes", [(Digits(), "bytes")]),
    ],
)
def test_what_a_misfit_is_said_to_need_helps(refused, data_set, domain, remedies):
    """Leaving an option out, adding one, or the likelihood that is named."""
    refused(data_set, domain)
    for remedied, needed in remedies:
        assert remedied.load(needed, 0).domain == needed


def test_dequantised_floats(refused, arrays):
    refused(arrays(REAL, dequantize="uniform"), "real", "floating-point", "leave it out")


@pytest.mark.parametrize(
    ("count", "labels", "said"),
    [
        (2, torch.zeros(3, dtype=torch.int64), "one label for each of 2 images"),
        (3, torch.zeros(3), r"labels of an integer type; got torch\.float32"),
    ],
)
def test_images_need_a_label_each(count, labels, said):
    with pytest.raises(InputError, match=said):
        Images(torch.zeros(count, 1, 4, 4), labels)


# torchvision's files


@pytest.mark.parametrize("data_set", [MNIST, EMNIST, Omniglot, CIFAR10, SVHN, CelebA])
def test_missing_files(refused, tmp_path, data_set):
    root = tmp_path / "nowhere"
    said = data_set.__name__, str(root), "--data.root DIR", "--data.download true"
    refused(data_set(root=root), data_set.default_domain, *said)
    assert not list(tmp_path.iterdir())


def blank_mnist(root, train=30, test=10, side=28):
    parts = ((noise(count, side, side), np.zeros(count)) for count in (train, test))
    write_mnist(root, "MNIST", *parts)
    return root / "MNIST" / "raw"


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_idx_files(refused, tmp_path, file, damage):
    path = blank_mnist(tmp_path) / file
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-5], "empty": b"", "text": b"<html>not found</html>"}[damage])
    refused(MNIST(root=tmp_path), "binary", "could not read MNIST", "--data.download true")


def test_images_of_another_size(refused, tmp_path):
    blank_mnist(tmp_path, side=8)
    refused(MNIST(root=tmp_path), "binary", "28 x 28", "replace the files")


def test_too_few_training_images(refused, tmp_path):
    blank_mnist(tmp_path, train=10, test=10)
    refused(MNIST(root=tmp_path), "binary", "more than 10 training images", "complete the files")


def test_labels_of_another_length(refused, tmp_path):
    folder = blank_mnist(tmp_path)
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes((folder / "t10k-labels-idx1-ubyte").read_bytes())
    refused(MNIST(root=tmp_path), "binary", "one label for each of 30 images")


def test_altered_pickles_are_not_opened(refused, tmp_path):
    """torchvision checks the MD5 sum of each pickle before it reads it."""

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    refused(CIFAR10(root=tmp_path), "real", "altered", "--data.download true")
    assert not (tmp_path / "sprung").exists()


def test_a_failed_download(refused, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", fail)
    refused(MNIST(root=tmp_path, download=True), "binary", "no route to host", "connection")


@pytest.mark.parametrize(
    "error",
    [ImportError("No module named 'torchvision'"), RuntimeError("operator nms does not exist")],
)
def test_torchvision_that_does_not_import(refused, monkeypatch, error):
    real_import = builtins.__import__

    def failing(name, *arguments, **options):
        if name.startswith("torchvision"):
            raise error
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", failing)
    refused(MNIST(), "binary", str(error), f"belongs to torch {torch.__version__}", "--data")


def test_unreadable_picture_of_omniglot(refused, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.Omniglot, "_check_integrity", lambda self: True)
    folder = tmp_path / "omniglot-py" / "images_background" / "Alphabet" / "character01"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"no image")
    refused(Omniglot(root=tmp_path), "binary", "image 0 of Omniglot", "unpack the archive again")


def test_unknown_attribute_of_celeba(refused, tmp_path, monkeypatch):
    class Opened:
        attr_names = ("Bald", "Smiling", "")

    monkeypatch.setattr("ppl_vae.data.celeba.open_torchvision", lambda *a, **o: Opened())
    data_set = CelebA(root=tmp_path, attribute="Smile")
    refused(data_set, "real", "--data.attribute of Bald, Smiling; got 'Smile'")
