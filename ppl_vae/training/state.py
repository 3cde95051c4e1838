"""The state of a training: where it stands, what it has found, and its checkpoint."""

import dataclasses
import math
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Data, check_same_data, fingerprint_in
from ppl_vae.errors import InputError
from ppl_vae.runs.checkpoints import (
    BEST,
    LAST,
    load_parameters,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from ppl_vae.runs.metrics import Row, epochs_since_best, write_metrics
from ppl_vae.runs.settings import Settings
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.drawing import Draw
from ppl_vae.training.schedules import learning_rate_at
from ppl_vae.training.step import SVIStep

__all__ = ["State"]


class State:
    """A pair in training: its step, its place in the plan, and the metrics so far.

    Args:
        step: One update of the pair.
        data: Training and validation images, on the device.
        spec: The spec of the pair as plain data, for the checkpoints.
        settings: How to train.
    """

    def __init__(
        self,
        step: SVIStep,
        data: Data,
        spec: dict[str, Any],
        settings: Settings,
    ) -> None:
        self.step = step
        self.ranks = step.ranks
        self.data = data
        self.spec = spec
        assert settings.batch_size is not None
        self.batch_size = settings.batch_size
        self.steps_per_epoch = math.ceil(len(data.train) / self.batch_size)
        self.steps = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=data.train.raw.device)
        self.rows: list[Row] = []
        self.best: dict[str, Tensor] = {}
        self.stopped = 0  # the epoch after which the caller wanted no more
        self.draw: Draw | None = None  # a compiled one
        self.captured: dict[int, CapturedStep] = {}  # by the size of their batches
        self.engine_before: str | None = None
        self.seconds = 0.0
        self._plan(settings)

    def _plan(self, settings: Settings) -> None:
        self.settings = settings
        restarts = settings.restart_epochs or []
        first = min([*restarts, settings.epochs])
        warmup = settings.warmup_epochs
        # That of the first plan, however many epochs have been added to it.
        warmup = min(1.0, first / 10) if warmup is None else warmup
        self.warmup_steps = round(warmup * self.steps_per_epoch)
        self.restarts = [epoch * self.steps_per_epoch for epoch in restarts]
        self.total_steps = settings.epochs * self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """That of the update after this many."""
        return learning_rate_at(
            step,
            self.settings.learning_rate,
            self.warmup_steps,
            self.total_steps,
            self.settings.schedule,
            self.restarts,
        )

    def extend(self, epochs: int) -> None:
        """Plans more epochs, for which the schedule begins again where the plan ends so far.

        A run that has ended before the end of its plan, by patience or because its caller stopped
        it, goes on from there. Patience counts from the new beginning.

        Args:
            epochs: Those of the whole run.

        Raises:
            InputError: If they are no more than it has planned, or has done once it has ended.
        """
        ended, done = self.finished, len(self.rows)
        last = done if ended else self.settings.epochs
        if epochs == last:
            return
        if not isinstance(epochs, Integral) or epochs < last:
            why = "has done" if ended else "is planned for"
            raise InputError(
                f"expected --epochs > {last}, those that the run {why}, a whole number; got "
                f"{epochs!r}"
            )
        restarts = [epoch for epoch in self.settings.restart_epochs or () if epoch < last]
        self._plan(
            dataclasses.replace(self.settings, epochs=epochs, restart_epochs=[*restarts, last])
        )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        done = len(self.rows)
        begun = max((e for e in self.settings.restart_epochs or () if e <= done), default=0)
        waited = min(epochs_since_best(self.rows), done - begun)
        patience = self.settings.patience
        patient = patience is None or waited < patience
        return not patient or self.stopped > begun or done >= self.settings.epochs

    @property
    def engine(self) -> str:
        """How steps are taken: eager, compiled or captured."""
        return "captured" if self.captured else "compiled" if self.step.compiled else "eager"

    def kept_row(self) -> Row:
        """The metrics of the parameters that are kept: the best epoch's under patience."""
        return self.rows[-1 - (epochs_since_best(self.rows) if self.settings.patience else 0)]

    def keep_best(self) -> None:
        """Gives the pair the parameters that are kept: the best, the averages or the last ones."""
        self.step.keep_average()
        if self.best:
            self.step.pair.load_state_dict(self.best)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint, the best parameters where patience asks for them, and the metrics.

        Of several processes the first one does; their states are the same.

        Raises:
            InputError: If a parameter is not finite: such a state is not kept.
            OSError: If a file cannot be written; the last good one stays.
        """
        if not self.ranks.first:
            return
        values = {f"the parameter {name}": value for name, value in self.step.parameters.items()}
        for name, value in {**values, "the loss": self.loss_sum}.items():
            if not value.isfinite().all():
                raise InputError(
                    f"training stopped: {name} is not finite; the last good checkpoint is kept; "
                    "try a smaller --learning_rate"
                )
        random_tensors, random_data = random_state()
        optimizer = {f"optimizer.{name}": value for name, value in self.step.state().items()}
        state = {
            "spec": self.spec,
            "fingerprint": self.data.fingerprint,
            "data": self.data.plain(),
            "engine": self.engine,
            "steps": self.steps,
            "seconds": self.seconds,
            "rows": self.rows,
            "stopped": self.stopped,
            "random": random_data,
        }
        if self.best:
            known = {name: state[name] for name in ("spec", "fingerprint", "data")}
            write_checkpoint(folder / BEST, self.best, known)
        with self.step.averaged():
            pair = self.step.pair.state_dict()
            tensors = {**pair, **optimizer, **random_tensors, "loss_sum": self.loss_sum}
            write_checkpoint(folder / LAST, tensors, state)
        write_metrics(folder, self.rows)

    def restore(self, folder: Path) -> None:
        """Goes back to the state that `save` wrote, random numbers included.

        Raises:
            InputError: If a checkpoint is damaged or of another pair.
        """
        tensors, state = read_checkpoint(folder / LAST)
        if "steps" not in state:
            raise InputError(f"{folder / LAST} has parameters only; training cannot go on from it")
        check_same_data(self.data, fingerprint_in(state))
        if self.settings.patience and state["rows"]:
            self.best = read_checkpoint(folder / BEST)[0]
            load_parameters(self.step.pair, self.best, folder / BEST)
        load_parameters(self.step.pair, tensors, folder / LAST)
        prefix = "optimizer."
        self.step.restore(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        self.loss_sum.copy_(tensors["loss_sum"])
        self.steps, self.rows, self.seconds = state["steps"], state["rows"], state["seconds"]
        self.stopped = state.get("stopped", 0)
        self.engine_before = state.get("engine") if self.steps else None
        restore_random_state(tensors, state["random"])
