"""Bad input to `detect`: one line each, exit code 2, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_images import noise, save_pictures
from reports import train
from tiny_runs import exit_code

import ppl_vae.detect
from guides import BottomUp, ConditionalNormal, Delta
from models import Autoencoder, Conditional, Gaussian, Hierarchical
from ppl_vae.data import Arrays, Digits
from ppl_vae.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("runs") / "run", epochs=1)


@pytest.fixture
def refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the verb on a run, which must be refused, saying all of what is named."""

    def call(run: Run, arguments: list[object], *said: str) -> str:
        before = sorted(run.path.rglob("*"))
        out = tmp_path / "out"
        capsys.readouterr()
        words = map(str, [run.path, "--out", out, "--particles", 2, *arguments])
        assert exit_code(ppl_vae.detect, *words) == 2
        output = capsys.readouterr()
        *_, line = output.err.splitlines()
        assert line.startswith("error: ")
        assert output.err.count("error: ") == 1
        for part in said:
            assert part in line, line
        assert output.out == ""
        assert not out.exists()
        assert sorted(run.path.rglob("*")) == before
        return line

    return call


def images_of(folder: Path) -> list[object]:
    return ["--data", "ImageFolder", "--data.path", folder]


def test_unreadable_images_are_named(run: Run, refuses, tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", noise(5, 8, 8))
    (tmp_path / "images" / "003.png").write_bytes(b"no image")
    said = ("003.png", "--data.skip_unreadable true")
    refuses(run, images_of(tmp_path / "images"), *said)
    for place in range(5):
        (tmp_path / "images" / f"{place:03}.png").write_bytes(b"no image")
    arguments = [*images_of(tmp_path / "images"), "--skip_unreadable", "true"]
    refuses(run, arguments, "none of the 5 images can be read", "000.png")


@pytest.mark.parametrize(("shape", "got"), [((5, 9, 8), "1 x 9 x 8"), ((5, 8, 8, 3), "3 x 8 x 8")])
def test_other_sizes_and_channels(
    run: Run, refuses, tmp_path: Path, shape: tuple[int, ...], got: str
) -> None:
    save_pictures(tmp_path / "images", noise(*shape))
    as_they_are = [*images_of(tmp_path / "images"), "--data.colour", "rgb" if shape[3:] else "grey"]
    refuses(run, as_they_are, "1 x 8 x 8", got)


def test_another_domain(run: Run, refuses, tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", noise(20, 8, 8).astype(np.float32) / 7)
    refuses(run, ["--data", "Arrays", "--data.path", tmp_path / "floats.npy"], "binary")


def test_an_empty_folder(run: Run, refuses, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    refuses(run, images_of(tmp_path / "images"), "expected images", "found none")


def test_too_few_calibration_images(run: Run, refuses) -> None:
    refuses(run, ["--false_alarms", 0.001], "at least 999", "the validation split has 200")
    refuses(run, ["--false_discoveries", 0.001], "--false_discoveries 0.001", "at least 999")
    few = ["--calibration_points", 18]
    refuses(run, few, "--false_alarms 0.05", "at least 19 calibration images")
    refuses(run, ["--false_alarms", 1.5], "above 0 and below 1")
    both = ["--false_alarms", 0.1, "--false_discoveries", 0.1]
    refuses(run, both, "--false_alarms or --false_discoveries", "got both")


def test_a_guide_without_an_aggregate_posterior(refuses, tmp_path: Path) -> None:
    run = train(tmp_path / "run", model=Hierarchical, guide=BottomUp, epochs=1)
    refuses(run, ["--scores", "[exemplar_complexity]"], "BottomUp", "--scores '[complexity]'")


def test_a_background_of_other_data(run: Run, refuses, tmp_path: Path) -> None:
    ratio = ["--scores", "[likelihood_ratio]"]
    refuses(run, ratio, "--background", "--data.perturb")
    other = train(tmp_path / "other", data=Digits(without_classes=[3], perturb=0.2), epochs=1)
    refuses(run, [*ratio, "--background", other.path], str(other.path), "binary images of 1 x 8")
    real = train(tmp_path / "real", likelihood=Gaussian, epochs=1)
    refuses(run, [*ratio, "--background", real.path], str(real.path), "real images")
    refuses(run, [*ratio, "--background", run.path], "another run", "--data.perturb")
    same = train(tmp_path / "same", data=Digits(perturb=0.2), epochs=1)
    refuses(run, ["--background", same.path], "add likelihood_ratio to --scores")
    refuses(run, [*ratio, "--background", tmp_path / "none"], str(tmp_path / "none"))


def test_a_guide_that_is_a_point(refuses, tmp_path: Path) -> None:
    run = train(tmp_path / "run", model=Autoencoder, guide=Delta, epochs=1)
    refuses(run, [], "Delta", "is a point", "DiagonalNormal")


def test_labels_that_are_not_there(run: Run, refuses, tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", noise(5, 8, 8))
    arguments = [*images_of(tmp_path / "images"), "--normal_classes", "[1]"]
    refuses(run, arguments, "expected images with labels", "'[]'")
    refuses(run, ["--normal_classes", "[eleven]"], "--normal_classes", "eleven")
    given = train(tmp_path / "given", model=Conditional, guide=ConditionalNormal, epochs=1)
    refuses(given, images_of(tmp_path / "images"), "takes the class of an image as given")


def test_grey_levels_that_are_not_there(refuses, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "floats.npy", rng.normal(size=(400, 3, 3)).astype(np.float32))
    run = train(tmp_path / "run", data=Arrays(tmp_path / "floats.npy"), epochs=1)
    said = ("a code length needs grey levels", "--scores '[log_likelihood]'")
    refuses(run, ["--calibration_points", 30, "--scores", "[complexity]"], *said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scores", "[entropy]"], "complexity"),
        (["--scores", "[]"], "--scores"),
        (["--scores", "[rate, rate]"], "different"),
        (["--particles", 0], "particles"),
        (["--shown", 0], "shown"),
        (["--data_points", 301], "1 to 300"),
        (["--data_points", 0], "1 to 300"),
        (["--calibration_points", 201], "1 to 200"),
        (["--split", "train"], "--split"),
        (["--seed", -1], "seed"),
    ],
)
def test_options_out_of_range(run: Run, refuses, arguments: list[object], said: str) -> None:
    refuses(run, arguments, said)


def test_a_place_that_cannot_be_written(run: Run, refuses, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refuses(run, ["--out", tmp_path / "file"], "cannot write", "it is a file")
