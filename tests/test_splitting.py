"""How images are split: a share of each class, groups together, and a file for each split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import SPLITS, noise, save_pictures, sizes
from PIL import Image
from tiny_runs import OPTIONS, exit_code, tiny

import ppl_vae.fit
from ppl_vae.data import Arrays, Data, ImageFolder
from ppl_vae.data.source import Images, fixed_order, split_tenths
from ppl_vae.data.splitting import split_by_group, stratified, tenths
from ppl_vae.errors import InputError

RNG = np.random.default_rng(0)


def numbered(count: int) -> np.ndarray:
    """Images that say their number."""
    images = np.zeros((count, 2, 2), np.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 1, 1] = *np.divmod(np.arange(count), 256), 9
    return images


def numbers(data: Data) -> list[list[int]]:
    splits = (getattr(data, split).raw.int() for split in SPLITS)
    return [(256 * raw[:, 0, 0, 0] + raw[:, 0, 0, 1]).tolist() for raw in splits]


def test_without_more_the_tenths_are_those_of_always() -> None:
    for count in (3, 10, 99, 1000):
        images = Images(torch.arange(count).reshape(-1, 1, 1, 1).to(torch.int32))
        source = split_tenths(images)
        places = tenths(fixed_order(count).numpy(), np.zeros(count, np.int64))
        for before, after in zip(source.splits, places, strict=True):
            assert torch.equal(before.pixels.flatten(), after.int())


@pytest.mark.parametrize(
    ("counts", "test", "validation"),
    [
        # 100 images in 10 intervals of 10; test seats 2, 12, ..., validation seats 7, 17, ...
        ((50, 30, 20), (5, 3, 2), (5, 3, 2)),
        ((95, 5), (10, 0), (9, 1)),  # seats 92 and 97
        ((3,), (1,), (1,)),  # seats 0 and 2
        ((1, 1, 1), (1, 0, 0), (0, 0, 1)),
        ((4,) * 10, (1, 0, 0, 1, 0, 1, 0, 0, 1, 0), (0, 1, 0, 0, 1, 0, 1, 0, 0, 1)),
    ],
)
def test_each_class_has_its_share_as_counted_by_hand(counts, test, validation) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels))]
    order = RNG.permutation(len(labels))
    splits = stratified(order, labels, np.zeros(len(labels), np.int64))
    found = [labels[split].bincount(minlength=len(counts)).tolist() for split in splits]
    train = [n - t - v for n, t, v in zip(counts, test, validation, strict=True)]
    assert found == [train, [*validation], [*test]]
    assert sorted(torch.cat(splits).tolist()) == [*range(len(labels))]
    place = order.argsort()
    for split in splits:  # in the order; in each class the first of it are for the test
        assert (np.diff(place[split.numpy()]) > 0).all()
    for label in range(len(counts)):
        first, last = (place[s[labels[s] == label].numpy()] for s in (splits[2], splits[0]))
        assert first.max(initial=-1) < last.min(initial=len(labels))


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_within_an_image_of_a_tenth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice(7, size=500, p=rng.dirichlet(np.ones(7))) - 1)
    given = rng.choice([0, 0, 0, 2], size=500)
    for cut, splits in (
        (np.zeros(500, np.int64), stratified(np.arange(500), labels, np.zeros(500, np.int64))),
        (given, stratified(np.arange(500), labels, given)),
    ):
        free = cut == 0
        interval = free.sum() / (free.sum() // 10)
        for split in (1, 2) if free.all() else (1,):
            for label in labels.unique():
                exact = ((labels == label).numpy() & free).sum() / interval
                assert abs((labels[splits[split]] == label).sum() - exact) < 1
        if not free.all():
            assert sorted(splits[2].tolist()) == (cut == 2).nonzero()[0].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_splits_and_others_stay_when_one_goes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.array([b"g%d" % g for g in rng.integers(60, size=400)])
    order, given = rng.permutation(400), np.zeros(400, np.int64)
    splits = split_by_group([*groups], order, given)
    members = [set(groups[split.numpy()]) for split in splits]
    assert sum(map(len, members)) == len(set(groups))
    assert sorted(torch.cat(splits).tolist()) == [*range(400)]
    gone = groups != groups[0]
    left = split_by_group([*groups[gone]], np.arange(gone.sum()), given[gone])
    for before, after in zip(members, left, strict=True):
        assert set(groups[gone][after.numpy()]) == before - {groups[0]}


def test_a_file_for_each_split(tmp_path: Path) -> None:
    images, labels = numbered(300), np.arange(300) % 4
    parts = {"train": slice(0, 200), "validation": slice(200, 240), "test": slice(240, 300)}
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", images=images[part], labels=labels[part])
    files = {name: tmp_path / f"{name}.npz" for name in ("validation", "test")}
    train, validation, test = numbers(Arrays(tmp_path / "train.npz", **files).load("bytes", 0))
    assert (sorted(train), validation, test) == (
        [*range(200)],
        [*range(200, 240)],
        [*range(240, 300)],
    )
    data = Arrays(tmp_path / "train.npz", test=files["test"]).load("bytes", 0)
    assert sizes(data) == (180, 20, 60)
    assert numbers(data)[2] == [*range(240, 300)]
    assert numbers(data)[1] == fixed_order(200)[:20].tolist()
    held, stored = (
        Arrays(tmp_path / "train.npz", **files, memory_gib=gib).load("bytes", 0) for gib in (1, 0)
    )
    assert held.fingerprint == stored.fingerprint
    np.savez(tmp_path / "test.npz", images=images.astype(np.uint16))
    with pytest.raises(ValueError, match=r"uint8 of 1 x 2 x 2 in .*train.npz and uint16 of 1 x 2"):
        Arrays(tmp_path / "train.npz", **files).load("bytes", 0)
    with pytest.raises(ValueError, match=r"expected a file at nowhere.npy; .* --data.test FILE"):
        Arrays(tmp_path / "train.npz", test=Path("nowhere.npy")).load("bytes", 0)


def test_levels_are_those_of_all_splits_together(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.eye(40, dtype=np.uint8)[:, :36].reshape(40, 6, 6))
    np.save(tmp_path / "test.npy", noise(9, 6, 6))
    data_set = Arrays(tmp_path / "train.npy")
    assert data_set.default_domain == "binary"
    both = Arrays(tmp_path / "train.npy", test=tmp_path / "test.npy")
    assert both.default_domain == "real"
    assert both.load("bytes", 0).levels == 256


def test_arrays_with_shares_and_groups(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [200, 60, 40])
    np.savez(tmp_path / "images.npz", images=numbered(300), labels=labels)
    data = Arrays(tmp_path / "images.npz", stratify=True).load("bytes", 0)
    assert [getattr(data, s).labels.bincount().tolist() for s in SPLITS] == [
        [160, 48, 32], [20, 6, 4], [20, 6, 4],
    ]  # fmt: skip
    for groups in (np.arange(300) // 10, np.array([f"patient {n // 10}" for n in range(300)])):
        np.save(tmp_path / "groups.npy", groups)
        data_set = Arrays(tmp_path / "images.npz", groups=tmp_path / "groups.npy")
        members = [set(groups[split]) for split in numbers(data_set.load("bytes", 0))]
        assert sum(map(len, members)) == 30
        np.save(tmp_path / "test.npy", numbered(7))
        tested = Arrays(
            tmp_path / "images.npz", groups=tmp_path / "groups.npy", test=tmp_path / "test.npy"
        ).load("bytes", 0)
        assert numbers(tested)[2] == [*range(7)]
        train, validation, _ = (set(groups[split]) for split in numbers(tested))
        assert len(train) + len(validation) == 30


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.arange(5), "expected a group for each of 30 images; got 5"),
        (np.zeros(30), "whole numbers or text; got float64"),
        (np.array([None] * 30), "Python objects"),
    ],
)
def test_bad_groups_of_an_array(tmp_path: Path, groups: np.ndarray, said: str) -> None:
    np.save(tmp_path / "images.npy", numbered(30))
    np.save(tmp_path / "groups.npy", groups)
    with pytest.raises(ValueError, match=said):
        Arrays(tmp_path / "images.npy", groups=tmp_path / "groups.npy").load("bytes", 0)


def test_fewer_than_three_leave_splits_empty_which_no_run_can_have(tmp_path: Path) -> None:
    for count, left in ((1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1))):
        np.save(tmp_path / "images.npy", numbered(count))
        for stratify in (False, True):
            labels = torch.zeros(count, dtype=torch.int64)
            order, given = np.arange(count), np.zeros(count, np.int64)
            cut = stratified(order, labels, given) if stratify else tenths(order, given)
            assert tuple(map(len, cut)) == left
        save_pictures(tmp_path / f"{count}", noise(count, 4, 5))
        assert sorted(sizes(ImageFolder(tmp_path / f"{count}").load("bytes", 0))) == sorted(left)
    np.save(tmp_path / "images.npy", numbered(30))
    np.save(tmp_path / "groups.npy", np.zeros(30, int))
    (tmp_path / "stacks").mkdir()
    for name in ("one.tif", "two.tif"):
        first, *others = map(Image.fromarray, noise(6, 5, 4))
        first.save(tmp_path / "stacks" / name, save_all=True, append_images=others)
    for data, said in (
        (
            ImageFolder(tmp_path / "2"),
            "test images; got 1 / 1 / 0; add images, or name others with --data.val",
        ),
        (
            ImageFolder(tmp_path / "stacks", pages="all"),
            "got 6 / 6 / 0, as all pages of one file are in one split; add files, or name others "
            "with --data.validation and --data.test",
        ),
        (
            Arrays(tmp_path / "images.npy", groups=tmp_path / "groups.npy"),
            "got 30 / 0 / 0; add images in further groups",
        ),
    ):
        with pytest.raises(InputError, match=said):
            tiny(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_shares_need_labels_and_go_without_groups(refused, arrays) -> None:
    refused(arrays(numbered(30), stratify=True), "real", "--data.stratify: expected images with")
    with pytest.raises(ValueError, match=r"expected --data.stratify or --data.groups; got both"):
        arrays(numbered(30), stratify=True, groups=Path("groups.npy"))


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_shares_of_splits_that_are_all_given_are_remarked_on(tmp_path: Path, kind: str) -> None:
    names = ("train", "validation", "test")
    for seed, name in enumerate(names):
        images = noise(8, 5, 4, seed=seed)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(8) % 2)
        for label in range(2):
            save_pictures(tmp_path / "pictures" / name / f"{label}", images[label::2])
    path, *others = (tmp_path / f"{name}.npz" for name in names)
    given = dict(zip(names[1:], others, strict=True))
    data_set = Arrays(path, **given) if kind == "files" else ImageFolder(tmp_path / "pictures")
    plain, shared = (replace(data_set, stratify=s).load("bytes", 0) for s in (False, True))
    assert shared.fingerprint == plain.fingerprint
    said = "; --data.stratify has nothing to do, as all three splits are given"
    assert shared.note == plain.note + said
    if kind == "files":
        one_left = Arrays(path, test=given["test"], stratify=True).load("bytes", 0)
        assert "nothing to do" not in one_left.note


@pytest.mark.usefixtures("no_pictures", "empty_folder")
def test_on_the_command_line() -> None:
    np.savez("images.npz", images=numbered(60), labels=np.arange(60) % 2)
    np.savez("test.npz", images=numbered(9), labels=np.arange(9) % 2)
    options = ["--data", "Arrays", "--data.path", "images.npz", "--data.test", "test.npz"]
    assert exit_code(ppl_vae.fit, *OPTIONS, *options, "--data.stratify", "true", "--run", "r") == 0
    assert ppl_vae.load("r").data.sizes == [54, 6, 9]
