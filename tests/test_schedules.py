"""Learning rates against their closed forms."""

from itertools import pairwise
from math import cos, pi

import numpy as np
import pytest

from ppl_vae.training.schedules import constant, cosine, learning_rate_at, stepwise

PEAK = 0.3


def rates(steps: int, *arguments, **options) -> list[float]:
    return [learning_rate_at(step, PEAK, *arguments, **options) for step in range(steps)]


def test_a_cosine_begins_again_at_each_restart() -> None:
    """Loshchilov and Hutter (2017), equation (5): T_cur of T_i updates since the restart."""
    got = rates(100, 10, 100, restarts=[40, 60])
    expected = [PEAK * (step + 1) / 10 for step in range(10)]
    for cycle in (30, 20, 40):
        expected += [PEAK / 2 * (1 + cos(pi * current / cycle)) for current in range(cycle)]
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15)
    assert got[40] == got[60] == PEAK


def test_a_constant_rate() -> None:
    assert rates(50, 0, 50, schedule="constant") == [PEAK] * 50
    got = rates(50, 5, 50, schedule="constant", restarts=[20])
    assert got == [PEAK * step / 5 for step in range(1, 6)] + [PEAK] * 45


@pytest.mark.parametrize("per_epoch", [1, 7])
def test_the_stages_of_burda(per_epoch: int) -> None:
    """3^i epochs at 0.001 * 10^(-i/7) for i = 0, ..., 7."""
    expected: list[float] = []
    for stage in range(8):
        expected += [0.001 * 10 ** (-stage / 7)] * 3**stage * per_epoch
    assert len(expected) == 3280 * per_epoch
    total = len(expected)
    got = [learning_rate_at(step, 0.001, 0, total, "step") for step in range(total)]
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("cycle", [1, 3, 50, 1000])
def test_the_stages_keep_their_shares_in_a_cycle_of_any_length(cycle: int) -> None:
    ends = np.cumsum(3.0 ** np.arange(8)) / 3280
    stages = np.searchsorted(ends - 1e-12, np.arange(cycle) / cycle, side="right")
    got = [stepwise(done, cycle) for done in range(cycle)]
    np.testing.assert_allclose(got, 10 ** (-stages / 7), rtol=1e-14)


def test_every_schedule_begins_at_the_peak() -> None:
    for schedule in (cosine, constant, stepwise):
        assert schedule(0, 9) == 1.0
        parts = [schedule(done, 9) for done in range(9)]
        assert all(0 < later <= earlier for earlier, later in pairwise(parts))


def test_a_restart_in_the_warm_up_changes_nothing_of_it() -> None:
    assert rates(12, 10, 100, restarts=[5]) == rates(12, 10, 100)
