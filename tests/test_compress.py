"""compress and decompress as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import bits, save_pictures
from PIL import Image
from tiny_runs import exit_code, tree

import ppl_vae.compress
import ppl_vae.decompress
from ppl_vae.compress import compress, measure
from ppl_vae.data import Digits
from ppl_vae.decompress import decompress, decompress_to

ARCHIVES = Path(__file__).parent / "archives"


@pytest.fixture(autouse=True)
def _empty_folder(empty_folder: Path) -> None: ...


def test_arrays_tensors_splits_and_data_sets_come_back(binary, in_bytes) -> None:
    x = bits(30, 1, 8, 8)
    given = (
        x,
        x[:, 0],
        x.astype(bool),
        x.astype(np.int64),
        torch.tensor(x),
        torch.tensor(x).float(),
    )
    for images in given:
        assert np.array_equal(decompress(compress(binary, images), binary), x)
    test = binary.data.test
    assert np.array_equal(decompress(compress(binary, test), binary), test[:].numpy())
    whole = decompress(compress(in_bytes, Digits()), in_bytes)
    data = in_bytes.data
    every = np.concatenate([s[:].numpy() for s in (data.train, data.validation, data.test)])
    assert sorted(map(bytes, whole)) == sorted(map(bytes, every.astype(np.uint8)))


def test_a_run_may_be_named_by_its_path(binary) -> None:
    x = bits(10, 1, 8, 8)
    data = compress(binary.path, x)
    assert data == compress(binary, x)
    assert np.array_equal(decompress(data, str(binary.path)), x)
    decompress_to(data, "out", binary.path)
    assert np.array_equal(np.load("out/images.npy"), x)


def test_what_to_do_next_can_be_typed(binary, capsys) -> None:
    np.save("a.npy", bits(2, 8, 8))
    path = str(binary.path)
    assert exit_code(ppl_vae.compress, path, "a.npy", "-o", "a b.pvz") == 0
    said = capsys.readouterr().out
    assert f"decompress 'a b.pvz' --run {path} -o images" in said
    inside = [path, "a.npy", "-o", "c.pvz", "--embed_model", "true"]
    assert exit_code(ppl_vae.compress, *inside) == 0
    assert "decompress c.pvz -o images" in capsys.readouterr().out


def test_the_same_images_give_the_same_archive(binary) -> None:
    x = bits(30, 1, 8, 8)
    assert compress(binary, x) == compress(binary, torch.tensor(x))
    assert compress(binary, binary.data.train) == compress(binary, binary.data.train)


def test_pictures_come_back_with_names_pixels_and_modes(binary) -> None:
    images = bits(6, 8, 8)
    save_pictures(Path("in/of bits"), images[:3].astype(bool))
    save_pictures(Path("in/of bytes"), images[3:] * 255)
    Path("in/of bytes/000.png").rename("in/of bytes/first.PNG")
    assert exit_code(ppl_vae.compress, str(binary.path), "in", "-o", "a.pvz") == 0
    assert exit_code(ppl_vae.decompress, "a.pvz", "--run", str(binary.path), "-o", "out") == 0
    before, after = (
        {p.relative_to(f): p for p in f.rglob("*.*")} for f in (Path("in"), Path("out"))
    )
    assert {p.with_suffix(".png") for p in before} == set(after)
    for name, path in before.items():
        with Image.open(path) as one, Image.open(after[name.with_suffix(".png")]) as other:
            assert one.mode == other.mode
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_npy_file_comes_back_as_it_was(binary, in_bytes) -> None:
    arrays = {
        "flags": (binary, bits(9, 8, 8).astype(bool)),
        "grey": (
            in_bytes,
            np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8)).astype(np.uint8),
        ),
    }
    for name, (run, array) in arrays.items():
        np.save(f"{name}.npy", array)
        arguments = [str(run.path), f"{name}.npy", "-o", f"{name}.pvz", "--embed_model", "true"]
        assert exit_code(ppl_vae.compress, *arguments) == 0
        assert exit_code(ppl_vae.decompress, f"{name}.pvz", "-o", name) == 0
        assert Path(f"{name}/{name}.npy").read_bytes() == Path(f"{name}.npy").read_bytes()


def test_a_split_and_other_data_are_compressed(binary, capsys) -> None:
    path = str(binary.path)
    assert exit_code(ppl_vae.compress, path, "--split", "test", "-o", "new/a.pvz") == 0
    assert "300 images" in capsys.readouterr().out
    assert exit_code(ppl_vae.compress, path, "--data", "Digits", "-o", "b.pvz") == 0
    whole = decompress(Path("b.pvz").read_bytes(), binary)
    assert np.array_equal(whole, binary.other_data(Digits()).all[:].numpy())


def test_what_is_whole_is_salvaged(binary, monkeypatch, capsys) -> None:
    monkeypatch.setattr("ppl_vae.coding.archive._MOST_IMAGES", 4)
    save_pictures(Path("in"), bits(10, 8, 8).astype(bool))
    run = str(binary.path)
    assert exit_code(ppl_vae.compress, run, "in", "-o", "a.pvz") == 0
    data = bytearray(Path("a.pvz").read_bytes())
    data[-1] ^= 1
    Path("b.pvz").write_bytes(data)
    before = tree()
    assert exit_code(ppl_vae.decompress, "b.pvz", "--run", run, "-o", "out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "block 3, images 8 to 9, of the archive is damaged; --salvage true" in said
    assert tree() == before
    salvage = ["b.pvz", "--run", run, "-o", "out", "--salvage", "true"]
    assert exit_code(ppl_vae.decompress, *salvage) == 0
    assert "block 3, images 8 to 9, is damaged and not written" in capsys.readouterr().err
    assert {path.name for path in Path("out").iterdir()} == {f"{n:03}.png" for n in range(8)}


def test_where_nothing_else_is_whole_salvage_is_not_advised(binary, capsys) -> None:
    data = bytearray(compress(binary, bits(3, 1, 8, 8)))
    data[-1] ^= 1
    Path("b.pvz").write_bytes(data)
    assert exit_code(ppl_vae.decompress, "b.pvz", "--run", str(binary.path), "-o", "out") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("block 1, images 0 to 2, of the archive is damaged")


def test_images_that_are_lost_are_not_counted_and_black_in_an_array(
    binary, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("ppl_vae.coding.archive._MOST_IMAGES", 4)
    x = bits(10, 1, 8, 8)
    data = bytearray(compress(binary, x))
    data[-1] ^= 1
    Path("a.pvz").write_bytes(data)
    salvage = ["a.pvz", "--run", str(binary.path), "-o", "out", "--salvage", "true"]
    assert exit_code(ppl_vae.decompress, *salvage) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "out: 8 of 10 images"
    assert "block 3, images 8 to 9, is damaged; they are black" in said.err
    x[8:] = 0
    assert np.array_equal(np.load("out/images.npy"), x)


def test_what_is_measured(binary, in_bytes) -> None:
    for run in (binary, in_bytes):
        result = measure(run, data_points=200)
        codes = run.data.test[:200].to(torch.uint8).numpy()
        assert result["bits_per_dim"] == 8 * len(compress(run, codes)) / codes.size
        assert result["negative_elbo_bits_per_dim"] < result["bits_per_dim"]
        assert set(result["others"]) >= {"gzip", "bz2", "lzma", "PNG", "WebP"}
        assert result["model_bytes"] > 1000


CONFIGURATIONS = [
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    },
]


def test_other_processes_and_processors_give_the_same_bytes(in_bytes) -> None:
    x = in_bytes.data.test[:60].to(torch.uint8).numpy()
    data = compress(in_bytes, x, embed_model=True)
    Path("a.pvz").write_bytes(data)
    np.save("x.npy", x)
    program = (
        "import sys, numpy as np; from pathlib import Path; from ppl_vae import load;"
        "from ppl_vae.compress import compress; from ppl_vae.decompress import decompress;"
        "x, data = np.load('x.npy'), Path('a.pvz').read_bytes();"
        "assert np.array_equal(decompress(data), x);"
        "assert compress(load(sys.argv[1]), x, embed_model=True) == data"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(in_bytes.path)],
            env=os.environ | configuration,
            stderr=subprocess.PIPE,
        )
        for configuration in CONFIGURATIONS
    ]
    for process in running:
        _, error = process.communicate()
        assert process.returncode == 0, error.decode()


@pytest.mark.parametrize("path", sorted(ARCHIVES.glob("*.pvz")), ids=lambda path: path.stem)
def test_archives_of_earlier_releases_decode(path: Path) -> None:
    # Made by `compress(run, images, embed_model=True)` with runs of two epochs on Digits, networks
    # of 4 hidden units and D = 2; the images are test images and noise.
    expected = np.load(path.with_suffix(".npy"))
    assert np.array_equal(decompress(path.read_bytes()), expected)
