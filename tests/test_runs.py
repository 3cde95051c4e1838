"""The run directory: the files that `fit` writes, and how a damaged or edited one is refused."""

import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_runs import LAST, OPTIONS, exit_code, tiny, without_pictures

from ppl_vae import load
from ppl_vae.data import Digits
from ppl_vae.densities.weights import log_weights
from ppl_vae.errors import InputError
from ppl_vae.evaluate import main as evaluate
from ppl_vae.fit import main
from ppl_vae.pairs.pieces import ROLES, is_outside, options_of, subclasses
from ppl_vae.runs.checkpoints import read_checkpoint, write_checkpoint
from ppl_vae.runs.config import read_config
from ppl_vae.runs.directory import create, free_path, locked, write_json
from ppl_vae.runs.run import Run

OWN_GUIDE = """
from pathlib import Path
from guides import DiagonalNormal
from models import MLP

Path(__file__).with_suffix(".imported").touch()


class Powered(DiagonalNormal):
    def __init__(self, spec, network=MLP, power: int = 1):
        super().__init__(spec, network)
        self.power = power

    def posterior(self, x):
        return super().posterior(x**self.power)
"""


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


@pytest.fixture
def own_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A user's own module; tells whether it was imported since it was asked last."""
    name = "powered_guide"
    (tmp_path / f"{name}.py").write_text(OWN_GUIDE)
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / f"{name}.imported"

    def imported() -> bool:
        was = mark.exists()
        mark.unlink(missing_ok=True)
        sys.modules.pop(name, None)
        return was

    imported()
    return imported


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
    assert config["data"]["init_args"] == {"binarize": "fixed", "dequantize": "auto"}
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


def refuse(path: Path, *said: str, allow_code: bool = False) -> None:
    with pytest.raises(InputError) as caught:
        load(path, allow_code=allow_code)
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


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
        refuse(run.path, LAST, *said)


def test_every_flipped_bit_of_the_header(run: Run) -> None:
    content = (run.path / LAST).read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    for place in range(0, size, 211):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (run.path / LAST).write_bytes(damaged)
        refuse(run.path, LAST)


def test_a_checkpoint_of_another_kind(run: Run) -> None:
    """Of no version, of another one, without a parameter, and of another pair."""
    good = (run.path / LAST).read_bytes()
    with safe_open(run.path / LAST, framework="pt") as file:
        header = file.metadata()
    tensors, state = read_checkpoint(run.path / LAST)
    save_file(tensors, run.path / LAST)
    refuse(run.path, LAST, "was not written by ppl-vae")
    (run.path / LAST).write_bytes(b"\x80\x04pickled")
    refuse(run.path, LAST, "no safetensors file")
    save_file(tensors, run.path / LAST, metadata=header | {"version": "2"})
    refuse(run.path, "version 2", "reads version 1")
    del tensors["guide.encoder.layers.0.bias"]
    write_checkpoint(run.path / LAST, tensors, state)
    refuse(run.path, "guide.encoder.layers.0.bias")
    (run.path / LAST).write_bytes(good)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("- 8", "- 9"))
    refuse(run.path, LAST, "not a checkpoint of the pair in config.yaml", "size mismatch")
    (run.path / "config.yaml").write_text(text.replace("- 8", "- -1"))
    refuse(run.path, "expected hidden of sizes >= 1; got [-1]")


@pytest.mark.parametrize("name", [LAST, "config.yaml"])
def test_a_missing_file(run: Run, name: str) -> None:
    (run.path / name).unlink()
    refuse(run.path, name)


def test_no_run_directory(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "there is no such folder")
    refuse(tmp_path, "it has no config.yaml")
    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "there is no such folder")


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
    refuse(tmp_path, *said)


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
    refuse(tmp_path, "config.yaml", said)


# A user's own class


def test_a_class_of_ones_own(
    own_guide: Callable[[], bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, refused without leave, and loaded, evaluated and gone on with otherwise."""
    path = tmp_path / "run"
    own = ["--guide.power", "3", "--guide", "powered_guide.Powered"]
    assert exit_code(main, *own, *OPTIONS, "--run", str(path)) == 0
    assert own_guide()
    config = read_config(path / "config.yaml")
    assert config["guide"] == {"class_path": "powered_guide.Powered", "init_args": {"power": 3}}

    refuse(path, "powered_guide.Powered is code from outside", "--allow_code true")
    capsys.readouterr()
    few = ["--particles", "2", "--data_points", "10"]
    assert exit_code(evaluate, str(path), *few) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: guide: powered_guide.Powered is code from outside")
    assert said.count("\n") == 1
    assert exit_code(main, "--config", f"{path}/config.yaml") == 2
    assert exit_code(main, "--resume", str(path)) == 2
    assert not own_guide()
    assert not (path / "evaluation.json").exists()

    assert load(path, allow_code=True).guide.power == 3
    assert own_guide()
    allow = ["--allow_code", "true"]
    assert exit_code(evaluate, str(path), *few, *allow) == 0
    assert json.loads((path / "evaluation.json").read_text())["particles"] == 2
    assert exit_code(main, "--resume", str(path), *allow) == 0
    again = ["--config", f"{path}/config.yaml", "--run", f"{tmp_path}/again", *allow]
    assert exit_code(main, *again) == 0
    assert read_config(tmp_path / "again" / "config.yaml") == config
    metrics = [(folder / "metrics.csv").read_bytes() for folder in (path, tmp_path / "again")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    "config",
    [
        "guide: OWN",
        "guide.class_path: OWN",
        "guide: other.yaml",
        "config: other.yaml",
        "guide: {class_path: DiagonalNormal, init_args: {class_path: OWN}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: OWN}}",
        "guide: {class_path: SemiAmortized, init_args: {guide.class_path: OWN}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: other.yaml}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: '{class_path: OWN}'}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: {class_path: OWN}}}",
        "guide: {class_path: SemiAmortized, init_args: {guide: {class_path: SemiAmortized, "
        "init_args: {guide: OWN}}}}",
        "guide: &own {class_path: SemiAmortized, init_args: {guide: *own}}",
        "allow_code: true\nguide: {class_path: OWN}",
    ],
)
def test_no_way_of_writing_a_config_imports_code(
    own_guide: Callable[[], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("class_path: powered_guide.Powered")
    config = config.replace("OWN", "powered_guide.Powered")
    Path("config.yaml").write_text(f"epochs: 0\n{config}\n")
    for argument in (["--config", "config.yaml"], ["--config=config.yaml"]):
        assert exit_code(main, *argument) == 2
    assert exit_code(main, "--guide", "other.yaml", "--epochs", "0") == 2
    assert not own_guide()


def test_an_option_that_is_no_piece_is_plain_data() -> None:
    """For any other type the parser might import what a config says."""
    plain = {int, float, bool, str, Path, NoneType, Sequence[int]}
    for base in ROLES.values():
        for cls in (c for c in subclasses(base) if not is_outside(f"{c.__module__}.")):
            for name, option in options_of(cls).items():
                kind = option.annotation
                parts = set(get_args(kind)) if isinstance(kind, UnionType) else {kind}
                assert name in ROLES or get_origin(kind) is Literal or parts <= plain, (cls, name)


def test_no_verb_imports_code_that_is_an_option_of_a_piece(
    own_guide: Callable[[], bool], run: Run
) -> None:
    for own in ("powered_guide.Powered", {"class_path": "powered_guide.Powered"}):
        guide = {"class_path": "guides.SemiAmortized", "init_args": {"guide": own}}
        (run.path / "config.yaml").write_text(yaml.safe_dump(run.config | {"guide": guide}))
        refuse(run.path, "powered_guide.Powered")
        assert exit_code(evaluate, str(run.path)) == 2
        assert exit_code(main, "--resume", str(run.path)) == 2
        assert exit_code(main, "--config", f"{run.path}/config.yaml") == 2
    assert not own_guide()


# Making one


def test_the_first_free_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_path("a") == Path("runs/a-1")
    for name in ("a-1", "a-2", "a-4"):
        Path("runs", name).mkdir(parents=True)
    assert free_path("a") == Path("runs/a-3")
    assert tiny(None, epochs=1).path == Path("runs/Digits-VAE-1")


def test_a_run_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "below" / "run"

    def fill(folder: Path) -> None:
        assert not path.exists()
        assert (folder / "config.yaml").exists()
        (folder / LAST).touch()

    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device; choose another place"):
        create(path, {"seed": 1}, fail)
    assert not list(tmp_path.iterdir())
    create(path, {"seed": 1}, fill)
    assert sorted(p.name for p in path.iterdir()) == [LAST, "config.yaml"]
    assert [p.name for p in path.parent.iterdir()] == ["run"]
    with pytest.raises(InputError, match="exists; go on with --resume"):
        create(path, {"seed": 2}, fill)
    assert read_config(path / "config.yaml") == {"seed": 1}


def test_a_lock_ends_with_its_process_though_a_worker_of_it_lives(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        with locked(tmp_path):
            worker = os.fork()
            if worker:
                os.write(writer, str(worker).encode())
            signal.pause()
    worker = int(os.read(reader, 20))
    with pytest.raises(InputError, match="is being trained by another process"), locked(tmp_path):
        pytest.fail("it is held")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with locked(tmp_path):
        os.kill(worker, signal.SIGKILL)  # it was alive
    os.close(reader)
    os.close(writer)


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"value": 0.1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 0.1}


def test_two_runs_that_were_named_alike_get_two_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was free when a run began may be another's when it is written."""
    monkeypatch.chdir(tmp_path)
    places = [create(Path("runs/A-1"), {"seed": seed}, lambda folder: None, partial(free_path, "A"))
              for seed in (1, 2)]  # fmt: skip
    assert places == [Path("runs/A-1"), Path("runs/A-2")]
    assert [read_config(place / "config.yaml") for place in places] == [{"seed": 1}, {"seed": 2}]
    assert sorted(p.name for p in Path("runs").iterdir()) == ["A-1", "A-2"]
