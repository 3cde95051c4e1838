"""Missing entries of scikit-learn's tables: a pair trained on data with holes, beside imputers.

    python benchmarks/imputation.py --runs DIR

Half of the entries are missing at random, in training and in test rows alike. A run that is there
already is not trained again, and one that was stopped goes on. The table goes to
benchmarks/imputation.md.
"""

import warnings
from functools import partial
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

Rows = NDArray[np.float64]


def main(runs: Path, seeds: int = 5, missing: float = 0.5, test_rows: int = 100) -> None:
    """Trains what is missing, measures it and writes the table.

    Args:
        runs: The folder of the runs.
        seeds: Each with a split, missing entries and a training of its own.
        missing: The probability that an entry is missing.
        test_rows: At most; a fifth of the rows otherwise.
    """
    lines = [
        "# Missing entries of tables",
        "",
        f"Made by `python benchmarks/imputation.py`: {100 * missing:.0f} % of the entries of",
        "scikit-learn's tables are missing at random, in training and in test rows. In the table",
        "is the root mean squared error of the missing entries of the test rows (at most",
        f"{test_rows}), in standard deviations of their columns. It is the mean over {seeds}",
        "seeds, each with a split, missing entries and a training of its own, and has the standard",
        "error of that mean. Columns that are constant among what is seen of the training rows are",
        "left out.",
        "",
        "The pair is the default one of a table with 10 latents and one hidden layer of 128 units,",
        "trained on the rows with holes by `IWAE` with 20 particles; an entry is E[x|x_observed]",
        "by `restore --method importance`. scikit-learn's imputers have their defaults, and see",
        "the standardised columns.",
        "",
        table_row("", "rows", "columns", *IMPUTERS, PAIR),
        "|---" * (4 + len(IMPUTERS)) + "|",
    ]
    for name in TABLES:
        cases = [_case(name, seed, missing, test_rows) for seed in range(seeds)]
        errors: dict[str, list[float]] = {method: [] for method in (*IMPUTERS, PAIR)}
        for seed, (train, test, complete) in enumerate(cases):
            path = runs / f"{name.replace(' ', '-')}-{seed}"
            for method, imputed in _imputed(path, name, seed, train, test).items():
                error = ((imputed - complete)[np.isnan(test)] ** 2).mean() ** 0.5
                errors[method].append(float(error))
        table, _ = TABLES[name]
        rows, columns = table().data.shape
        lines.append(table_row(name, f"{rows:,}", columns, *map(_with_error, errors.values())))
    write(TABLE, lines)


def _case(name: str, seed: int, missing: float, test_rows: int) -> tuple[Rows, Rows, Rows]:
    """Training rows and test rows with missing entries, and the complete test rows.

    All are standardised by what is seen of the training rows.
    """
    table, _ = TABLES[name]
    generator = np.random.default_rng(seed)
    rows = generator.permutation(table().data)
    hidden = generator.random(rows.shape) < missing
    hidden[hidden.all(1)] = False  # such a row leaves nothing to impute from
    seen = np.where(hidden, np.nan, rows)
    first = len(rows) // 5
    vary = np.nanstd(seen[first:], 0) > 0
    seen, complete = seen[:, vary], rows[:, vary]
    mean, deviation = np.nanmean(seen[first:], 0), np.nanstd(seen[first:], 0)
    seen, complete = (seen - mean) / deviation, (complete - mean) / deviation
    few = min(first, test_rows)
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
