"""`restore`: what it writes is what its equations say; its scores; bad input writes nothing."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import refused
from PIL import Image
from reports import train
from tiny_runs import exit_code, tree

import ppl_vae.restore
from guides import Delta
from models import Autoencoder, Gaussian
from models.corruptions import Downsampled, GaussianNoise, Masked, SaltAndPepper
from ppl_vae.data.corrupted_images import corrupted_images, listed_images
from ppl_vae.latents.restoring import seen_of
from ppl_vae.measures import denoisers
from ppl_vae.measures.denoisers import compare
from ppl_vae.measures.restorations import coverage, crps, psnr, ssim
from ppl_vae.pictures.restorations import write_images
from ppl_vae.restore import Restoration, restore, write
from ppl_vae.runs.run import Run

FEW = {"draws": 20, "particles": 100, "restorations": 3, "compare_with_others": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "grey"
    return train(folder, likelihood=Gaussian, epochs=20, learning_rate=1e-2, latent_dim=4)


@pytest.fixture(scope="module")
def halves(run: Run) -> Restoration:
    return restore(run, corruption=Masked(half="lower"), corrupt=True, count=4, **FEW)


def test_pixels_that_are_seen_stay_and_the_others_are_drawn(run, halves: Restoration) -> None:
    original = run.data.test[slice(4)].numpy()
    np.testing.assert_array_equal(halves.original, original)
    np.testing.assert_array_equal(np.isnan(halves.corrupted[:, :, 4:]), True)
    np.testing.assert_allclose(halves.mean[:, :, :4], original[:, :, :4], rtol=1e-5)
    for values in (halves.corrupted, halves.draws[:, 0], halves.draws[:, 2]):
        np.testing.assert_array_equal(values[:, :, :4], original[:, :, :4])
    assert (halves.standard_deviation[:, :, :4] == 0).all()
    assert (halves.standard_deviation[:, :, 4:] > 0).all()
    assert (halves.draws[:, 0, :, 4:] != halves.draws[:, 1, :, 4:]).all()
    assert halves.draws.shape == (4, 3, 1, 8, 8)


def test_the_scores_are_those_of_the_arrays(halves: Restoration) -> None:
    assert halves.original is not None
    numbers = halves.numbers["restoration"]
    error = ((halves.mean - halves.original) ** 2).mean((1, 2, 3))
    decibels = -10 * np.log10(error)
    assert numbers["psnr_decibels"] == pytest.approx(decibels.mean(), rel=1e-5)
    assert numbers["psnr_decibels_standard_error"] == pytest.approx(
        decibels.std(ddof=1) / 2, rel=1e-4
    )
    assert sum(halves.numbers["methods"].values()) == halves.numbers["images"] == 4


def test_one_seed_gives_one_restoration(run, halves: Restoration) -> None:
    again = restore(run, corruption=Masked(half="lower"), corrupt=True, count=4, **FEW)
    for name, values in halves.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], values)


def test_without_scikit_image_a_note_says_what_is_left_out(run: Run, monkeypatch) -> None:
    for module in ("restore", "measures.denoisers", "measures.restorations"):
        monkeypatch.setattr(f"ppl_vae.{module}.installed", lambda: False)
    few = FEW | {"compare_with_others": True}
    found = restore(run, corruption=Masked(half="left"), corrupt=True, count=2, **few)
    assert found.numbers["note"] == (
        "scikit-image is not installed; pip install 'ppl-vae[restore]' adds it"
    )
    assert found.others == found.numbers["others"] == {}
    assert "ssim" not in found.numbers["restoration"]


def test_a_note_says_that_wavelets_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(denoisers, "find_spec", lambda name: name != "pywt" or None)
    assert denoisers.missing(GaussianNoise()) == (
        "PyWavelets is not installed, so wavelets are left out; pip install 'ppl-vae[restore]' "
        "adds it"
    )
    assert denoisers.missing(Masked()) is denoisers.missing(Downsampled()) is None


def test_what_is_written_is_what_was_restored(halves: Restoration, tmp_path) -> None:
    paths = write(replace(halves, names=["b", "a", "b", "c/d"]), tmp_path / "out")
    assert [path.name for path in paths] == [
        "restoration.json", "restoration.npz", "restoration.png", "images",
    ]  # fmt: skip
    with np.load(tmp_path / "out" / "restoration.npz") as stored:
        assert {*stored} == {"corrupted", "mean", "standard_deviation", "draws", "original"}
        np.testing.assert_array_equal(stored["mean"], halves.mean)
    for name, image in zip(["b", "a", "b-2", "d"], halves.mean, strict=True):
        with Image.open(tmp_path / "out" / "images" / f"{name}.png") as picture:
            expected = np.rint(255 * np.clip(image[0], 0, 1))
            np.testing.assert_array_equal(np.asarray(picture), expected)


def test_crps_is_that_of_a_normal_and_of_a_point() -> None:
    x = torch.tensor([0.0, 0.7, -2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(20_000, 3, 1, 1, 1, generator=generator, dtype=torch.float64)
    z, normal = x.flatten().numpy(), scipy.stats.norm
    # Gneiting and Raftery (2007), equation 21, integrated.
    expected = z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - np.pi**-0.5
    np.testing.assert_allclose(crps(x, draws), expected, atol=4 / 20_000**0.5)
    point = torch.full((2, 3, 1, 1, 1), 0.5, dtype=torch.float64)
    np.testing.assert_allclose(crps(x, point), np.abs(z - 0.5))


@pytest.mark.parametrize("discrete", [False, True])
def test_coverage_is_90_percent_where_draws_and_original_are_alike(discrete: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(101, 50, 1, 10, 10, generator=generator)
    values = (values > 0.8).float() if discrete else values
    inside = coverage(values[0], values[1:], torch.Generator().manual_seed(1))
    assert abs(float(inside.mean()) - 0.9) < 4 * float(inside.std()) / 50**0.5
    narrow = coverage(values[0], values[1:] / 2, torch.Generator().manual_seed(1))
    assert discrete or float(narrow.mean()) < 0.7
    sure = coverage(values[0], torch.zeros_like(values[1:]), torch.Generator().manual_seed(1))
    assert sure.isnan().all()


def test_scikit_image_agrees_on_psnr_and_its_methods_remove_noise(run) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x = run.data.test[slice(4)]
    assert psnr(x, x * 0.9)[1] == pytest.approx(
        metrics.peak_signal_noise_ratio(x[1].numpy(), 0.9 * x[1].numpy(), data_range=1), rel=1e-5
    )
    assert ssim(x, x) == pytest.approx(1)
    generator = torch.Generator().manual_seed(0)
    for corruption in (GaussianNoise(0.3), SaltAndPepper(0.2), Masked(fraction=0.3)):
        y = corruption.corrupt(x, generator)
        before = psnr(x, y.nan_to_num()).mean()
        found = compare(corruption, y, x)
        assert max(psnr(x, each).mean() for each in found.values()) > before
    colours = torch.rand(1, 3, 16, 16, generator=generator)
    found = compare(GaussianNoise(0.1), colours, colours)
    assert {each.shape for each in found.values()} == {colours.shape}
    small = compare(Downsampled(2), torch.full((1, 1, 4, 4), 0.3), torch.zeros(1, 1, 8, 8))
    torch.testing.assert_close(small["bicubic"], torch.full((1, 1, 8, 8), 0.3))


def test_the_users_images_become_intensities(run, tmp_path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path in paths:
        Image.fromarray(grey).save(path)
    shape = run.spec.image_shape
    y, names = corrupted_images(listed_images([tmp_path]), run.facts, shape, False)
    assert names == ["first", "second"]
    np.testing.assert_allclose(y[1, 0], grey / 255, rtol=1e-6)
    floats = np.linspace(-1, 2, 64).reshape(1, 8, 8)
    y, names = corrupted_images(floats, run.facts, shape, False)
    np.testing.assert_allclose(y[0, 0], floats[0], rtol=1e-6)
    assert names is None
    holes = np.where(np.eye(8, dtype=bool), np.nan, 0.25)
    y, _ = corrupted_images(holes, run.facts, shape, True)
    np.testing.assert_array_equal(y[0, 0].isnan(), np.eye(8, dtype=bool))
    assert (y[0, 0][~torch.eye(8, dtype=torch.bool)] == 0.25).all()


def test_a_list_of_arrays_is_an_array_of_them(run) -> None:
    noisy = np.random.default_rng(0).standard_normal((2, 8, 8))
    shape = run.spec.image_shape
    one, _ = corrupted_images([*noisy], run.facts, shape, False)
    whole, _ = corrupted_images(noisy, run.facts, shape, False)
    torch.testing.assert_close(one, whole, rtol=0, atol=0)


def test_images_keep_the_names_of_their_files(run, tmp_path) -> None:
    names = [b"caf\xe9.png", b"scan.1.png", b"scan.2.png"]
    for name in names:
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / os.fsdecode(name))
    (tmp_path / "out").mkdir()
    y, stems = corrupted_images(listed_images([tmp_path]), run.facts, run.spec.image_shape, False)
    assert stems is not None
    write_images(y.numpy(), stems, tmp_path / "out")
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == names
    named = replace(run.data.test.first(3), names=np.array([b"of/" + name for name in names]))
    assert seen_of(run, named, Masked(half="left"), corrupt=True).names == stems


def test_the_command_line_restores_pictures_under_their_names(
    run, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from models.corruptions import Corruption\n"
        "@dataclass(frozen=True)\n"
        "class Darker(Corruption):\n"
        "    share: float = 0.5\n"
        "    def corrupt(self, x, generator):\n"
        "        return self.share * x\n"
        "    def log_prob(self, y, x):\n"
        "        return torch.distributions.Normal(self.share * x, 0.05).log_prob(y)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    Path("seen").mkdir()
    pixels = (127 * run.data.test[slice(2)].clamp(0, 1)).numpy().astype(np.uint8)
    for name, image in zip(("one", "two"), pixels, strict=True):
        Image.fromarray(image[0]).save(Path("seen") / f"{name}.png")
    (Path("seen") / "three.png").write_bytes(b"no picture")
    arguments = [
        str(run.path), "--corruption", "mine.Darker", "--corruption.share", "0.5", "--images",
        "seen", "--out", "out", "--draws", "20", "--particles", "100",
    ]  # fmt: skip
    before = tree()
    assert exit_code(ppl_vae.restore, *arguments) == 2
    error = capsys.readouterr().err
    assert "three.png" in error
    assert " --skip_unreadable true" in error
    assert tree() == before
    assert exit_code(ppl_vae.restore, *arguments, "--skip_unreadable", "true") == 0
    assert {path.name for path in Path("out/images").iterdir()} == {"one.png", "two.png"}
    with Image.open("out/images/one.png") as picture:
        restored = np.asarray(picture) / 255
    original = run.data.test[0].numpy()[0]
    assert np.corrcoef(restored.flatten(), original.flatten())[0, 1] > 0.8
    assert restored.mean() > 1.5 * pixels[0].mean() / 255


BAD = {
    "expected --corruption": ["--corrupt", "true"],
    "expected corrupted images (--images), or --corrupt true": ["--corruption", "Masked"],
    "leaves all images as they are": ["--corruption", "Masked", "--corrupt", "true"],
    "did you mean GaussianNoise": ["--corruption", "GausianNoise", "--corrupt", "true"],
    "unknown option of Masked": ["--corruption", "Masked", "--corruption.scale", "1"],
    "expected scale > 0": [
        "--corruption", "GaussianNoise", "--corruption.scale", "-1", "--corrupt", "true",
    ],
    "expected scale for GaussianNoise; it is unknown": [
        "--corruption", "GaussianNoise", "--corrupt", "true",
    ],
    "expected a factor that divides 8 and 8": [
        "--corruption", "Downsampled", "--corruption.factor", "3", "--corrupt", "true",
    ],
    "--count: expected 1 to": [
        "--corruption", "Masked", "--corruption.half", "left", "--corrupt", "true", "--count",
        "100000",
    ],
    "expected --draws >= 20": [
        "--corruption", "Masked", "--corruption.half", "left", "--corrupt", "true", "--draws", "2",
    ],
    "nothing there": ["--corruption", "GaussianNoise", "--images", "nowhere.png"],
    "expected a mask of shape (8, 8) or (1, 8, 8)": [
        "--corruption", "Masked", "--corruption.mask", "mask.npy", "--corrupt", "true",
    ],
    "expected pictures of 8 x 8 pixels": [
        "--corruption", "GaussianNoise", "--images", "large.png",
    ],
    "expected finite pixels for GaussianNoise": [
        "--corruption", "GaussianNoise", "--images", "holes.npy",
    ],
    "image 0 has none": ["--corruption", "Masked", "--images", "nothing.npy"],
    "could not read": ["--corruption", "GaussianNoise", "--images", "broken.npy"],
    "expected images of 1 x 8 x 8": ["--corruption", "GaussianNoise", "--images", "wide.npy"],
    "got (0, 1, 8, 8)": ["--corruption", "GaussianNoise", "--images", "empty.npy"],
    "expected an array or a tensor of numbers": [
        "--corruption", "GaussianNoise", "--images", "words.npy",
    ],
    "64 of 64 are infinite": ["--corruption", "Masked", "--images", "infinite.npy"],
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(
    said: str, run, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("mask.npy", np.eye(5))
    np.save("holes.npy", np.where(np.eye(8), np.nan, 0.5)[None])
    np.save("nothing.npy", np.full((1, 8, 8), np.nan))
    np.save("wide.npy", np.zeros((1, 1, 8, 9), dtype=np.float32))
    np.save("empty.npy", np.zeros((0, 8, 8)))
    np.save("words.npy", np.array(["one", "two"]))
    np.save("infinite.npy", np.full((1, 8, 8), np.inf))
    Path("broken.npy").write_bytes(b"no array")
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save("large.png")
    before = tree()
    arguments = [str(run.path), *BAD[said], "--out", "out"]
    assert exit_code(ppl_vae.restore, *arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1
    assert said in error[0]
    assert tree() == before


def test_numbers_are_checked_before_any_work(run: Run, monkeypatch) -> None:
    monkeypatch.setattr("ppl_vae.restore.seen_of", lambda *a: pytest.fail("it began"))
    half = {"corruption": Masked(half="left"), "corrupt": True}
    with refused("expected particles >= 25; got 3"):
        restore(run, **half, particles=3)
    with refused("expected method of auto, importance, nuts, annealing; got 'nut'"):
        restore(run, **half, method="nut")  # type: ignore[arg-type]


def test_a_guide_that_is_a_point_is_refused(run) -> None:
    spec = run.spec
    point = replace(run, model=Autoencoder(spec), guide=Delta(spec))
    with refused("a restoration needs q"):
        restore(point, corruption=Masked(half="left"), corrupt=True)
