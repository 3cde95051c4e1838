"""Folders of pictures are split with a share of each class, with groups together, or by folder."""

import os
from pathlib import Path

import numpy as np
import pytest
from own_images import SPLITS, noise, save_pictures, sizes
from PIL import Image

from ppl_vae.data import ImageFolder


@pytest.fixture
def animals(tmp_path: Path) -> ImageFolder:
    for shade, (name, count) in enumerate({"ant": 200, "bee": 60, "cat": 40}.items()):
        images = noise(count, 5, 4, seed=shade)
        images[:, 0, 0] = shade
        save_pictures(tmp_path / "all" / name, images)
    return ImageFolder(tmp_path / "all")


def test_folders_with_shares(animals: ImageFolder, tmp_path: Path) -> None:
    data = ImageFolder(animals.path, stratify=True).load("bytes", 0)
    counts = [getattr(data, s).labels.bincount().tolist() for s in SPLITS]
    assert counts == [[160, 48, 32], [20, 6, 4], [20, 6, 4]]
    before = [set(map(bytes, getattr(data, s).raw.numpy())) for s in SPLITS]
    (animals.path / "ant" / "007.png").unlink()
    data = ImageFolder(animals.path, stratify=True).load("bytes", 0)
    after = [set(map(bytes, getattr(data, s).raw.numpy())) for s in SPLITS]
    moved = [len(new - old) for old, new in zip(before, after, strict=True)]
    assert max(moved) <= 2  # at most those beside the borders between the splits


def test_folders_elsewhere_for_validation_and_test(animals: ImageFolder, tmp_path: Path) -> None:
    for folder, shade in (("later/bee", 1), ("later/dog", 7), ("flat", 8)):
        images = noise(8, 5, 4, seed=shade)
        images[:, 0, 0] = shade
        save_pictures(tmp_path / folder, images)
    data = ImageFolder(animals.path, validation=tmp_path / "later", test=tmp_path / "flat")
    data = data.load("bytes", 0)
    assert data.class_names == ("ant", "bee", "cat", "dog")
    assert sizes(data) == (300, 16, 8)
    assert data.train.labels.bincount().tolist() == [200, 60, 40]
    assert sorted(data.validation.labels.tolist()) == [1] * 8 + [3] * 8
    for image, label in zip(data.validation.raw[:, 0, 0, 0], data.validation.labels, strict=True):
        assert image == {1: 1, 3: 7}[int(label)]
    assert data.test.labels.tolist() == [-1] * 8
    assert set(data.test.raw[:, 0, 0, 0].tolist()) == {8}
    whole = animals.load("bytes", 0)
    tested = ImageFolder(animals.path, test=tmp_path / "flat").load("bytes", 0)
    first = set(map(bytes, whole.test.raw.numpy()))  # the first tenth, now for validation
    assert first == set(map(bytes, tested.validation.raw.numpy()))
    (animals.path.parent / "outer").mkdir()
    os.rename(animals.path, tmp_path / "outer" / "train")
    os.rename(tmp_path / "flat", tmp_path / "outer" / "val")
    outer = ImageFolder(tmp_path / "outer", test=tmp_path / "later").load("bytes", 0)
    assert sizes(outer) == (300, 8, 16)
    with pytest.raises(ValueError, match=r"--data.validation: .*outer has a folder of such images"):
        ImageFolder(tmp_path / "outer", validation=tmp_path / "later").load("bytes", 0)
    with pytest.raises(ValueError, match=r"there is nothing; name one with --data.test DIR"):
        ImageFolder(tmp_path / "outer", test=tmp_path / "nowhere").load("bytes", 0)


def test_groups_of_files(animals: ImageFolder, tmp_path: Path) -> None:
    files = sorted(path.relative_to(animals.path) for path in animals.path.rglob("*.png"))
    group = {str(file): f"tier {number % 25}" for number, file in enumerate(files)}
    table = tmp_path / "groups.csv"
    table.write_text(
        "file name,group\nmore/x.png,a\n" + "".join(f'{f},"{g}"\n' for f, g in group.items())
    )
    data = ImageFolder(animals.path, groups=table).load("bytes", 0)
    by_image = {
        np.asarray(Image.open(animals.path / file)).tobytes(): name for file, name in group.items()
    }
    members = [{by_image[bytes(i)] for i in getattr(data, s).raw.numpy()} for s in SPLITS]
    assert sum(map(len, members)) == 25
    assert sum(sizes(data)) == 300
    (animals.path / "ant" / "new.png").write_bytes((animals.path / "ant" / "000.png").read_bytes())
    with pytest.raises(ValueError, match=r"a line for each file in .*; ant/new.png has none; add"):
        ImageFolder(animals.path, groups=table).load("bytes", 0)


def test_a_group_in_two_folders_of_splits(tmp_path: Path, refused) -> None:
    for split, count in (("train", 6), ("test", 2)):
        save_pictures(tmp_path / "p" / split, noise(count, 5, 4))
    table = tmp_path / "groups.csv"
    table.write_text(
        "".join(f"train/{n:03}.png,{n}\n" for n in range(6)) + "test/000.png,8\ntest/001.png,5\n"
    )
    said = "--data.groups: expected each group in one split; group 5 is in", "training", "test"
    refused(ImageFolder(tmp_path / "p", groups=table), "bytes", *said)
    table.write_text(table.read_text().replace("test/001.png,5", "test/001.png,9"))
    assert sizes(ImageFolder(tmp_path / "p", groups=table).load("bytes", 0)) == (5, 1, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("000.png\n", "expected lines of file name,group"),
        ("000.png,a,b\n", "got '000.png,a,b' in line 1"),
        ("000.png,a\n000.png,b\n", "000.png is in .* with a and b; remove a line"),
        ('"000.png,a\n', "could not read .*--data.groups FILE"),
        ("\xff\xfe\n", "expected lines of file name,group"),
    ],
)
def test_bad_tables_of_groups(tmp_path: Path, text: str, said: str) -> None:
    save_pictures(tmp_path / "p", noise(5, 5, 4))
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8")
    for table in (tmp_path / "groups.csv", tmp_path / "no.csv"):
        match = said if table.exists() else r"could not read .*no.csv"
        with pytest.raises(ValueError, match=match):
            ImageFolder(tmp_path / "p", groups=table).load("bytes", 0)
