"""The learning curves of a run that trains in a notebook, as they grow."""

import time

from ppl_vae.latents.pictures import CURVES, draw_curves
from ppl_vae.machine.notebook import Pictures, Place
from ppl_vae.runs.directory import PICTURES
from ppl_vae.runs.metrics import Row
from ppl_vae.runs.run import Run

__all__ = ["Live"]

_SECONDS = 2.0  # between two pictures, at least
_SHARE = 10  # times as long as drawing one takes


class Live:
    """Shows the learning curves after an epoch, seldom enough not to slow the training.

    Args:
        run: The run that trains.
        rows: Its metrics, to which training adds.
    """

    def __init__(self, run: Run, rows: list[Row]) -> None:
        self._run = run
        self._rows = rows
        self._place = Place()
        self._next = 0.0

    def __call__(self) -> None:
        """Shows them if it is time to."""
        began = time.monotonic()
        if began < self._next:
            return
        draw_curves(self._run, self._rows)
        self._place.show(Pictures([self._run.path / PICTURES / CURVES]))
        took = time.monotonic() - began
        self._next = began + took + max(_SECONDS, _SHARE * took)

    def finish(self) -> None:
        """Shows the last curves, and the run's other pictures below them."""
        pictures = sorted((self._run.path / PICTURES).iterdir())
        self._place.show(Pictures([path for path in pictures if path.name == CURVES]))
        Place().show(Pictures([path for path in pictures if path.name != CURVES]))
