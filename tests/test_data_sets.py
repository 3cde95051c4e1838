"""Each data set, from files made here in its layout, and from the real ones where they lie."""

import pickle

import numpy as np
import pytest
import torch
from own_images import SPLITS, joined, noise, sizes, write_idx, write_mnist
from PIL import Image

from ppl_vae.data import (
    CIFAR10,
    EMNIST,
    KMNIST,
    MNIST,
    SVHN,
    CelebA,
    Digits,
    FashionMNIST,
    FreyFace,
    Omniglot,
)
from ppl_vae.data.source import fixed_order
from ppl_vae.errors import InputError


def random_images(count, *shape, seed=0):
    return noise(count, *shape, seed=seed), np.arange(count) % 10


def test_digits():
    data = Digits().load("bytes", 0)
    assert sizes(data) == (1_297, 200, 300)
    assert (data.levels, data.image_shape) == (17, (1, 8, 8))
    assert data.class_names == tuple("0123456789")
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = torch.cat([getattr(data, s).raw for s in SPLITS]).reshape(1_797, 64).numpy()
    labels = torch.cat([getattr(data, s).labels for s in SPLITS]).numpy()
    order = fixed_order(1_797).numpy()
    assert sorted(order) == list(range(1_797))
    np.testing.assert_array_equal(rows, digits.data[order])
    np.testing.assert_array_equal(labels, digits.target[order])
    again = Digits().load("bytes", 7)
    assert all(torch.equal(getattr(data, s).raw, getattr(again, s).raw) for s in SPLITS)


@pytest.mark.parametrize("data_set", [MNIST, FashionMNIST, KMNIST])
def test_mnist_and_its_like(tmp_path, data_set):
    (images, labels), test = random_images(50, 28, 28), random_images(10, 28, 28, seed=1)
    write_mnist(tmp_path, data_set.__name__, (images, labels), test)
    data = data_set(root=tmp_path).load("bytes", 0)
    assert sizes(data) == (40, 10, 10)
    assert data.train.raw.dtype == torch.uint8
    np.testing.assert_array_equal(data.train[:].numpy()[:, 0], images[:40])
    np.testing.assert_array_equal(data.validation[:].numpy()[:, 0], images[40:])
    np.testing.assert_array_equal(data.test[:].numpy()[:, 0], test[0])
    np.testing.assert_array_equal(data.validation.labels.numpy(), labels[40:])
    assert data.train.labels.dtype == torch.int64
    assert len(data.class_names) == 10
    assert data_set(str(tmp_path)).load("binary", 0).binarize == "dynamic"

    class Own(data_set):
        """A subclass reads the files of its base."""

    assert sizes(Own(root=tmp_path).load("bytes", 0)) == (40, 10, 10)


def test_fewer_images_are_held_out(tmp_path):
    (images, labels), test = random_images(50, 28, 28), random_images(10, 28, 28, seed=1)
    write_mnist(tmp_path, "MNIST", (images, labels), test)
    data = MNIST(root=tmp_path, held_out=3).load("bytes", 0)
    assert sizes(data) == (47, 3, 10)
    np.testing.assert_array_equal(data.train[:].numpy()[:, 0], images[:47])
    np.testing.assert_array_equal(data.validation[:].numpy()[:, 0], images[47:])
    with pytest.raises(InputError, match=r"expected --data\.held_out < 50, .*; got 50$"):
        MNIST(root=tmp_path, held_out=50).load("bytes", 0)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=r"expected --data\.held_out >= 1.*; got "):
            MNIST(root=tmp_path, held_out=wrong)


@pytest.mark.parametrize(
    ("split", "count"),
    [("balanced", 47), ("letters", 26), ("digits", 10), ("mnist", 10), ("byclass", 62),
     ("bymerge", 47)],
)  # fmt: skip
def test_emnist_is_turned_upright(tmp_path, split, count):
    images, labels = random_images(30, 28, 28)
    test_images, test_labels = random_images(5, 28, 28)
    first = 1 if split == "letters" else 0
    for stem, pair in {"train": (images, labels), "test": (test_images, test_labels)}.items():
        path = tmp_path / "EMNIST" / "raw" / f"emnist-{split}-{stem}"
        write_idx(path.with_name(path.name + "-images-idx3-ubyte"), pair[0].transpose(0, 2, 1))
        write_idx(path.with_name(path.name + "-labels-idx1-ubyte"), pair[1] + first)
    data = EMNIST(root=tmp_path, split=split).load("bytes", 0)
    assert sizes(data) == (25, 5, 5)
    np.testing.assert_array_equal(data.train.raw.numpy()[:, 0], images[:25])
    np.testing.assert_array_equal(data.test.raw.numpy()[:, 0], test_images)
    np.testing.assert_array_equal(data.validation.labels.numpy(), labels[25:])
    assert len(data.class_names) == count
    assert data.class_names[0] == ("a" if split == "letters" else "0")


@pytest.fixture
def untested_sums(monkeypatch):
    """torchvision without the check that the files are the original ones."""
    from torchvision import datasets

    for name in ("CIFAR10", "SVHN", "Omniglot", "CelebA"):
        monkeypatch.setattr(getattr(datasets, name), "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)


@pytest.mark.usefixtures("untested_sums")
def test_cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches = [random_images(20, 3 * 32 * 32, seed=seed) for seed in range(6)]
    for number, (images, labels) in enumerate(batches):
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": labels.tolist()}))
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    data = CIFAR10(root=tmp_path).load("bytes", 0)
    assert sizes(data) == (90, 10, 20)
    assert data.image_shape == (3, 32, 32)
    expected = np.concatenate([images for images, _ in batches[:5]]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.train.raw.numpy(), expected[:90])
    np.testing.assert_array_equal(data.validation.raw.numpy(), expected[90:])
    assert data.class_names == tuple(names)


@pytest.mark.usefixtures("untested_sums")
def test_svhn(tmp_path):
    from scipy.io import savemat

    stored = {}
    for split, count in (("train", 40), ("test", 7)):
        images, labels = random_images(count, 3, 32, 32)
        stored[split] = images, labels
        numbered = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": numbered})
    data = SVHN(root=tmp_path).load("bytes", 0)
    assert sizes(data) == (36, 4, 7)
    np.testing.assert_array_equal(data.train.raw.numpy(), stored["train"][0][:36])
    np.testing.assert_array_equal(data.test.raw.numpy(), stored["test"][0])
    np.testing.assert_array_equal(data.validation.labels.numpy(), stored["train"][1][36:])


def write_omniglot(root):
    for kind, count in (("images_background", 3), ("images_evaluation", 2)):
        for character in range(count):
            folder = (
                root / "omniglot-py" / kind / f"Alphabet_of_{kind}" / f"character{character:02}"
            )
            folder.mkdir(parents=True)
            for drawing in range(5):
                scan = np.full((105, 105), 255, dtype=np.uint8)
                scan[10 * character : 10 * character + 20, 5 * drawing : 5 * drawing + 50] = 0
                Image.fromarray(scan).convert("1").save(folder / f"{drawing}.png")


@pytest.mark.usefixtures("untested_sums")
def test_omniglot(tmp_path):
    write_omniglot(tmp_path)
    data = Omniglot(root=tmp_path).load("unit", 0)
    assert sizes(data) == (14, 1, 10)
    assert data.image_shape == (1, 28, 28)
    for split in SPLITS:
        mean = getattr(data, split)[:].mean((1, 2, 3))
        np.testing.assert_allclose(mean, 20 * 50 / 105**2, atol=0.02)
    assert data.test[:1].max() == 1
    assert data.test[:1][0, 0, 20:].max() == 0  # the ink of the first is in the upper rows
    trained = torch.cat([data.train.labels, data.validation.labels])
    assert sorted(trained.tolist()) == [0] * 5 + [1] * 5 + [2] * 5
    assert data.test.labels.tolist() == [3] * 5 + [4] * 5
    assert len(data.class_names) == 5


def write_celeba(root, count=9):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number + 1:06}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        picture = np.zeros((218, 178, 3), dtype=np.uint8)
        picture[35:-35, 15:-15] = (20 * number, 200, 100)
        Image.fromarray(picture).save(
            folder / "img_align_celeba" / name, quality=100, subsampling=0
        )
    rows = {
        "list_eval_partition.txt": ([], lambda i: f"{0 if i < 5 else 1 if i < 7 else 2}"),
        "identity_CelebA.txt": ([], lambda i: f"{i}"),
        "list_bbox_celeba.txt": ([f"{count}", "image_id x y w h"], lambda i: "1 2 3 4"),
        "list_landmarks_align_celeba.txt": ([f"{count}", "x y"], lambda i: "1 2"),
        "list_attr_celeba.txt": (
            [f"{count}", "Bald Smiling "],
            lambda i: f"-1 {1 if i % 2 else -1}",
        ),
    }
    for file, (head, row) in rows.items():
        lines = [*head, *(f"{name} {row(number)}" for number, name in enumerate(names))]
        (folder / file).write_text("\n".join(lines) + "\n")


@pytest.mark.usefixtures("untested_sums")
def test_celeba(tmp_path):
    write_celeba(tmp_path)
    data = CelebA(root=tmp_path).load("bytes", 0)
    assert sizes(data) == (5, 2, 2)
    assert data.image_shape == (3, 64, 64)
    for number in range(5):
        expected = torch.tensor([20.0 * number, 200, 100])
        middle = data.train[[number]][0, :, 8:-8, 8:-8].mean((1, 2))
        torch.testing.assert_close(middle, expected, atol=3, rtol=0)
    assert data.test.labels.tolist() == [1, 0]
    assert data.class_names == ("not Smiling", "Smiling")
    assert CelebA(root=tmp_path, attribute="Bald").load("bytes", 0).train.labels.sum() == 0


def write_frey_face(path, frames):
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"ff": frames})


@pytest.mark.parametrize("folder", ["FreyFace", "."])
def test_frey_face(tmp_path, folder):
    images, _ = random_images(1_965, 28, 20)
    write_frey_face(tmp_path / folder / "frey_rawface.mat", images.reshape(1_965, 560).T)
    data = FreyFace(root=tmp_path).load("bytes", 0)
    assert sizes(data) == (1_565, 200, 200)
    assert data.image_shape == (1, 28, 20)
    np.testing.assert_array_equal(joined(data)[:, 0], images[fixed_order(1_965).numpy()])
    assert data.train.labels is None


def test_real_mnist(data_root):
    if not (data_root / "MNIST").is_dir():
        pytest.skip(f"no MNIST in {data_root}")
    data = MNIST(root=data_root).load("binary", 0)
    assert sizes(data) == (50_000, 10_000, 10_000)
    assert data.train.raw.dtype == data.test.raw.dtype == torch.uint8
    assert data.train.raw.shape == (50_000, 1, 28, 28)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    # the known mean intensity of the original training images is 0.1307
    both = torch.cat([data.train.raw, MNIST(root=data_root).load("bytes", 0).validation.raw])
    assert abs(both.double().mean() / 255 - 0.1307) < 1e-4


def test_real_frey_face(data_root):
    if not (data_root / "FreyFace").is_dir():
        pytest.skip(f"no FreyFace in {data_root}")
    data = FreyFace(root=data_root).load("real", 0)
    assert sizes(data) == (1_565, 200, 200)
    video = torch.from_numpy(joined(data)[fixed_order(1_965).argsort(), 0])
    near, far = ((video[lag:] - video[:-lag]).abs().mean() for lag in (1, 500))
    assert near < far / 2  # in order again, neighbours are frames of one movement
    rows, columns = (video.diff(dim=dim).abs().mean() for dim in (1, 2))
    assert max(rows, columns) < 0.1  # neighbouring pixels are alike only in the right layout
