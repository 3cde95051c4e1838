"""The recipes of published results: each trains, and the list tells what was measured."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from own_images import noise, write_mnist
from scipy.io import savemat
from tiny_runs import exit_code, metrics

import ppl_vae.fit
import ppl_vae.recipes
from ppl_vae.runs.config import config_of
from ppl_vae.runs.recipe import RECIPES, RESULTS, Recipe, recipes

Printed = pytest.CaptureFixture[str]

EVERY = recipes()
TABLE = RECIPES.parent / "benchmarks" / "results.md"
TRAINING, TEST = 120, 20
FIRST = "# reproduces: it\n# source: none\n# measure: bits_per_dim\n"
SHORT = "what all of them reach is not known here"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MNIST and Frey Face in their layout, and posterior means of another run."""
    root = tmp_path_factory.mktemp("data")
    held_out = TRAINING + TEST
    training = noise(held_out, 28, 28), np.arange(held_out) % 10
    test = noise(TEST, 28, 28, seed=1), np.arange(TEST) % 10
    write_mnist(root, "MNIST", training, test)
    savemat(root / "frey_rawface.mat", {"ff": noise(560, 1_965)})
    draws = np.random.default_rng(0).standard_normal((TRAINING, 1, 1, 7), dtype=np.float32)
    for split in ("train", "validation", "test"):
        np.savez(root / f"{split}.npz", images=draws, labels=np.arange(TRAINING) % 10)
    return root


def _short(recipe: Recipe) -> list[str]:
    """Options of `fit` that make two steps of a recipe."""
    images = 1_565 if recipe.name == "frey-face" else TRAINING
    options = ["--epochs", "1", "--restart_epochs", "null", "--engine", "eager"]
    if "label_repeats" in recipe.options:
        options += ["--label_repeats", "1"]
    if "held_out" in recipe.options["data"].get("init_args", {}):
        options += ["--data.held_out", str(TEST)]
    return [*options, "--batch_size", str(-(-images // 2))]


@pytest.mark.usefixtures("no_pictures", "empty_folder")
@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_every_recipe_trains(recipe: Recipe, root: Path) -> None:
    names = {each.name: each for each in EVERY}
    assert {recipe.features, recipe.start} <= {None, *names}
    if recipe.start:
        first = names[recipe.start]
        assert exit_code(ppl_vae.fit, *first.arguments(root), *_short(first), "--run", "start") == 0
    options = [*recipe.arguments(root, "start"), *_short(recipe)]
    assert exit_code(ppl_vae.fit, *options, "--run", "run") == 0
    (row,) = metrics(Path("run"))
    assert row["steps"] == 2
    assert np.isfinite(list(row.values())).all()
    made = config_of(Path("run"))
    for name in ("model", "objective", "prior", "likelihood", "guide", "network"):
        if name in recipe.options:
            assert made[name]["class_path"] == recipe.options[name]["class_path"]
            assert made[name]["init_args"].items() >= (
                recipe.options[name].get("init_args", {}).items()
            )


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_a_result_is_of_the_recipe_as_it_is(recipe: Recipe) -> None:
    if not recipe.runs:
        assert recipe.name in {each.begins_at for each in EVERY}
        return
    kept = json.loads((RESULTS / f"{recipe.name}.json").read_text())
    assert kept["recipe_sha256"] == recipe.digest
    assert [run["seed"] for run in recipe.runs] == list(range(recipe.seeds))
    (row,) = (line for line in TABLE.read_text().splitlines() if f"[{recipe.name}]" in line)
    cells = row.split(" | ")
    assert {recipe.unit, recipe.ours, recipe.seconds, recipe.machine} <= set(cells)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed):
    """What the verb prints of a recipe of two seeds and ten epochs, after these runs."""
    (tmp_path / "two.yaml").write_text(
        "# reproduces: nothing\n# measure: classification_error_percent\n# published: 3.5\n"
        "# source: nobody (2020), table 1\n# seeds: 2\n"
        "data:\n  class_path: ppl_vae.data.Digits\nepochs: 10\n"
    )
    monkeypatch.setattr("ppl_vae.runs.recipe.RECIPES", tmp_path)
    monkeypatch.setattr("ppl_vae.runs.recipe.RESULTS", tmp_path)

    def run(*runs: tuple[float, int], name: str = "") -> str:
        measured = [
            {
                "classification_error_percent": value,
                "classification_error_percent_standard_error": 0.3,
                "epochs": epochs,
                "planned_epochs": epochs,
                "training_seconds": 1000.4,
                "machine": "abacus, 1 thread",
            }
            for value, epochs in runs
        ]
        (tmp_path / "two.json").write_text(json.dumps({"runs": measured}))
        assert exit_code(ppl_vae.recipes, *([name] if name else [])) == 0
        return capsys.readouterr().out

    return run


def test_numbers_are_those_of_the_result_files(listed) -> None:
    values = [4.0, 7.0]
    error = statistics.stdev(values) / 2**0.5
    spread = f", 4.00 to 7.00, mean 5.50 +- {error:.2f}"
    for name in ("", "two"):
        said = listed(*((v, 10) for v in values), name=name)
        number = f"median 5.50 (2 seeds){spread if name else '  '}"
        assert all(word in said for word in (number, "3.50", "2,001", "abacus, 1 thread"))
        assert SHORT not in said
    assert "nobody (2020), table 1" in listed(name="two")


@pytest.mark.parametrize(
    ("runs", "ours", "epochs"),
    [
        ([], "not run", "0 of 10"),
        ([(4.0, 6)], "4.00 +- 0.30 (one seed of 2)", "6 of 10"),
        ([(4.0, 6), (7.0, 10)], "(2 seeds)", "6 to 10 of 10"),
        ([(4.0, 6), (7.0, 6)], "(2 seeds)", "6 of 10"),
    ],
)
def test_a_shorter_run_is_said_to_be_one(listed, runs, ours: str, epochs: str) -> None:
    for name in ("", "two"):
        said = listed(*runs, name=name)
        assert ours in said
        assert f"  {epochs}" in said
        assert (SHORT in said) == bool(runs)


def test_more_epochs_than_planned_are_no_shorter_run(listed) -> None:
    said = listed((4.0, 10), (7.0, 12))
    assert "10 to 12" in said
    assert SHORT not in said
    said = listed((4.0, 10))
    assert "4.00 +- 0.30 (one seed of 2)" in said
    assert SHORT not in said


def test_a_recipe_says_where_it_begins(capsys: Printed) -> None:
    def described(*name: str) -> str:
        assert exit_code(ppl_vae.recipes, *name) == 0
        return capsys.readouterr().out

    rows = {line.split()[0]: line for line in described().splitlines()}
    for name, beginning, folder, option, run in (
        ("burda2016-iwae", "burda2016-iwae-5", "", "--start_from", ""),
        ("jiang2017-vade", "jiang2017-vade-start", "-0", "--start_from", "-0"),
        ("kingma2014-m1-m2", "tomczak2018-vampprior", "/means", "--data.path", "-0"),
    ):
        assert rows[name].endswith(f"  {beginning}")
        said = described(name)
        assert f"begins at   RUNS/{beginning}{folder}, " in said
        assert f"{option} RUNS/{beginning}{folder}" in said
        assert f"ppl_vae.evaluate RUNS/{name}{run} --particles" in said
    for said in (rows["jiang2017-vade-start"], described("jiang2017-vade-start")):
        assert "others begin at it" in said
        assert " 20" in said
        assert "0 of 20" not in said
    assert "others begin at it" not in rows["burda2016-iwae-5"]  # it has a number


def test_a_result_keeps_what_it_begins_at(tmp_path: Path) -> None:
    """Another first recipe makes another result, whether its run or its means are used."""
    first = tmp_path / "first.yaml"
    for part in ("start", "features"):
        then = tmp_path / f"{part}.yaml"
        then.write_text(f"{FIRST}# {part}: first\nepochs: 1\n")
        digests = set()
        for epochs in (2, 3):
            first.write_text(f"{FIRST}epochs: {epochs}\n")
            digests.add(Recipe.read(then).digest)
        assert len(digests) == 2


def test_an_unknown_recipe_is_refused(capsys: Printed) -> None:
    assert exit_code(ppl_vae.recipes, "burda") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "burda2016-vae" in said


@pytest.mark.parametrize(
    "first",
    [
        "",
        "# a comment alone\n",
        "# reproduces: it\n# source: none\n",
        "# reproduces: it\n# source: none\n# measure: elbo\n",
        "# reproduces: a model: its bound\n# source: none\n# measure: bits_per_dim\n",
        "# reproduces: it\n# source: none\n# measure: [bits_per_dim]\n",
        f"{FIRST}# author: me\n",
        f"{FIRST}# published: about 3\n",
        f"{FIRST}# seeds: five\n",
    ],
)
def test_first_lines_that_name_no_result_are_refused(
    first: str, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text(f"{first}epochs: 1\n")
    monkeypatch.setattr("ppl_vae.runs.recipe.RECIPES", tmp_path)
    assert exit_code(ppl_vae.recipes) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path / 'own.yaml'}: expected first lines" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# start: nowhere\nepochs: 1\n", "own.yaml: got 'nowhere'"),
        ("seed: 1\n", "expected epochs, a whole number; got None"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(
    text: str, said: str, tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text(FIRST + text)
    monkeypatch.setattr("ppl_vae.runs.recipe.RECIPES", tmp_path)
    assert exit_code(ppl_vae.recipes) == 2
    assert said in capsys.readouterr().err
