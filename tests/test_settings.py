"""The settings of a training: what each takes, what it refuses, and early configs."""

import dataclasses
import inspect
from math import inf, nan
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from tiny_runs import metrics, tiny

from ppl_vae.errors import InputError
from ppl_vae.fit import fit, resume
from ppl_vae.objectives import MMD
from ppl_vae.pairs.pieces import ROLES
from ppl_vae.runs.settings import Settings

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(fit).parameters.items()
    if name in {field.name for field in dataclasses.fields(Settings)}
}


def wrong() -> list[Any]:
    """Values that a setting of each type cannot take."""
    cases = []
    for field in dataclasses.fields(Settings):
        types = (field.type, *get_args(field.type))
        values = [True, np.True_, "1", [1], -1, nan, 1 + 1j]
        if field.name in ("learning_rate", "latent_dim", "epochs", "batch_size", "patience"):
            values.append(0)
        if field.name in ("clip_norm", "skip_norm", "average"):
            values += [0, 0.0]
        if field.name in ("adam_beta1", "adam_beta2", "average"):
            values += [1, 1.5]
        if field.name == "restart_epochs":
            values = [True, 1, "1", [], [0], [1.5], [3, 2], [2, 2], [DEFAULTS["epochs"]]]
        if field.name == "start_from":
            values.remove("1")
        if field.name == "seed":
            values.append(2**32)
        if int in types:
            values += [1.5, 2.0, inf, np.float32(1)]
        if NoneType not in types:
            values.append(None)
        cases += [pytest.param(field.name, v, id=f"{field.name}={v!r}") for v in values]
    return cases


def test_the_settings_are_the_options_of_fit_that_are_no_pieces() -> None:
    settings = Settings.of(DEFAULTS)
    assert dataclasses.asdict(settings) == DEFAULTS
    others = set(inspect.signature(fit).parameters) - set(DEFAULTS)
    more = {"run", "overwrite", "on_epoch", "stop_when", "validation", "test"}
    assert others == {*ROLES, *more}


@pytest.mark.parametrize(("name", "value"), wrong())
def test_a_wrong_setting_is_named_with_what_came(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        Settings.of(DEFAULTS | {name: value})
    message = str(caught.value)
    assert f"--{name}" in message
    assert "expected" in message
    assert str(value) in message.partition("; got ")[2]


def test_an_epoch_and_a_half_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected --epochs >= 1, a whole number; got 1\.5"):
        fit(run=tmp_path / "run", epochs=1.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_pictures")
def test_numbers_of_numpy_are_taken(tmp_path: Path) -> None:
    numbers = {
        "latent_dim": np.int32(2), "epochs": np.int64(1), "seed": np.uint8(3),
        "learning_rate": np.float32(0.5), "warmup_epochs": np.float64(0.25),
    }  # fmt: skip
    run = tiny(tmp_path / "run", **numbers)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config == run.config
    assert [config[name] for name in numbers] == [2, 1, 3, 0.5, 0.25]


def test_what_settings_have_to_do_with_each_other() -> None:
    with pytest.raises(InputError, match="expected --warmup_epochs < --epochs 3; got 3"):
        Settings.of(DEFAULTS | {"epochs": 3, "warmup_epochs": 3})
    with pytest.raises(InputError, match="--label_repeats: expected --labels too; got 2"):
        Settings.of(DEFAULTS | {"label_repeats": 2})
    assert Settings.of(DEFAULTS | {"label_repeats": 2, "labels": 10}).label_repeats == 2
    assert Settings.of(DEFAULTS | {"checkpoint_seconds": inf}).checkpoint_seconds == inf


def test_a_config_of_an_early_run_has_fewer_settings(tmp_path: Path) -> None:
    late = {
        "weight_decay", "labels", "label_repeats", "engine", "precision", "schedule", "clip_norm",
        "restart_epochs", "optimizer", "adam_beta1", "adam_beta2", "adam_epsilon", "start_from",
        "average", "skip_norm",
    }  # fmt: skip
    early = {name: value for name, value in DEFAULTS.items() if name not in late}
    assert Settings.of(early) == Settings.of(DEFAULTS)
    for name in early:
        with pytest.raises(InputError, match=f"expected the setting {name}; got none"):
            Settings.of({n: value for n, value in early.items() if n != name})


@pytest.mark.usefixtures("no_pictures")
def test_a_run_with_a_wrong_setting_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tiny(tmp_path / "run", epochs=1).path
    config = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump(config | {"epochs": 2.5}))
    with pytest.raises(InputError, match=r"config\.yaml: expected --epochs >= 1, .* got 2\.5"):
        resume(path)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("images", "expected"), [(3, 1), (60, 48), (125, 100), (140, 100)])
def test_a_batch_is_of_a_hundred_images_or_of_all_there_are(arrays, tmp_path, images, expected):
    data = arrays(np.random.default_rng(0).integers(256, size=(images, 3, 4), dtype=np.uint8))
    run = tiny(tmp_path / "run", data=data)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config == run.config
    assert config["batch_size"] == expected
    given = tiny(tmp_path / "given", data=data, batch_size=expected)
    assert metrics(run.path) == metrics(given.path)
    assert metrics(run.path)[-1]["steps"] == 2 * -(-len(run.data.train) // expected)
    with pytest.raises(InputError, match=r"--batch_size: expected at most .* training images; got"):
        tiny(tmp_path / "large", data=data, batch_size=len(run.data.train) + 1)


def test_fewer_images_than_the_objective_compares(arrays, tmp_path) -> None:
    with pytest.raises(InputError, match=r"at least 2 training images, 2 images .*; got 1"):
        tiny(tmp_path / "run", data=arrays(np.zeros((3, 4, 4), np.uint8)), objective=MMD())
