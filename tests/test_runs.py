"""The run directory: the files that `fit` writes, and how a damaged or edited one is refused."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_runs import LAST, exit_code, load_refuses, tiny, without_pictures

from ppl_vae import load
from ppl_vae.data import Digits
from ppl_vae.densities.weights import log_weights
from ppl_vae.fit import main
from ppl_vae.runs.checkpoints import read_checkpoint, write_checkpoint
from ppl_vae.runs.config import read_config
from ppl_vae.runs.run import Run

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with without_pictures():
        path = tmp_path_factory.mktemp("trained") / "run"
        return tiny(path, data=Digits(binarize="fixed"), seed=5, device="cpu")


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of it."""
    return dataclasses.replace(trained, path=shutil.copytree(trained.path, tmp_path / "run"))


def log_probabilities(run: Run) -> torch.Tensor:
    torch.manual_seed(8)
    with torch.no_grad():
        return log_weights(run.model, run.guide, run.data.test[:20], 3)


def test_what_is_loaded_is_what_was_trained(run: Run) -> None:
    loaded = load(run.path, device="cpu")
    assert (loaded.spec, loaded.config) == (run.spec, run.config)
    assert torch.equal(log_probabilities(loaded), log_probabilities(run))
    assert not loaded.model.training
    assert not loaded.guide.training
    assert loaded.summary == run.summary
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(loaded.data, split).raw, getattr(run.data, split).raw)


def test_a_run_is_loaded_in_another_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = run.path.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(log_probabilities(load("moved")), log_probabilities(run))
    assert load(moved).path == moved


def test_the_files_of_a_run(run: Run) -> None:
    names = {path.name for path in run.path.iterdir()} - {"tensorboard", ".lock"}
    assert names == {"config.yaml", "metrics.csv", "summary.json", LAST, "pictures"}
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config == run.config
    assert config["data"]["init_args"] == {
        "binarize": "fixed", "dequantize": "auto",
        "classes": None, "without_classes": None, "perturb": 0.0,
    }  # fmt: skip
    assert config["network"]["init_args"]["hidden"] == [8]
    assert (config["seed"], config["epochs"], config["latent_dim"]) == (5, 2, 2)


def test_the_config_repeats_the_run(run: Run, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert exit_code(main, "--config", f"{run.path}/config.yaml", "--run", f"{again}") == 0
    for name in ("metrics.csv", "config.yaml"):
        assert (again / name).read_bytes() == (run.path / name).read_bytes()
    assert torch.equal(log_probabilities(load(again)), log_probabilities(run))


def test_an_option_changes_the_config(run: Run, tmp_path: Path) -> None:
    other = ("--seed", "6", "--network.hidden", "[4]", "--run", f"{tmp_path}/other")
    assert exit_code(main, *other, f"--config={run.path}/config.yaml") == 0
    changed = {"seed": 6, "network": run.config["network"] | {"init_args": {}}}
    changed["network"]["init_args"] = {"hidden": [4], "activation": "tanh"}
    assert read_config(tmp_path / "other" / "config.yaml") == run.config | changed


# Damage


def truncated(content: bytes, kept: float) -> bytes:
    return content[: int(kept * len(content)) if isinstance(kept, float) else kept]


def flipped(content: bytes, place: float) -> bytes:
    """One bit of the tensors, which come after the header."""
    start = 8 + int.from_bytes(content[:8], "little")
    damaged = bytearray(content)
    damaged[start + int(place * (len(content) - start))] ^= 4
    return bytes(damaged)


@pytest.mark.parametrize(
    ("damage", "places", "said"),
    [
        (truncated, (0, 4, 100, 0.5, -1), ["truncated", "train again"]),
        (flipped, (0.3, 0.6, 0.9, 0.9999), ["damaged", "train again"]),
    ],
)
def test_a_damaged_checkpoint(run: Run, damage: Callable, places: tuple, said: list[str]) -> None:
    content = (run.path / LAST).read_bytes()
    for place in places:
        (run.path / LAST).write_bytes(damage(content, place))
        load_refuses(run.path, LAST, *said)


def test_every_flipped_bit_of_the_header(run: Run) -> None:
    content = (run.path / LAST).read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    for place in range(0, size, 211):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (run.path / LAST).write_bytes(damaged)
        load_refuses(run.path, LAST)


def test_a_checkpoint_that_a_training_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its header and its tensors, for which safetensors opens it again."""
    path, new = tmp_path / LAST, tmp_path / "new"
    write_checkpoint(path, {"loc": torch.zeros(3)}, {"steps": 1})
    write_checkpoint(new, {"loc": torch.ones(3)}, {"steps": 2})
    from_file = torch.UntypedStorage.from_file

    def late(*arguments: Any, **options: Any) -> torch.UntypedStorage:
        if new.exists():
            new.replace(path)
        return from_file(*arguments, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", late)
    tensors, state = read_checkpoint(path)
    assert state == {"steps": 2}
    assert torch.equal(tensors["loc"], torch.ones(3))


def test_a_checkpoint_of_another_kind(run: Run) -> None:
    """Of no version, of another one, without a parameter, and of another pair."""
    good = (run.path / LAST).read_bytes()
    with safe_open(run.path / LAST, framework="pt") as file:
        header = file.metadata()
    tensors, state = read_checkpoint(run.path / LAST)
    save_file(tensors, run.path / LAST)
    load_refuses(run.path, LAST, "was not written by ppl-vae")
    (run.path / LAST).write_bytes(b"\x80\x04pickled")
    load_refuses(run.path, LAST, "no safetensors file")
    save_file(tensors, run.path / LAST, metadata=header | {"version": "2"})
    load_refuses(run.path, "version 2", "reads version 1")
    del tensors["guide.encoder.layers.0.bias"]
    write_checkpoint(run.path / LAST, tensors, state)
    load_refuses(run.path, "guide.encoder.layers.0.bias")
    (run.path / LAST).write_bytes(good)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("- 8", "- 9"))
    load_refuses(run.path, LAST, "not a checkpoint of the pair in config.yaml", "size mismatch")
    (run.path / "config.yaml").write_text(text.replace("- 8", "- -1"))
    load_refuses(run.path, "expected hidden of sizes >= 1; got [-1]")


@pytest.mark.parametrize("name", [LAST, "config.yaml"])
def test_a_missing_file(run: Run, name: str) -> None:
    (run.path / name).unlink()
    load_refuses(run.path, name)


def test_no_run_directory(tmp_path: Path) -> None:
    load_refuses(tmp_path / "nowhere", "there is no such folder")
    load_refuses(tmp_path, "it has no config.yaml")
    (tmp_path / "file").touch()
    load_refuses(tmp_path / "file", "there is no such folder")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"version": 2}, ["version 2", "reads version 1"]),
        ({"guide": "guides.DiagonalNormal"}, ["expected guide as a mapping of class_path"]),
        ({"guide": {"init_args": {}}}, ["expected guide as a mapping of class_path"]),
        ({"guide": {"class_path": ["os"]}}, ["expected guide as a mapping of class_path"]),
        ({"guide": {"class_path": "guides.DiagonalNorml"}}, ["no class DiagonalNorml"]),
        ({"guide": {"class_path": "guides.Nothing.More"}}, ["cannot import guides.Nothing"]),
        ({"guide": {"class_path": "models.VAE"}}, ["not a subclass of guides.Guide"]),
        ({"guide": {"class_path": "os.system"}}, ["os.system", "--allow_code true"]),
        ({"guide": {"class_path": "ppl_vae.machine.files.os.system"}}, ["cannot import"]),
        ({"guide": None}, ["it has no guide"]),
        ({"data": None}, ["it has no data"]),
        ({"seed": None}, ["it has no seed"]),
        ({"liklihood": None}, ["config.yaml: got 'liklihood' (did you mean likelihood?)"]),
        ({"epochz": 3}, ["config.yaml: got 'epochz' (did you mean epochs?)"]),
        ({"model": {"class_path": "VAE", "init_args": {"x": 1}}}, ["no option 'x'"]),
    ],
    ids=str,
)
def test_an_edited_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: dict, said: list[str]
) -> None:
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("it ran"))
    pieces = {"data": "Digits", "model": "VAE", "network": "MLP", "guide": "DiagonalNormal"}
    config = {role: {"class_path": name} for role, name in (pieces | {"objective": "ELBO"}).items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"seed": 5} | edit))
    load_refuses(tmp_path, *said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a mapping of options; got NoneType"),
        (b"- 1\n- 2\n", "expected a mapping of options; got list"),
        (b"a: [1\nb: 2", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"guide: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
    ids=str,
)
def test_a_config_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("it ran"))
    (tmp_path / "config.yaml").write_bytes(content)
    load_refuses(tmp_path, "config.yaml", said)
