"""Missing entries of scikit-learn's tables: a pair trained on data with holes, beside imputers.

    python benchmarks/imputation.py --runs DIR

Half of the entries are missing at random, in training and in test rows alike. A run that is there
already is not trained again, one that was stopped goes on, and a measurement that is there is read.
The table goes to benchmarks/imputation.md.
"""

import json
import warnings
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from tables import table_row, trained, write

from models import MLP
from models.corruptions import Masked
from ppl_vae import load
from ppl_vae.data import Arrays
from ppl_vae.errors import InputError
from ppl_vae.machine.files import whole_file
from ppl_vae.objectives import IWAE
from ppl_vae.restore import restore

TABLE = Path(__file__).with_suffix(".md")
TABLES = {
    "breast cancer": (load_breast_cancer, 200),
    "wine": (load_wine, 400),
    "digits": (load_digits, 100),
}
IMPUTERS = {
    "mean of the column": SimpleImputer,
    "KNNImputer": KNNImputer,
    "IterativeImputer": partial(IterativeImputer, random_state=0),
}
PAIR = "this pair"
MISSING = 0.5
TEST_ROWS = 100  # at most, of the fifth of the rows that are for the test

Rows = NDArray[np.float64]


def main(runs: Path, seeds: int = 5) -> None:
    """Trains and measures what is missing, and writes the table.

    Args:
        runs: The folder of the runs.
        seeds: Each with a split, missing entries and a training of its own.
    """
    lines = [
        "# Missing entries of tables",
        "",
        f"Made by `python benchmarks/imputation.py`: {100 * MISSING:.0f} % of the entries of",
        "scikit-learn's tables are missing at random, in training and in test rows. In the table",
        "is the root mean squared error of the missing entries of the test rows (at most",
        f"{TEST_ROWS}), in standard deviations of their columns. It is the mean over {seeds}",
        "seeds, each with a split, missing entries and a training of its own, and has the standard",
        "error of that mean. Columns that are constant among what is seen of the training rows are",
        "left out, and a seed that leaves one constant among those that the pair is not validated",
        "on is passed over.",
        "",
        "The pair is the default one of a table with 10 latents and one hidden layer of 128 units,",
        "trained on the rows with holes by `IWAE` with 20 particles; an entry is E[x|x_observed]",
        "by `restore --method importance`. scikit-learn's imputers have their defaults, and see",
        "the standardised columns.",
        "",
        table_row("", "rows", "columns", *IMPUTERS, PAIR),
        "|---" * (4 + len(IMPUTERS)) + "|",
    ]
    for name, (table, _) in TABLES.items():
        usable = (seed for seed in count() if _varies(name, seed))
        measured = [_errors(runs, name, seed) for seed in islice(usable, seeds)]
        methods = {method: [errors[method] for errors in measured] for method in measured[0]}
        rows, columns = table().data.shape
        lines.append(table_row(name, f"{rows:,}", columns, *map(_with_error, methods.values())))
    write(TABLE, lines)


def _varies(name: str, seed: int) -> bool:
    """Whether every column varies among what is seen of the rows that the pair is trained on."""
    train, test, _ = _case(name, seed)
    try:
        Arrays.of(train, test=test).load("real", seed=0)
    except InputError:
        return False
    return True


def _errors(runs: Path, name: str, seed: int) -> dict[str, float]:
    """The root mean squared error by method, computed unless it is there."""
    run = runs / f"{name.replace(' ', '-')}-{seed}"
    results = run / "imputation.json"
    if not results.is_file():
        train, test, complete = _case(name, seed)
        missing, errors = np.isnan(test), dict[str, float]()
        for method, imputed in _imputed(run, name, seed, train, test).items():
            error = ((imputed - complete)[missing] ** 2).mean() ** 0.5
            errors[method] = float(error)
        with whole_file(results) as file:
            file.write(json.dumps(errors, indent=2).encode())
    return json.loads(results.read_text())


def _case(name: str, seed: int) -> tuple[Rows, Rows, Rows]:
    """Training rows and test rows with missing entries, and the complete test rows.

    All are standardised by what is seen of the training rows.
    """
    table, _ = TABLES[name]
    generator = np.random.default_rng(seed)
    rows = generator.permutation(table().data)
    hidden = generator.random(rows.shape) < MISSING
    hidden[hidden.all(1)] = False  # such a row leaves nothing to impute from
    seen = np.where(hidden, np.nan, rows)
    first = len(rows) // 5
    vary = np.nanstd(seen[first:], 0) > 0
    seen, complete = seen[:, vary], rows[:, vary]
    mean, deviation = np.nanmean(seen[first:], 0), np.nanstd(seen[first:], 0)
    seen, complete = (seen - mean) / deviation, (complete - mean) / deviation
    few = min(first, TEST_ROWS)
    return seen[first:], seen[:few], complete[:few]


def _imputed(path: Path, name: str, seed: int, train: Rows, test: Rows) -> dict[str, Any]:
    """The test rows with their missing entries filled in, by method."""
    found: dict[str, Any] = {}
    for method, imputer in IMPUTERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found[method] = imputer().fit(train).transform(test)
    _, epochs = TABLES[name]
    trained(
        path,
        data=train,
        test=test,
        objective=IWAE(particles=20),
        network=partial(MLP, hidden=(128,)),
        latent_dim=10,
        batch_size=64,
        epochs=epochs,
        seed=seed,
        device="cpu",
    )
    run = load(path, device="cpu")
    filled = restore(run, test, corruption=Masked(), method="importance", draws=500)
    return found | {PAIR: filled.mean}


def _with_error(values: list[float]) -> str:
    return f"{np.mean(values):.3f} +- {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
