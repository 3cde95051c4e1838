"""Bad input to `compress` and `decompress`: one line each, exit code 2, and nothing is written."""

import errno
import io
import re
from pathlib import Path

import numpy as np
import pytest
from own_images import bits, save_pictures
from tiny_runs import exit_code, tiny, tree

import ppl_vae.compress
import ppl_vae.decompress
from models import ContinuousBernoulli
from ppl_vae.compress import compress, measure
from ppl_vae.decompress import decompress
from ppl_vae.errors import InputError


@pytest.fixture(autouse=True)
def _empty_folder(empty_folder: Path) -> None: ...


@pytest.mark.parametrize("images", [5, None, np.uint8(1), [bits(8, 8), bits(8, 9)]])
def test_what_is_no_array_of_images_is_refused_in_one_line(binary, images) -> None:
    with pytest.raises(InputError, match="expected images") as caught:
        compress(binary, images)
    assert "\n" not in str(caught.value)


def test_what_is_no_archive_is_refused_in_one_line(binary) -> None:
    for given in ("a.pvz", Path("a.pvz"), None):
        with pytest.raises(InputError, match=r"expected the bytes of an archive.*read_bytes"):
            decompress(given, binary)


def test_there_is_no_such_split_to_measure(binary) -> None:
    with pytest.raises(InputError, match=r"--split: expected one of.*got 'tst'"):
        measure(binary, "tst")


@pytest.fixture
def images() -> None:
    """Pictures and arrays that are not such as the run has."""
    save_pictures(Path("binary"), bits(2, 8, 8) * 255)
    save_pictures(Path("grey"), np.full((1, 8, 8), 7, np.uint8))
    save_pictures(Path("large"), bits(1, 9, 9) * 255)
    save_pictures(Path("colour"), np.zeros((1, 8, 8, 3), np.uint8))
    for suffix in ("png", "bmp"):
        save_pictures(Path("same"), bits(1, 8, 8) * 255, suffix=suffix)
    Path("broken.png").write_bytes(b"no picture")
    np.save("levels.npy", np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
    np.save("floats.npy", np.zeros((1, 8, 8)))
    np.save("wide.npy", np.zeros((1, 8, 9), np.uint8))
    np.save("number.npy", np.uint8(1))
    np.save("image.npy", bits(8, 8))
    Path("there").mkdir()
    Path("empty").mkdir()
    Path("none.npy").write_bytes(b"no array")
    Path("note.pvz").write_bytes(b"no archive")


BAD = {
    "no source": ([], "expected either files, a --split"),
    "two sources": (["binary", "--split", "test"], "got more than one"),
    "nothing there": (["nowhere"], "there is no nowhere"),
    "an empty folder": (["empty"], "in empty; found none; name another folder"),
    "grey levels": (["grey"], "two values, 0 and 255.*BetaBinomial"),
    "another size": (["large"], "expected images of 1 x 8 x 8.*1 x 9 x 9"),
    "colour": (["colour"], "mode RGB"),
    "one name": (["same"], "000.png; rename one"),
    "a broken picture": (["broken.png"], "could not read broken.png"),
    "levels in an array": (["levels.npy"], "two values, 0 and 1.*BetaBinomial"),
    "floats": (["floats.npy"], "uint8 or bool.*float64"),
    "another width": (["wide.npy"], "1 x 8 x 8.*1 x 8 x 9"),
    "a broken array": (["none.npy"], "could not read none.npy"),
    "an array of one number": (["number.npy"], r"1 x 8 x 8.*number.npy has the shape \(1,\)"),
    "an array of one image": (["image.npy"], r"1 x 8 x 8.*image.npy has the shape \(8, 8\)"),
    "array among others": (["levels.npy", "grey"], "one .npy file by itself"),
    "a batch of none": (["binary", "--batch_size", "0"], "batch_size >= 1"),
    "an option": (["binary", "--embed", "true"], "did you mean --embed_model"),
    "points without measuring": (["binary", "--data_points", "1"], "goes with --measure"),
    "measuring files": (["binary", "--measure", "true"], "leave files"),
    "measuring a model inside": (
        ["--measure", "true", "--embed_model", "true"],
        "--embed_model and --batch_size out",
    ),
    "measuring another batch": (
        ["--measure", "true", "--batch_size", "7"],
        "--embed_model and --batch_size out",
    ),
    "a folder to make": (["grey", "-o", "new/a.pvz"], "BetaBinomial"),
    "the archive exists": (["binary", "-o", "note.pvz"], "exists already"),
}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(name, binary, capsys) -> None:
    arguments, said = BAD[name]
    out = [] if "-o" in arguments or "--measure" in arguments else ["-o", "a.pvz"]
    before = tree()
    assert exit_code(ppl_vae.compress, str(binary.path), *arguments, *out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(said, error), error
    assert tree() == before


@pytest.mark.usefixtures("images")
def test_bad_archives_are_one_line_and_nothing_is_written(binary, in_bytes, capsys) -> None:
    run, other = str(binary.path), str(in_bytes.path)
    Path("a.pvz").write_bytes(compress(binary, bits(5, 1, 8, 8)))
    before = tree()
    for arguments, said in (
        (["note.pvz"], "expected an archive"),
        (["nowhere.pvz"], "expected an archive at nowhere.pvz"),
        (["a.pvz"], "name the run"),
        (["a.pvz", "--run", other], "expected the model"),
        (["a.pvz", "--run", "grey"], "grey"),
    ):
        assert exit_code(ppl_vae.decompress, *arguments, "-o", "out") == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert tree() == before
    assert exit_code(ppl_vae.decompress, "a.pvz", "--run", run, "-o", "there") == 2
    assert "exists already" in capsys.readouterr().err
    assert exit_code(ppl_vae.decompress, "a.pvz", "--run", run) == 2
    assert "expected --out with the folder to write" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_nothing_stays(binary, monkeypatch, capsys) -> None:
    for name, images in ("array", bits(5, 1, 8, 8)), ("pictures", bits(5, 8, 8) * 255):
        if name == "pictures":
            images = save_pictures(Path("in"), images).path
        Path(f"{name}.pvz").write_bytes(compress(binary, images))
    before, opened = tree(), open

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(file: object, mode: str = "r", *more: object, **others: object) -> object:
        of_images = str(file).endswith((".npy", ".png")) and "+" in mode
        return Full(file, mode) if of_images else opened(file, mode, *more, **others)

    for module in ("io", "builtins"):
        monkeypatch.setattr(f"{module}.open", full)
    for name in ("array", "pictures"):
        arguments = [f"{name}.pvz", "--run", str(binary.path), "-o", "new/out"]
        assert exit_code(ppl_vae.decompress, *arguments) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "error: cannot write new/out: No space left on device; choose another place"
        )
        assert tree() == before


def test_runs_of_floats_are_refused_with_the_remedy(tmp_path, no_pictures) -> None:
    run = tiny(tmp_path / "run", likelihood=ContinuousBernoulli, device="cpu")
    with pytest.raises(
        InputError, match="ContinuousBernoulli; train with --likelihood BetaBinomial"
    ):
        compress(run, np.zeros((1, 1, 8, 8)))


def test_names_that_lie_outside_are_refused(binary) -> None:
    from ppl_vae.coding.written import writer

    for name in ("../a.png", "/a.png", "a//b.png", "c:a.png", "a\\b.png", ""):
        with pytest.raises(InputError, match="inside of a folder"):
            writer({"kind": "pictures", "names": [name], "modes": "L"}, 1, 256, Path())
    for forged in ({}, [], {"kind": "pictures", "names": ["a"], "modes": "P"}, {"kind": "array"}):
        with pytest.raises(InputError, match="not those that compress writes"):
            writer(forged, 1, 256, Path())
