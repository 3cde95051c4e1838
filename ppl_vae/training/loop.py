"""The training loop: epochs over the data, validation, checkpoints, and exact resume."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.errors import InputError, kind
from ppl_vae.machine.interrupts import asked_to_stop
from ppl_vae.machine.processes import LostProcess
from ppl_vae.machine.progress import Progress
from ppl_vae.machine.randomness import isolated
from ppl_vae.pairs.checks import find_not_finite
from ppl_vae.runs.metrics import IWAE_COLUMN, Row, bound_column, epochs_since_best, events
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.state import State
from ppl_vae.training.step import SVIStep
from ppl_vae.training.validation import validate

__all__ = ["StopWhen", "Training", "check_functions"]

OnRow = Callable[[Row], object]
StopWhen = Callable[[list[Row]], object]


def check_functions(**functions: object) -> None:
    """Raises an InputError for a caller's function that is none."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise InputError(f"{name}: expected a function; got {kind(function)}")


class Training(State):
    """Trains a pair on a data set; the whole of its state goes into one checkpoint."""

    def run(
        self,
        folder: Path,
        on_epoch: OnRow | None = None,
        stop_when: StopWhen | None = None,
    ) -> None:
        """Trains to the end, or until a signal asks to stop.

        Args:
            folder: The run directory, for checkpoints and `metrics.csv`.
            on_epoch: Called in the first process with the metrics of each epoch that ends.
            stop_when: Called after it with those of all epochs so far: whether to end here.

        Raises:
            InputError: If a loss is not finite; the last good checkpoint stays.
            LostProcess: If another process of the run is gone, once a checkpoint is written.
            KeyboardInterrupt: After a signal, once a checkpoint is written.
            OSError: If a checkpoint cannot be written; the last good one stays.
        """
        if self.finished:
            print(
                f"nothing is left to train: {len(self.rows):,} epochs are done; go on beyond them "
                f"with --resume {folder} --epochs N",
                file=sys.stderr,
            )
        started = saved = time.monotonic()
        before, first, images = self.seconds, self.steps, len(self.data.train)
        title = f"training on {self.data.name}"
        begun = self.steps - len(self.rows) * self.steps_per_epoch
        done = len(self.rows) * images + min(images, begun * self.batch_size)
        self.to_training_mode()
        with (
            asked_to_stop() as asked,
            pyro.validation_enabled(False),
            Progress(title, self.settings.epochs * images, self.data.noun, done) as progress,
            events(folder, len(self.rows) + 1, self.ranks.first) as log_event,
            self._saved_if_lost(folder),
        ):
            asked = self.ranks.agreed(asked)
            while not self.finished and not asked():
                for step, batch in self._rest_of_epoch():
                    progress.advance(self._update(step, batch))
                    if asked() or time.monotonic() - saved > self.settings.checkpoint_seconds:
                        self.seconds = before + time.monotonic() - started
                        self.save(folder)
                        saved = time.monotonic()
                    if asked():
                        break
                else:
                    # The first work of a process goes to its end, or stops could go on forever.
                    if not self._end_epoch(asked if self.steps > first else lambda: False):
                        break
                    log_event(self.rows[-1])
                    column = bound_column(self.rows)
                    elbo = "ELBO" if self.step.guide.has_density else "log p(x, z)"
                    name = "IWAE bound" if column == IWAE_COLUMN else elbo
                    value = f"{self.rows[-1][column]:.2f} nats per datum"
                    progress.advance(0, f"epoch {len(self.rows)}  {name} {value}")
                    self._note_outliers()
                    self._call(folder, on_epoch, stop_when)
                    self.to_training_mode()
                    self._check_engine()
            self.seconds = before + time.monotonic() - started
            self.save(folder)  # while a signal waits
        if asked():
            again = f"python -m ppl_vae.fit --resume {folder}"
            raise KeyboardInterrupt(f"stopped, with a checkpoint; go on with: {again}")

    def _call(
        self,
        folder: Path,
        on_epoch: OnRow | None,
        stop_when: StopWhen | None,
    ) -> None:
        """Calls the caller's functions, under random numbers of their own.

        Where one of them raises an error, a checkpoint is written first.
        """
        stop = torch.zeros((), device=self.loss_sum.device)
        try:
            with self.step.averaged(), isolated(stop.device):
                if on_epoch and self.ranks.first:
                    on_epoch(dict(self.rows[-1]))
                if stop_when and self.ranks.first:
                    stop.fill_(bool(stop_when([dict(row) for row in self.rows])))
        except BaseException:
            self.save(folder)
            raise
        if stop_when:
            self.ranks.copy_from_first(stop)
            self.stopped = len(self.rows) if stop else 0

    def _note_outliers(self) -> None:
        """Says so in the first epoch of which a tenth or more was left out."""
        counts = [row.get("skipped_steps", 0) for row in self.rows]
        before, now = np.diff([0, 0, *counts])[-2:]
        if before < self.steps_per_epoch / 10 <= now and self.ranks.first:
            print(
                f"note: {now:,} of the {self.steps_per_epoch:,} steps of epoch {len(self.rows):,} "
                "were left out, since their gradients are above --skip_norm; outliers are rarer: "
                "train again with a larger one",
                file=sys.stderr,
            )

    def _check_engine(self) -> None:
        """Programs that follow the epochs in Python leave the graph behind."""
        if self.step.compiled and self.step.drop_stale_graph(self.batch(self.full)):
            self.captured.clear()
            print(
                "engine: eager from now on, because the pair changed since it was compiled; keep "
                "its state in buffers",
                file=sys.stderr,
            )

    @property
    def full(self) -> Tensor:
        """Indices of this process's share of a full batch, that of the first images."""
        device = self.data.train.raw.device
        return self.ranks.share(torch.arange(self.batch_size, device=device))

    def batch(self, index: Tensor) -> tuple[Tensor, ...]:
        """Training images, with labels if the model takes them; random states stay as they are."""
        with isolated(index.device):
            return self.data.train.batch(index, self.step.model.labelled)

    def to_training_mode(self) -> None:
        """Puts the pair where a step finds it: validation leaves it in evaluation mode."""
        for program in (self.step.model, self.step.guide):
            # A user's program may count the calls of `train`.
            if not all(module.training for module in program.modules()):
                program.train()

    @contextmanager
    def _saved_if_lost(self, folder: Path) -> Iterator[None]:
        """A step takes effect only after every process has done its part."""
        try:
            yield
        except LostProcess:
            self.save(folder)
            raise

    def _rest_of_epoch(self) -> Iterator[tuple[SVIStep | CapturedStep, tuple[Tensor, ...]]]:
        """The remaining steps, each with its argument: images, or their indices."""
        # An epoch ends with its row; a run may stop between the last step and that.
        epoch = len(self.rows)
        done = self.steps - epoch * self.steps_per_epoch
        seed = np.random.SeedSequence((self.settings.seed, epoch)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed))
        images = self.data.train
        order = torch.randperm(len(images), generator=generator)
        if isinstance(images.raw, Tensor):  # images in files are indexed from the CPU
            order = order.to(images.raw.device)
        shares = [self.ranks.share(index) for index in order.split(self.batch_size)[done:]]
        drawn = [index for index in shares if len(index) not in self.captured]
        each = map(self.draw, drawn) if self.draw else None
        batches = each or images.batches(drawn, self.step.model.labelled)
        for index in shares:
            self.ranks.seed_step(self.settings.seed, self.steps)
            captured = self.captured.get(len(index))
            yield (captured, (index,)) if captured else (self.step, next(batches))

    def _update(self, step: SVIStep | CapturedStep, batch: tuple[Tensor, ...]) -> int:
        """Takes a step, and returns the size of its batch."""
        place = (self.steps % self.steps_per_epoch) * self.batch_size
        size = min(self.batch_size, len(self.data.train) - place)
        rate = self.learning_rate(self.steps)
        epoch, weight = self.steps / self.steps_per_epoch, self.ranks.weight(size)
        loss = step(batch, rate, epoch, weight)
        self.loss_sum += loss * size
        self.steps += 1
        # Reading a number waits for a GPU, so it is read now and then.
        due = self.steps % 50 == 0 or self.steps % self.steps_per_epoch == 0
        if (due or self.loss_sum.device.type == "cpu") and not math.isfinite(self.loss_sum.item()):
            images = self.data.train
            if step is not self.step:
                batch = images.batch(batch[0], self.step.model.labelled)
            self._stop("the loss is not finite", batch)
        return size

    def _stop(self, reason: str, batch: tuple[Tensor, ...]) -> NoReturn:
        culprit = find_not_finite(self.step.model, self.step.guide, *batch) or reason
        epoch, step = divmod(self.steps - 1, self.steps_per_epoch)
        raise InputError(
            f"training stopped in epoch {epoch + 1}, step {step + 1}: {culprit}; the last good "
            "checkpoint is kept; try a smaller --learning_rate"
        )

    def _end_epoch(self, asked: Callable[[], bool]) -> bool:
        """Validates; False where it was asked to stop before that was done."""
        images = self.data.validation
        with self.step.averaged():
            measured = validate(self.step, images, asked)
        if measured is None:
            return False
        means, bad = measured
        if not all(map(math.isfinite, means.values())):
            self._stop(
                "the validation bound is not finite", images.batch(bad, self.step.model.labelled)
            )
        row: Row = {
            "epoch": len(self.rows) + 1,
            "steps": self.steps,
            "learning_rate": self.learning_rate(self.steps - 1),
            "loss_nats_per_datum": (self.loss_sum / len(self.data.train)).item(),
            **means,
        }
        if self.step.outliers:
            row["skipped_steps"] = int(self.step.outliers.count)
        self.rows.append(row)
        self.loss_sum.zero_()
        if self.settings.patience and epochs_since_best(self.rows) == 0:
            with self.step.averaged():
                pair = self.step.pair.state_dict()
                self.best = {name: value.clone() for name, value in pair.items()}
        return True
