"""List the recipes of published results: `python -m ppl_vae.recipes`."""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import run_verb
from ppl_vae.errors import InputError
from ppl_vae.machine.progress import table
from ppl_vae.pairs.pieces import suggest
from ppl_vae.runs.config import read_config

__all__ = ["PARTICLES", "RECIPES", "RESULTS", "Recipe", "main", "recipes"]

# Beside the packages, in a checkout and where the project is installed.
RECIPES = Path(__file__).resolve().parents[1] / "recipes"
RESULTS = RECIPES / "results"

PARTICLES = 5_000  # as most papers have

_MEASURES = {
    "log_likelihood_nats_per_datum": ("log p(x), nats", 2),
    "bits_per_dim": ("bits per dim", 3),
    "classification_error_percent": ("error, %", 2),
    "clustering_accuracy_percent": ("accuracy, %", 2),
}


@dataclass(frozen=True)
class Recipe:
    """A config of `fit` whose first lines, a comment in YAML, say which result it reproduces.

    Args:
        path: The file, NAME.yaml.
        reproduces: What is trained, on what.
        measure: The number of `evaluate` that was published, by its name in `evaluation.json`.
        source: The paper, its table, and who else quotes the number.
        published: The number; None where there is none.
        seeds: How many runs a result is of, with the seeds 0, 1, ...
        particles: Of log p(x), which fewer make lower.
        features: The recipe whose runs give the images, as posterior means of z.
        start: The recipe whose run of the same seed gives the parameters to start from.
        differs: How it differs from what the paper did.
        options: The options of `fit`.
        runs: What was measured, by `benchmarks/results.py`; a mapping for each seed.
    """

    path: Path
    reproduces: str
    measure: str
    source: str
    options: Mapping[str, Any]
    published: float | None = None
    seeds: int = 1
    particles: int = PARTICLES
    features: str | None = None
    start: str | None = None
    differs: str | None = None
    runs: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe in a file, with the result that was measured of it.

        Raises:
            InputError: If the config cannot be read, or its first lines do not say what it is.
        """
        options = read_config(path)
        about = _first_lines(path)
        measured = RESULTS / f"{path.stem}.json"
        runs = json.loads(measured.read_text())["runs"] if measured.exists() else ()
        return cls(path, options=options, runs=tuple(runs), **about)

    @property
    def name(self) -> str:
        return self.path.stem

    def arguments(self, data: Path | str = "DIR", start: Path | str = "RUN") -> list[str]:
        """Those of `fit` that train it.

        Args:
            data: The folder of the data, or of the posterior means for a recipe of `features`.
            start: The run of the recipe `start`, where there is one.
        """
        places = {"root": Path(data)}
        if self.features:
            files = {"path": "train", "validation": "validation", "test": "test"}
            places = {name: Path(data, f"{split}.npz") for name, split in files.items()}
        options = [word for name, at in places.items() for word in (f"--data.{name}", str(at))]
        options += ["--start_from", str(start)] if self.start else []
        return ["--config", str(self.path), *options]

    @property
    def begins_at(self) -> str | None:
        """The recipe whose parameters or posterior means it needs, if any."""
        return self.start or self.features

    @property
    def epochs(self) -> int:
        """Those that it plans."""
        return int(self.options["epochs"])

    @property
    def digest(self) -> str:
        """SHA-256 of the options, which a result keeps: other options have another result.

        Those of the recipe that it begins at are among them.
        """
        options = dict(self.options)
        for part, name in (("start", self.start), ("features", self.features)):
            if name:
                options[part] = Recipe.read(self.path.with_stem(name)).digest
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    @property
    def unit(self) -> str:
        """The measure and its unit, as a person would say it."""
        return _MEASURES[self.measure][0]

    @property
    def ours(self) -> str:
        """The number, and its standard error over the test images.

        Of several seeds it is the median and the range, and the mean with the standard error over
        the seeds; and it says where some are missing.
        """
        if len(self.runs) < 2:
            return self.brief
        values = self._values
        low, high = map(self._rounded, (min(values), max(values)))
        error = statistics.stdev(values) / len(values) ** 0.5
        return f"{self.brief}, {low} to {high}, mean {self._said(statistics.fmean(values), error)}"

    @property
    def brief(self) -> str:
        """`ours`, of several seeds the median alone."""
        if not self.runs:
            return ""
        values = self._values
        missing = f" of {self.seeds}" if len(values) < self.seeds else ""
        if len(values) > 1:
            return (
                f"median {self._rounded(statistics.median(values))} ({len(values)} seeds{missing})"
            )
        one = self._said(values[0], self.runs[0][f"{self.measure}_standard_error"])
        if self.particles != PARTICLES:
            one += f" ({self.particles:,} particles)"
        return f"{one} (one seed{missing})" if missing else one

    @property
    def finished(self) -> bool:
        """Whether there is a result, of all the epochs that are planned."""
        return min((run["planned_epochs"] for run in self.runs), default=0) >= self.epochs

    @property
    def done(self) -> str:
        """The epochs of the result; of how many, where more are planned."""
        epochs = sorted({run["epochs"] for run in self.runs} or {0})
        count = " to ".join(f"{number:,}" for number in (epochs[0], epochs[-1])[: len(epochs)])
        return count if self.finished else f"{count} of {self.epochs:,}"

    @property
    def seconds(self) -> str:
        """Those of training, of all seeds together."""
        return f"{sum(run['training_seconds'] for run in self.runs):,.0f}" if self.runs else ""

    @property
    def machine(self) -> str:
        """The processor or card, and the threads."""
        return "; ".join(sorted({run["machine"] for run in self.runs}))

    @property
    def _values(self) -> list[float]:
        return [run[self.measure] for run in self.runs]

    def _rounded(self, value: float) -> str:
        return f"{value:.{_MEASURES[self.measure][1]}f}"

    def _said(self, value: float, error: float) -> str:
        return f"{self._rounded(value)} +- {self._rounded(error)}"


def _first_lines(path: Path) -> dict[str, Any]:
    """The comment at the head of a recipe, by the names of a `Recipe`'s attributes."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    needed, names = {"reproduces", "measure", "source"}, {field.name for field in fields(Recipe)}
    try:
        about = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    except yaml.YAMLError:
        about = None
    right = isinstance(about, dict) and needed <= set(about) <= names - {"path", "options", "runs"}
    if right and about["measure"] in _MEASURES:
        return dict(about)
    raise InputError(
        f"{path}: expected first lines '# reproduces: TEXT', '# source: TEXT' and '# measure: "
        f"NAME' with a name of {', '.join(_MEASURES)}, and no colon within a text; got "
        f"{about or 'others'}"
    )


def recipes() -> list[Recipe]:
    """All recipes, in the order of their names.

    Raises:
        InputError: If one cannot be read.
    """
    return [Recipe.read(path) for path in sorted(RECIPES.glob("*.yaml"), key=attrgetter("stem"))]


def main(arguments: list[str] | None = None) -> None:
    """The command line of `recipes`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("recipes", "List the recipes of published results.")
    parser.add_argument("name", nargs="?", help="A recipe, to see all that is known of it.")
    name = parser.parse_args(arguments).name
    every = recipes()
    if name is None:
        print(_listing(every))
        return
    if name not in (names := [each.name for each in every]):
        raise InputError(f"recipe: {suggest(name, names)}")
    print(_described(every[names.index(name)], every))


def _listing(every: Sequence[Recipe]) -> str:
    head = ("recipe", "measure", "published", "ours", "epochs", "seconds", "begins at")
    lines = [head]
    for each in every:
        published = "" if each.published is None else f"{each.published:.2f}"
        ours, epochs = _result(each.brief, each, every)
        cells = (each.name, each.unit, published, ours, epochs, each.seconds)
        lines.append((*cells, each.begins_at or ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    if machines := sorted({each.machine for each in every if each.runs}):
        rows += [f"measured on {'; '.join(machines)}"]
    if any(each.runs and not each.finished for each in every):
        rows += [_SHORT]
    rows += ["epochs and seconds leave out those of the recipe under 'begins at'"]
    rows += [f"each is a file in {RECIPES}; ppl-vae recipes NAME says how to train it"]
    return "\n".join(rows)


_SHORT = (
    "N of M epochs: the number is of a run of N epochs, where the recipe plans M; what all of "
    "them reach is not known here"
)


def _result(ours: str, recipe: Recipe, every: Sequence[Recipe]) -> tuple[str, str]:
    """The number, or why there is none, and the epochs."""
    if not recipe.runs and recipe.name in {each.begins_at for each in every}:
        return "others begin at it", f"{recipe.epochs:,}"
    return ours or "not run", recipe.done


def _described(recipe: Recipe, every: Sequence[Recipe]) -> str:
    ours, epochs = _result(recipe.ours, recipe, every)
    published = "none" if recipe.published is None else f"{recipe.published:.2f}"
    rows = {
        "reproduces": recipe.reproduces,
        "measure": recipe.unit,
        "published": f"{published}; {recipe.source}",
        "differs": recipe.differs or "nothing",
        "ours": ours,
        "epochs": epochs,
        "seconds": recipe.seconds,
        "machine": recipe.machine,
        "begins at": recipe.begins_at and _beginning(recipe),
        "train": " ".join(["python -m ppl_vae.fit", *recipe.arguments()]),
    }
    short = {"note": _SHORT} if recipe.runs and not recipe.finished else {}
    return table(recipe.name, {name: row for name, row in rows.items() if row} | short)


def _beginning(recipe: Recipe) -> str:
    part = "run" if recipe.start else "posterior means, by benchmarks/results.py,"
    return f"the {part} of {recipe.begins_at}, whose epochs and seconds are not counted here"


if __name__ == "__main__":
    main()
