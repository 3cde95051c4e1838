"""Trains and measures the recipes of published results, and writes the table of all of them.

    python benchmarks/results.py --data_root DIR --runs DIR

A run that is there already is measured and not trained again, or gone on with where it was stopped
or `--epochs` asks for more; a measurement that is there is read and not made again. Numbers go to
recipes/results, one file for each recipe, and the table of all of them to benchmarks/results.md.
"""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jsonargparse import auto_cli
from tables import table_row, write

from ppl_vae import load
from ppl_vae.evaluate import EVALUATION
from ppl_vae.measures.encoding import posterior_mean
from ppl_vae.pairs.pieces import suggest
from ppl_vae.runs.config import config_of
from ppl_vae.runs.directory import SUMMARY, write_json
from ppl_vae.runs.metrics import METRICS
from ppl_vae.runs.recipe import PARTICLES, RESULTS, Recipe
from ppl_vae.runs.recipe import recipes as read_recipes

TABLE = Path(__file__).with_suffix(".md")
SPLITS = ("train", "validation", "test")
MEANS = "means"


def main(
    data_root: Path,
    runs: Path,
    recipes: str = "",
    epochs: int | None = None,
    seeds: int | None = None,
) -> None:
    """Fills what is missing and writes the table, in place of the results of this checkout.

    Args:
        data_root: The folder that holds MNIST/raw and FreyFace/frey_rawface.mat.
        runs: Where the runs are kept.
        recipes: The names of those to train and measure, separated by commas; all unless given.
            The table is of all that have a result.
        epochs: Train for so many, rather than for those that a recipe plans. A later call with more
            goes on, and its schedule begins again there. A run that a recipe starts from has all
            its epochs.
        seeds: Take only the first so many seeds of a recipe of several.
    """
    every = {recipe.name: recipe for recipe in read_recipes()}
    names = recipes.split(",") if recipes else list(every)
    for option, number in (("epochs", epochs), ("seeds", seeds)):
        if number is not None and number < 1:
            _refuse(f"--{option}: expected at least 1; got {number}")
    if unknown := set(names) - every.keys():
        _refuse(f"--recipes: {suggest(min(unknown), list(every))}")
    for name in names:
        recipe = every[name]
        begin = None
        if recipe.features:
            first = every[recipe.features]
            begin = runs / first.name
            _train(first, 0, begin, data_root, epochs or first.epochs)
        measured = []
        for seed in range(min(seeds or recipe.seeds, recipe.seeds)):
            if recipe.start:
                first = every[recipe.start]
                begin = _path(first, seed, runs)
                _train(first, seed, begin, data_root, first.epochs)
            one = _measured(recipe, seed, data_root, runs, epochs, begin)
            if begin and (recipe.start or not seed):  # one run gives the means for all seeds
                one["begin"] = _trained(begin)
            measured.append(one)
            RESULTS.mkdir(exist_ok=True)
            write_json(RESULTS / f"{name}.json", {"recipe_sha256": recipe.digest, "runs": measured})
    write(TABLE, [*_HEAD, *(_row(recipe) for recipe in read_recipes() if recipe.runs), *_SHORT])
    print(TABLE.read_text())


def _measured(
    recipe: Recipe, seed: int, data_root: Path, runs: Path, epochs: int | None, begin: Path | None
) -> dict[str, Any]:
    """Trains, or goes on, and measures one run of a recipe; what a result keeps of it."""
    path = _path(recipe, seed, runs)
    data = _means(begin) if recipe.features and begin else data_root
    _train(recipe, seed, path, data, epochs or recipe.epochs, begin)
    if not _is_measured(path, recipe.drawn):
        _run("ppl_vae.evaluate", path, "--particles", recipe.drawn, "--data_points", "all")
    result = json.loads((path / EVALUATION).read_text())
    config = config_of(path)
    named = (recipe.measure, "elbo_nats_per_datum", "active_units")
    numbers = {n: result[n] for name in named for n in (name, f"{name}_standard_error")}
    return {
        "seed": seed,
        **_trained(path),
        "planned_epochs": config["epochs"],
        "restart_epochs": config.get("restart_epochs"),
        **numbers,
        "particles": result["particles"],
        "evaluation_seconds": result["seconds"],
    }


def _trained(path: Path) -> dict[str, Any]:
    """The epochs that a run has, their time, and the circumstances."""
    summary = json.loads((path / SUMMARY).read_text())
    epochs = len((path / METRICS).read_text().splitlines()) - 1  # without the head
    kept = ("training_seconds", "machine", "versions")
    return {"epochs": epochs} | {name: summary[name] for name in kept}


def _is_measured(path: Path, particles: int) -> bool:
    """Whether a run has an evaluation on all test images, with so many particles."""
    if not (path / EVALUATION).exists():
        return False
    result = json.loads((path / EVALUATION).read_text())
    wanted = particles, len(load(path).data.test)
    return (result["particles"], result["data_points"]) == wanted


def _path(recipe: Recipe, seed: int, runs: Path) -> Path:
    return runs / (recipe.name if recipe.seeds == 1 else f"{recipe.name}-{seed}")


def _train(
    recipe: Recipe, seed: int, path: Path, data: Path, epochs: int, begin: Path | None = None
) -> None:
    if not path.exists():
        restarts = [e for e in recipe.options.get("restart_epochs") or [] if e < epochs]
        options = ["--seed", seed, "--epochs", epochs, "--run", path]
        options += ["--restart_epochs", restarts or "null"]
        _run("ppl_vae.fit", *recipe.arguments(data, begin or "RUN"), *options)
        return
    made = config_of(path)
    _check_made_by(recipe, made, path)
    if made["epochs"] < epochs:
        for name in (EVALUATION, SUMMARY):  # of the parameters before
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / MEANS, ignore_errors=True)
        _run("ppl_vae.fit", "--resume", path, "--epochs", epochs)
    elif not (path / SUMMARY).exists():
        _run("ppl_vae.fit", "--resume", path)


def _check_made_by(recipe: Recipe, made: dict[str, Any], path: Path) -> None:
    """Refuses a run that was trained with other options than the recipe has by now."""
    for name, wanted in recipe.options.items():
        if name == "data":
            places = ("path", "validation", "test")
            options = wanted.get("init_args", {}).items()
            wanted = wanted | {"init_args": {n: v for n, v in options if n not in places}}
        if name not in ("epochs", "restart_epochs") and not _has(made.get(name), wanted):
            _refuse(f"{path}: {name} is {made.get(name)}, not {wanted}; train it again elsewhere")


def _has(made: Any, wanted: Any) -> bool:
    """Whether a value of a config is the wanted one, with defaults where that says nothing."""
    if isinstance(wanted, dict):
        return all(_has((made or {}).get(key), value) for key, value in wanted.items())
    return bool(made == wanted)


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _run(*words: object) -> None:
    """Runs a verb as one types it, so that what is published is what anybody can repeat."""
    command = [sys.executable, "-m", *map(str, words)]
    print(*command, flush=True)
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def _means(path: Path) -> Path:
    """A folder with the posterior means of a run, as images of 1 x D pixels with their labels.

    Dimensions that the run does not use are left out, since their means are noise about 0; the
    others are scaled to unit variance over the training images.
    """
    folder = path / MEANS
    if folder.exists():
        return folder
    run = load(path)
    means = {}
    for split in SPLITS:
        images = getattr(run.data, split)
        means[split] = posterior_mean(run.model, run.guide, images[:])
    spread = means["train"].std(0)
    used = spread > 0.1
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(exist_ok=True)
    for split, mean in means.items():
        images = (mean / spread)[:, None, None, used].cpu()
        labels = getattr(run.data, split).labels.cpu()
        np.savez(unfinished / f"{split}.npz", images=images, labels=labels)
    return unfinished.rename(folder)


_HEAD = [
    "# Published results, and ours",
    "",
    "Made by `python benchmarks/results.py --data_root DIR --runs DIR`, from the recipes in",
    "[recipes](../recipes); `ppl-vae recipes` lists them, `ppl-vae recipes NAME` says where each",
    "differs from its paper. All are of the 10,000 test images of MNIST, or of the 200 of Frey",
    f"Face. log p(x) is importance-sampled with {PARTICLES:,} particles, or as many as the row",
    "says, in nats per image; it is too low by a bias that falls with the particles. +- is one",
    "standard error: over the test images for one run, over the seeds for several. Seeds count",
    "from 0, and the columns ELBO and active units are those of seed 0.",
    "",
    "`60 of 300` epochs: the schedule is that of the recipe, in 60 epochs. Such a number says",
    "nothing of what all epochs reach. `25 + 35`: training went on, and its schedule began again",
    "there. Seconds are of training, of all seeds, on a machine that did other work too: no claim",
    "of speed. `24 after 40`: a recipe begins at the run of another, which has 40 epochs.",
    "",
    "| recipe | measure | published | ours | ELBO | active units | epochs | seconds | machine "
    "| source |",
    "|---|---|---|---|---|---|---|---|---|---|",
]

_SHORT = [
    "",
    "Where this falls short, and why:",
    "",
    "- burda2016-iwae-5-two-layers is 0.5 nats short of its paper. It has an eighth of the paper's",
    "  epochs, in batches five times as large. We think that more epochs are what is missing: the",
    "  IWAEs of 50 draws gained as they went on. A longer run was not made.",
    "- vahdat2020-nvae has 7 groups and 64 epochs, those of its start included; its paper has 15",
    "  groups and 400 epochs. Its bound on the training images is hardly above that on the",
    "  validation images, so that larger pairs and more epochs should bring more.",
    "",
    "What else the numbers need to be read:",
    "",
    "- A recipe that is not in the table has not been run yet, or is only where another begins.",
    "- The pairs of Burda et al. hold out 10,000 of the 60,000 training images for validation;",
    "  those of 50 draws and the VAE of one layer hold out 400, as in the authors' code,",
    "  github.com/yburda/iwae. The VampPrior holds out 400 too, where its paper has 10,000.",
    "- The VampPrior overfits: with images binarised once, its bound on the training images still",
    "  grows when that on the validation images has stopped.",
    "- M2 with its own networks of z and y finds classes in the pixels that are not the digits:",
    "  36 % error after ten epochs ([pieces](pieces.md)). The row here is of one cluster for each",
    "  class.",
    "- M1+M2 sees posterior means alone: digits that M1 mixes up stay mixed up. Its five seeds",
    "  choose the labels and start M2, all on one M1, so that their spread is not that of M1. Its",
    "  alpha, width, D and batches were chosen by the test errors of seeds 2 and 4.",
]


def _row(recipe: Recipe) -> str:
    first = recipe.runs[0]
    shown = recipe.measure.startswith(("log_likelihood", "bits_per_dim"))
    name = "elbo_nats_per_datum"
    elbo = f"{first[name]:.2f} +- {first[f'{name}_standard_error']:.2f}" if shown else ""
    published = "" if recipe.published is None else f"{recipe.published:.2f}"
    begins = [0, *(first["restart_epochs"] or ()), first["epochs"]]
    parts = " + ".join(f"{end - begin:,}" for begin, end in pairwise(begins))
    epochs = recipe.done.replace(f"{first['epochs']:,}", parts, 1)
    return table_row(
        f"[{recipe.name}](../recipes/{recipe.path.name})",
        recipe.unit,
        published,
        recipe.ours,
        elbo,
        first["active_units"],
        epochs,
        recipe.seconds,
        recipe.machine,
        recipe.source,
    )


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
