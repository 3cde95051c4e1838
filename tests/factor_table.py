"""The rows of a linear-Gaussian model, whose columns have units of their own."""

import numpy as np

ROWS, COLUMNS = 400, 6
UNITS = np.array([1.0, 0.01, 1000.0, 5.0, 0.3, 20.0])
CENTRES = np.array([0.0, 3.0, -500.0, 100.0, 0.2, 7.0])


def linear_gaussian() -> np.ndarray:
    """Rows of a linear-Gaussian model of two factors, whose columns have units of their own."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(2, COLUMNS))
    rows = rng.normal(size=(ROWS, 2)) @ loadings + 0.4 * rng.normal(size=(ROWS, COLUMNS))
    return CENTRES + UNITS * rows


TABLE = linear_gaussian()
