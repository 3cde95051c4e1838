"""How the learning rate goes: a warm-up, then cycles of one schedule.

A schedule is a function of the updates done in a cycle and those that the cycle has. It gives the
part of the peak that the next update takes.
"""

from collections.abc import Callable, Sequence
from math import cos, pi

from ppl_vae.runs.settings import Schedule

__all__ = ["constant", "cosine", "learning_rate_at", "stepwise"]

_STAGES = 8
_WHOLE = (3**_STAGES - 1) // 2  # epochs: 3^0 + ... + 3^7


def cosine(done: int, steps: int) -> float:
    """(1 + cos(pi t)) / 2 with t = done / steps, from one to zero.

    Loshchilov and Hutter (2017), equation (5).
    """
    return (1 + cos(pi * (done / steps))) / 2


def constant(done: int, steps: int) -> float:
    """One."""
    return 1.0


def stepwise(done: int, steps: int) -> float:
    """10^(-i/7) in stage i = 0, ..., 7, which is 3^i / 3280 of the cycle.

    Burda, Grosse and Salakhutdinov (2016), section 5: 3^i epochs in stage i, 3,280 in all.
    """
    begun = [stage for stage in range(_STAGES) if (3**stage - 1) // 2 * steps <= _WHOLE * done]
    return 10 ** (-begun[-1] / (_STAGES - 1))


_SCHEDULES: dict[Schedule, Callable[[int, int], float]] = {
    "cosine": cosine,
    "constant": constant,
    "step": stepwise,
}


def learning_rate_at(
    step: int,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    schedule: Schedule = "cosine",
    restarts: Sequence[int] = (),
) -> float:
    """Linear warm-up to the peak, then the schedule, which begins again at each restart.

    A cycle ends where the next one begins, the last one at the end of the run. The cosine with
    restarts is Loshchilov and Hutter (2017), equation (5), with cycles of these lengths.

    Args:
        step: Updates done so far.
        peak: The largest learning rate.
        warmup_steps: Updates over which it is reached.
        total_steps: Updates in the whole run.
        schedule: That of each cycle.
        restarts: Updates done where cycles after the first one begin, ascending.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    begin = max([warmup_steps, *(restart for restart in restarts if restart <= step)])
    end = min([total_steps, *(restart for restart in restarts if restart > step)])
    return peak * _SCHEDULES[schedule](step - begin, max(1, end - begin))
