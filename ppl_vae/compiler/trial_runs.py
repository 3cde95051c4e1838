"""Trial runs of Pyro programs, which refuse state that no graph could follow.

In a graph of tensor operations all numbers from Python are constants. So programs are called
several times on one batch under one seed, and refused if the result or an attribute changes, or if
they draw from the generators of Python or NumPy.
"""

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import numpy as np
import pyro

from ppl_vae.compiler.comparison import Gradients, NotCompilable, Trial, difference, first_line
from ppl_vae.compiler.python_state import python_state

__all__ = ["check_state", "in_words", "quiet"]

_CALLS = 3  # in a row, of which the first may fill caches


def check_state(trial: Trial, run: Gradients) -> None:
    """Runs programs several times in a row, and refuses those with state that no graph could have.

    Args:
        trial: The programs, and what to call them on.
        run: The function to trace: the programs, with their gradients or without.

    Raises:
        NotCompilable: If it does not run, has a parameter with a hook, or keeps state in Python.
    """
    for name, parameter in trial.programs.named_parameters():
        if parameter._backward_hooks:
            raise NotCompilable(f"has a hook on the parameter {name}, which no graph keeps")
    try:
        with pyro.validation_enabled(True):
            first = trial.outcome(run)
        before, generators = python_state(trial.programs), _generators()
        with pyro.validation_enabled(False):
            others = [trial.outcome(run) for _ in range(_CALLS - 1)]
    except Exception as error:
        raise NotCompilable(in_words(error)) from error
    for library, old, new in zip(("Python", "NumPy"), generators, _generators(), strict=True):
        if old != new:
            raise NotCompilable(f"draws from {library}'s random; use torch.rand")
    after = python_state(trial.programs)
    for name in before | after:
        if before.get(name) != after.get(name):
            raise NotCompilable(f"changes {name} in Python with every call; make it a buffer")
    for other in others:
        found = difference(first, other, relative=0.0)
        if found:
            raise NotCompilable(
                f"is another function in each call, in which {found}; keep its state in buffers"
            )


def _generators() -> tuple[Any, str]:
    return random.getstate(), repr(np.random.get_state())


def in_words(error: Exception) -> str:
    """The tracer's reason in one line, the commonest one in words for users."""
    reason = first_line(error)
    if "data-dependent" in reason:
        return "cannot be traced: a branch in Python depends on the data; use torch.where"
    return f"cannot be traced: {reason}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silences tracers and compilers; their callers report a failure."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
