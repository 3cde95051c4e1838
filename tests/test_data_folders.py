"""What the folders of pictures mean, what of them is left out, and headers that are broken."""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from own_images import SPLITS, noise, save_pictures
from PIL import Image, ImageOps

import ppl_vae.fit
from guides import ConditionalNormal
from models import MLP, Conditional
from ppl_vae.data import ImageFolder
from ppl_vae.errors import InputError
from ppl_vae.fit import fit
from ppl_vae.generate import generate
from ppl_vae.latents.views import sample
from ppl_vae.report.inspection import choose_images


def write(folder: Path, count: int, shade: int = 0, suffix: str = "png") -> None:
    """Grey pictures that know where they are from: the first pixel is `shade`."""
    images = noise(count, 5, 4)
    images[:, 0, 0] = shade
    save_pictures(folder, images, suffix=suffix)


def shades(split) -> list[int]:
    return split.raw[:, 0, 0, 0].tolist()


# Splits and classes


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "TEST")])
def test_folders_of_splits(tmp_path: Path, names) -> None:
    for split, name in enumerate(names):
        for label, animal in enumerate(("cat", "dog")):
            write(tmp_path / name / animal, 7 - split, 10 * split + label)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    assert data.class_names == ("cat", "dog")
    for split, name in enumerate(SPLITS):
        images = getattr(data, name)
        assert len(images) == 2 * (7 - split)
        assert shades(images) == [10 * split + label for label in images.labels.tolist()]
        assert sorted(images.labels.tolist()) == [0] * (7 - split) + [1] * (7 - split)
    assert "; classes cat 18, dog 18" in data.note


@pytest.mark.parametrize(
    ("there", "cut"), [(("train",), (1, 2)), (("train", "test"), (1,)), (("train", "val"), (2,))]
)
def test_splits_without_a_folder_are_cut_from_training(tmp_path: Path, there, cut) -> None:
    for shade, name in enumerate(there):
        write(tmp_path / name, 200, shade)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    assert data.class_names is None
    assert sum(data.sizes) == 200 * len(there)
    for split in cut:
        images = getattr(data, SPLITS[split])
        assert abs(len(images) - 20) < 5 * np.sqrt(18)
        assert set(shades(images)) == {0}
    for shade, name in enumerate(there[1:], 1):
        images = data.test if name == "test" else data.validation
        assert shades(images) == [shade] * 200


def test_a_test_folder_without_classes(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat", 10)
    write(tmp_path / "train" / "dog", 10)
    write(tmp_path / "test", 5)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    assert data.test.labels.tolist() == [-1] * 5
    assert data.note.endswith("classes cat 10, dog 10; 5 unlabeled")


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled"])
def test_unlabeled_is_no_class(tmp_path: Path, name: str) -> None:
    for shade, folder in enumerate((name, "cat", "dog")):
        write(tmp_path / "flat" / folder, 20, shade)
        write(tmp_path / "split" / "train" / folder, 20, shade)
    write(tmp_path / "outer" / "train" / "cat", 20, 1)
    write(tmp_path / "outer" / "train" / "dog", 20, 2)
    write(tmp_path / "outer" / name, 20)
    for arrangement in ("flat", "split", "outer"):
        data = ImageFolder(path=tmp_path / arrangement).load("unit", 0)
        assert data.class_names == ("cat", "dog")
        assert data.classes == 2
        for split in SPLITS:
            images = getattr(data, split)
            assert shades(images) == [label + 1 for label in images.labels.tolist()]
        assert data.note.endswith("classes cat 20, dog 20; 20 unlabeled")


def test_folders_of_other_names_beside_train_are_classes(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        write(tmp_path / name, 5)
    assert ImageFolder(path=tmp_path).load("unit", 0).class_names == ("bus", "train")


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("Train", "test"), ("val", "test")])
def test_a_stray_folder_beside_those_of_splits(refused, tmp_path: Path, splits) -> None:
    """Each remedy of the line is followed to the end."""
    for split in splits:
        for animal in ("cat", "dog"):
            write(tmp_path / split / animal, 10)
    write(tmp_path / "extra", 1)
    data_set = ImageFolder(path=tmp_path)
    refused(data_set, "unit", "are splits", "got both, the folder extra among them; move extra")
    (tmp_path / "extra").rename(tmp_path.parent / f"{tmp_path.name}-extra")
    if splits[0] == "val":
        refused(data_set, "unit", "expected a folder train beside test, val; there is none")
        (tmp_path / "val").rename(tmp_path / "train")
    data = data_set.load("unit", 0)
    assert data.class_names == ("cat", "dog")
    assert len(data.test) == 20
    for split in ("train", *splits):
        if (tmp_path / split).exists():
            (tmp_path / split).rename(tmp_path / f"class-{split}")
    assert data_set.load("unit", 0).classes == len(splits)


def test_images_beside_folders_of_classes_in_a_split(refused, tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat", 5)
    write(tmp_path / "train", 5)
    write(tmp_path / "test" / "cat", 5)
    refused(ImageFolder(path=tmp_path), "unit", "got both, train/000.png", "move one kind")
    (tmp_path / "train" / "dog").mkdir()
    for file in (tmp_path / "train").glob("*.png"):
        file.rename(tmp_path / "train" / "dog" / file.name)
    assert ImageFolder(path=tmp_path).load("unit", 0).class_names == ("cat", "dog")


def test_too_few_training_images_to_cut_from(tmp_path: Path) -> None:
    write(tmp_path / "train", 2)
    write(tmp_path / "test", 5)
    assert ImageFolder(path=tmp_path).load("unit", 0).sizes == [1, 1, 5]
    (tmp_path / "train" / "001.png").unlink()
    assert ImageFolder(path=tmp_path).load("unit", 0).sizes == [1, 0, 5]
    with pytest.raises(InputError, match="got 1 / 0 / 5; add images"):
        fit(data=ImageFolder(path=tmp_path), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    for label in range(12):
        write(tmp_path / str(label), 10, label)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    assert data.class_names == tuple(map(str, range(12)))
    assert shades(data.train) == data.train.labels.tolist()
    write(tmp_path / "fold12b", 3)
    write(tmp_path / "fold2b", 3)
    data = ImageFolder(path=tmp_path).load("unit", 0)
    assert data.class_names[-2:] == ("fold2b", "fold12b")
    assert ", 11 10, and 2 more" in data.note


@pytest.mark.parametrize("names", [("2", "5", "10"), ("ant", "bee", "cat")])
def test_a_label_is_the_name_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names
) -> None:
    monkeypatch.setattr(ppl_vae.fit, "draw_pictures", lambda run, rows: None)
    for shade, name in enumerate(names):
        write(tmp_path / "pictures" / name, 30, shade)
    run = fit(
        ImageFolder(path=tmp_path / "pictures"), Conditional, guide=ConditionalNormal,
        network=partial(MLP, hidden=(8,)), latent_dim=2, epochs=1, batch_size=30,
        run=tmp_path / "run",
    )  # fmt: skip
    given = int(names[1]) if names[1].isdigit() else names[1]
    assert sample(run, count=4, label=given)["y"].tolist() == [1] * 4
    files = generate(run, "sample", count=4, label=given)
    assert np.load(files[-1])["y"].tolist() == [1] * 4
    chosen = choose_images(run, run.data.train, 5, None, given, "first", 0)
    assert run.data.train.labels[chosen.images].tolist() == [1] * 5
    with pytest.raises(ValueError, match=f"expected one of {', '.join(names)}; got 7"):
        run.data.label_of(7 if names[0] == "2" else "7")
    if names[0] == "ant":
        assert run.data.label_of(1) == 1


# What is left out


def test_pages_of_a_stack_are_counted(tmp_path: Path) -> None:
    write(tmp_path, 9, suffix="tif")
    pages = [Image.fromarray(np.full((5, 4), shade, np.uint8)) for shade in range(10)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    note = ImageFolder(path=tmp_path).load("unit", 0).note
    assert note.endswith("; left out 9 further pages or frames (stack.tif)")


def test_files_that_are_no_pictures_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "cat", 9)
    for name in ("cat/a.txt", "cat/b.TXT", "c.heic", ".DS_Store", "README"):
        (tmp_path / name).write_text("")
    (tmp_path / "cat" / "link").symlink_to(tmp_path)
    note = ImageFolder(path=tmp_path).load("unit", 0).note
    assert note.endswith(
        "; left out 1 hidden (.DS_Store), 1 without a suffix (README), 1 .heic (c.heic), "
        "2 .txt (cat/a.txt), 1 links to no file (cat/link)"
    )


# Headers


def orientation(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif.tobytes()


@pytest.mark.parametrize(
    ("suffix", "exif"),
    [
        *product(["jpg", "png", "tif"], map(orientation, [0, 9, 77, 65_535])),
        *product(["jpg"], [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"]),
    ],
)
def test_an_orientation_that_is_none_or_unreadable_is_upright(tmp_path: Path, suffix, exif) -> None:
    image = np.repeat(np.arange(0, 240, 12, dtype=np.uint8).reshape(4, 5), 8, 0).repeat(8, 1)
    for number in range(3):
        Image.fromarray(image).save(tmp_path / f"{number}.{suffix}", exif=exif, quality=100)
    data = ImageFolder(path=tmp_path).load("bytes", 0)
    np.testing.assert_allclose(data.train[0:1][0, 0].numpy(), image, atol=8)


@pytest.mark.parametrize("number", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(tmp_path: Path, number: int) -> None:
    for name in "012":
        picture = Image.fromarray(noise(4, 5, 3))
        picture.save(tmp_path / f"{name}.png", exif=orientation(number))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "0.png")))
    data = ImageFolder(path=tmp_path).load("bytes", 0)
    np.testing.assert_array_equal(data.train[:][0].numpy(), expected.transpose(2, 0, 1))


# Machines


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("process_cpu_count", [None, 3])
def test_a_system_that_tells_no_cores_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_cpu_count: int | None
) -> None:
    """macOS has no `sched_getaffinity` and no free pages, Windows no `sysconf`."""
    from ppl_vae.data import own_files
    from ppl_vae.machine import memory

    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    if process_cpu_count:
        monkeypatch.setattr("os.process_cpu_count", lambda: process_cpu_count, raising=False)
    else:
        monkeypatch.delattr("os.process_cpu_count", raising=False)
    write(tmp_path, 40)
    data = ImageFolder(path=tmp_path, memory_gib=0).load("unit", 0)
    assert data.train.raw.workers == (process_cpu_count or 5) - 1
    assert sum(len(x) for (x,) in data.train.batches([slice(None)], False)) == len(data.train)
    pages = own_files.os.sysconf("SC_PHYS_PAGES") * own_files.os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / "nowhere")
    assert memory.free_memory() == pages // 2
    monkeypatch.delattr("os.sysconf")
    assert memory.free_memory() == 4 * 2**30
    monkeypatch.setattr("os.cpu_count", lambda: None)
    monkeypatch.delattr("os.process_cpu_count", raising=False)
    assert own_files._cores() == 1
    assert ImageFolder(path=tmp_path).load("unit", 0).sizes == data.sizes
