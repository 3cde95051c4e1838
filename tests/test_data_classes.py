"""The images of some classes alone, and training images whose values are replaced at a rate."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from own_images import SPLITS, joined, noise, save_pictures
from tiny_runs import Crash, crash_in_second_epoch, metrics, tiny

from guides import ConditionalNormal
from models import Conditional
from ppl_vae import load
from ppl_vae.data import MNIST, Arrays, Digits
from ppl_vae.data.conversion import perturbed
from ppl_vae.fit import resume
from ppl_vae.latents.views import sample

DIGITS = Digits(binarize="threshold")

# Classes


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"classes": [0, 1, 2]}, [0, 1, 2]),
        ({"classes": ("7", 3)}, [3, 7]),
        ({"without_classes": [8, np.int64(0)]}, [1, 2, 3, 4, 5, 6, 7, 9]),
        ({"classes": [4, 5, 6], "without_classes": ["5"]}, [4, 6]),
    ],
)
def test_every_split_has_the_chosen_classes_in_their_order(options, kept: list[int]) -> None:
    whole, some = DIGITS.load("binary", 0), replace(DIGITS, **options).load("binary", 0)
    assert some.class_names == tuple(map(str, kept))
    assert some.classes == len(kept)
    for split in SPLITS:
        before, after = getattr(whole, split), getattr(some, split)
        rows = np.isin(before.labels, kept)
        assert torch.equal(after[:], before[:][rows])
        np.testing.assert_array_equal(np.array(kept)[after.labels], before.labels[rows])
    for number in kept:
        assert kept[some.label_of(number)] == kept[some.label_of(str(number))] == number
    with pytest.raises(ValueError, match=f"expected one of {', '.join(map(str, kept))}; got 12"):
        some.label_of(12)
    labels = torch.cat([getattr(some, split).labels for split in SPLITS])
    counts = zip(kept, labels.bincount().tolist(), strict=True)
    listed = ", ".join(f"{number} {count}" for number, count in counts)
    assert some.note.endswith(f"; only {len(kept)} of 10 classes; classes {listed}")


def test_classes_are_named_by_folders_and_images_without_one_are_only_in_the_rest(tmp_path) -> None:
    for shade, name in enumerate(("unlabeled", "ant", "bee", "cat")):
        images = noise(30, 5, 4, seed=shade)
        images[:, 0, 0] = shade
        data_set = save_pictures(tmp_path / name, images)
    data_set = replace(data_set, path=tmp_path)

    def shades(**options) -> list[int]:
        images = joined(replace(data_set, **options).load("bytes", 0))[:, 0, 0, 0]
        return sorted(set(images.astype(int).tolist()))

    assert shades(classes=["ant", "cat"]) == shades(classes=[0, 2]) == [1, 3]
    assert shades(without_classes=["ant"]) == [0, 2, 3]
    data = replace(data_set, without_classes=["ant"]).load("bytes", 0)
    for split in (data.train, data.validation, data.test):
        assert split.labels.tolist() == [int(v) - 2 if v else -1 for v in split[:][:, 0, 0, 0]]


def test_names_that_begin_with_numbers_are_known_by_them(data_root) -> None:
    data = MNIST(root=data_root, without_classes=[8]).load("binary", 0)
    assert data.class_names is not None
    assert data.class_names[data.label_of(9)] == data.class_names[data.label_of("9")] == "9 - nine"
    with pytest.raises(ValueError, match=r"expected one of 0 - zero, .*; got 8"):
        data.label_of(8)


def test_images_that_stay_in_their_file_are_the_same(tmp_path) -> None:
    np.savez(tmp_path / "i.npz", images=noise(90, 5, 4), labels=np.arange(90) % 3 + 4)
    held = Arrays(path=tmp_path / "i.npz", classes=[4, 6])
    stored = replace(held, memory_gib=0)
    assert held.load("real", 0).fingerprint == stored.load("real", 0).fingerprint
    np.testing.assert_array_equal(joined(held.load("bytes", 0)), joined(stored.load("bytes", 0)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": [11]}, "--data.classes: expected one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; got 11"),
        ({"classes": [-1]}, "--data.classes: expected one of 0, 1, 2"),
        ({"without_classes": ["x"]}, "--data.without_classes: expected one of 0, 1, 2"),
        ({"classes": []}, "--data.classes: no training image is left"),
        ({"without_classes": range(10)}, "--data.without_classes: no training image is left"),
    ],
)
def test_classes_that_are_not_there(refused, options, said: str) -> None:
    options = {name: [*value] for name, value in options.items()}
    refused(Digits(**options), "binary", said)


def test_images_without_labels_have_no_classes(refused, arrays) -> None:
    refused(arrays(noise(20, 5, 4), classes=[0]), "real", "--data.classes: expected images with")


@pytest.mark.parametrize("classes", [3, "abc", [1.5], [None], [True], {"a": 1}])
def test_classes_are_a_list(classes) -> None:
    for option in ("classes", "without_classes"):
        with pytest.raises(ValueError, match=f"expected --data.{option} as a list of numbers or"):
            Digits(**{option: classes})


def test_a_run_of_some_classes_knows_them_by_their_names(tmp_path, no_pictures) -> None:
    pair = {"model": Conditional, "guide": ConditionalNormal}
    run = tiny(tmp_path / "run", data=Digits(classes=[3, 5, 8]), **pair)
    assert run.spec.classes == 3
    read = load(tmp_path / "run")
    assert read.config["data"]["init_args"]["classes"] == [3, 5, 8]
    assert sample(read, count=4, label=8)["y"].tolist() == [2] * 4
    with pytest.raises(ValueError, match=r"--data.classes: a run's data keep their conversion"):
        load(tmp_path / "run", data=Digits(classes=[3, 5]))


# Replaced values


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("levels", [2, 17, 256, 65_536])
def test_values_are_replaced_at_the_rate_by_uniform_levels(rate: float, levels: int) -> None:
    dtype = torch.uint8 if levels <= 256 else torch.int32
    raw = torch.full((200, 1, 20, 25), levels - 1, dtype=dtype)
    values = perturbed(raw, levels, rate)
    assert values.dtype == dtype
    count = raw.numel()
    counts = np.bincount(values.flatten().numpy(), minlength=levels)[:-1]
    changed = rate * (levels - 1) / levels  # a replaced value may be the old one
    assert abs(counts.sum() - count * changed) < 5 * np.sqrt(count * changed * (1 - changed) + 1)
    each = count * rate / levels
    assert abs(((counts - each) ** 2 / each).sum() - (levels - 1)) < 6 * np.sqrt(2 * levels)


@pytest.mark.parametrize(
    ("domain", "options"),
    [
        *(("binary", {"binarize": each}) for each in ("dynamic", "fixed", "threshold")),
        ("unit", {}),
        ("real", {"dequantize": "none"}),
    ],
)
def test_only_training_images_change_afresh_in_each_batch(domain, options) -> None:
    """Most digits are 0 along their left edge: whatever else is there was drawn."""
    rate, clean = 0.3, Digits(**options).load(domain, 0)
    data = Digits(**options, perturb=rate).load(domain, 0)
    for split in ("validation", "test"):
        assert torch.equal(getattr(data, split)[:], getattr(clean, split)[:])
    assert data.fingerprint == clean.fingerprint
    assert f"perturb {rate}" in data.note
    blank = clean.train.raw[:, 0, :, 0] == 0
    first, second = (data.train[:][:, 0, :, 0][blank] for _ in range(2))
    levels = 2 if domain == "binary" else 17
    assert set((first * (levels - 1)).round().int().tolist()) == {*range(levels)}
    seen = rate * (levels - 1) / levels  # 0 may be drawn too
    for changed, share in ((first > 0, seen), ((first > 0) & (second > 0), seen**2)):
        error = np.sqrt(share * (1 - share) / len(changed))
        assert abs(changed.float().mean() - share) < 5 * error


def test_no_rate_changes_nothing_and_needs_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = Digits().load("binary", 0).train[:]
    torch.manual_seed(0)
    assert torch.equal(Digits(perturb=0.0).load("binary", 0).train[:], before)


def test_a_perturbed_run_goes_on_bit_for_bit(tmp_path, no_pictures, monkeypatch) -> None:
    train = partial(tiny, data=Digits(perturb=0.2), epochs=3, checkpoint_seconds=0.0)
    whole = train(tmp_path / "whole")
    assert metrics(tiny(tmp_path / "clean", epochs=3).path) != metrics(whole.path)
    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.training.loop.events", crash_in_second_epoch)
        with pytest.raises(Crash):
            train(tmp_path / "stopped")
    assert len(metrics(tmp_path / "stopped")) == 1
    assert metrics(resume(tmp_path / "stopped").path) == metrics(whole.path)


def test_real_numbers_have_no_grey_levels_to_draw(refused, arrays) -> None:
    floats = np.random.default_rng(0).random((20, 5, 4), np.float32)
    refused(arrays(floats, perturb=0.1), "real", "--data.perturb draws grey levels", "uint8")
    with pytest.raises(ValueError, match=r"--data.perturb >= 0 and <= 1; got 2"):
        Digits(perturb=2)
