"""A recipe of a published result, and what was measured of it."""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from ppl_vae.errors import InputError
from ppl_vae.pairs.pieces import suggest
from ppl_vae.runs.config import read_config

__all__ = ["PARTICLES", "RECIPES", "RESULTS", "Recipe", "recipes"]

# Beside the packages, in a checkout and where the project is installed.
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RESULTS = RECIPES / "results"

PARTICLES = 5_000  # as most papers have
_FEWER = 100  # where the bound is not what was published

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
        if not isinstance(epochs := options.get("epochs"), int):
            raise InputError(f"{path}: expected epochs, a whole number; got {epochs}")
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
    def drawn(self) -> int:
        """The particles that it is measured with."""
        return _FEWER if self.measure.endswith("_percent") else self.particles

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
        if self.drawn not in (PARTICLES, _FEWER):
            one += f" ({self.drawn:,} particles)"
        return f"{one} (one seed{missing})" if missing else one

    @property
    def finished(self) -> bool:
        """Whether there is a result, of all the epochs that are planned."""
        return min((run["planned_epochs"] for run in self.runs), default=0) >= self.epochs

    @property
    def done(self) -> str:
        """The epochs of the result; of how many, where more are planned; after those before it."""
        count = _range([run["epochs"] for run in self.runs] or [0])
        if not self.finished:
            count += f" of {self.epochs:,}"
        begun = [run["epochs"] for run in self._begun]
        return f"{count} after {_range(begun)}" if begun else count

    @property
    def seconds(self) -> str:
        """Those of training, of all seeds together; after those of the runs that it begins at."""
        if not self.runs:
            return ""
        own, begun = (
            f"{sum(run['training_seconds'] for run in runs):,.0f}"
            for runs in (self.runs, self._begun)
        )
        return f"{own} after {begun}" if self._begun else own

    @property
    def machine(self) -> str:
        """The processor or card, and the threads."""
        return "; ".join(sorted({run["machine"] for run in self.runs}))

    @property
    def _begun(self) -> list[Mapping[str, Any]]:
        """What is known of the runs that those of the result begin at, each of them once."""
        return [run["begin"] for run in self.runs if "begin" in run]

    @property
    def _values(self) -> list[float]:
        return [run[self.measure] for run in self.runs]

    def _rounded(self, value: float) -> str:
        return f"{value:.{_MEASURES[self.measure][1]}f}"

    def _said(self, value: float, error: float) -> str:
        return f"{self._rounded(value)} +- {self._rounded(error)}"


def _range(numbers: Sequence[int]) -> str:
    return " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))


_NEEDED = dict.fromkeys(("reproduces", "measure", "source"), str)
_OPTIONAL = {
    "published": (int, float),
    **dict.fromkeys(("seeds", "particles"), int),
    **dict.fromkeys(("differs", "start", "features"), str),
}


def _first_lines(path: Path) -> dict[str, Any]:
    """The comment at the head of a recipe, by the names of a `Recipe`'s attributes."""
    kinds: dict[str, Any] = _NEEDED | _OPTIONAL
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    try:
        about = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))
    except (yaml.YAMLError, ValueError):  # the latter of dates that there are not
        about = None
    if (
        isinstance(about, dict)
        and _NEEDED.keys() <= about.keys()
        and all(isinstance(value, kinds.get(name, ())) for name, value in about.items())
        and about["measure"] in _MEASURES
    ):
        return about
    raise InputError(
        f"{path}: expected first lines '# reproduces: TEXT', '# source: TEXT' and '# measure: "
        f"NAME' with a name of {', '.join(_MEASURES)}, at most {', '.join(_OPTIONAL)} beside them, "
        f"and no colon within a text; got {about or 'none that can be read'}"
    )


def recipes() -> list[Recipe]:
    """All recipes, in the order of their names.

    Raises:
        InputError: If one cannot be read, or begins at one that is not there.
    """
    paths = sorted(RECIPES.glob("*.yaml"), key=attrgetter("stem"))
    every = [Recipe.read(path) for path in paths]
    names = [recipe.name for recipe in every]
    for recipe in every:
        if recipe.begins_at and recipe.begins_at not in names:
            raise InputError(f"{recipe.path}: {suggest(recipe.begins_at, names)}")
    return every
