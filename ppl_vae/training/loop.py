"""The training loop: epochs over the data, validation, checkpoints, and exact resume."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.data import Data, check_same_data, fingerprint_in
from ppl_vae.errors import InputError
from ppl_vae.machine.interrupts import asked_to_stop
from ppl_vae.machine.processes import LostProcess
from ppl_vae.machine.progress import Progress
from ppl_vae.machine.randomness import isolated
from ppl_vae.pairs.checks import find_not_finite
from ppl_vae.runs.checkpoints import (
    BEST,
    LAST,
    load_parameters,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from ppl_vae.runs.metrics import Row, epochs_since_best, events, write_metrics
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.settings import Settings
from ppl_vae.training.step import SVIStep, learning_rate_at
from ppl_vae.training.validation import TERMS, validate

__all__ = ["Training"]


class Training:
    """Trains a pair on a data set; the whole of its state goes into one checkpoint.

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
        self.settings = settings
        self.batch_size = settings.batch_size
        self.steps_per_epoch = math.ceil(len(data.train) / settings.batch_size)
        self.total_steps = settings.epochs * self.steps_per_epoch
        warmup = settings.warmup_epochs
        self.warmup_steps = round(
            (min(1.0, settings.epochs / 10) if warmup is None else warmup) * self.steps_per_epoch
        )
        self.steps = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=data.train.raw.device)
        self.rows: list[Row] = []
        self.best: dict[str, Tensor] = {}
        self.captured: dict[int, CapturedStep] = {}  # by the size of their batches
        self.engine_before: str | None = None
        self.seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        waited = self.settings.patience and epochs_since_best(self.rows) >= self.settings.patience
        return bool(waited) or len(self.rows) >= self.settings.epochs

    @property
    def engine(self) -> str:
        """How steps are taken: eager, compiled or captured."""
        return "captured" if self.captured else "compiled" if self.step.compiled else "eager"

    def run(self, folder: Path) -> None:
        """Trains to the end, or until a signal asks to stop.

        Args:
            folder: The run directory, for checkpoints and `metrics.csv`.

        Raises:
            InputError: If a loss is not finite; the last good checkpoint stays.
            LostProcess: If another process of the run is gone, once a checkpoint is written.
            KeyboardInterrupt: After a signal, once a checkpoint is written.
            OSError: If a checkpoint cannot be written; the last good one stays.
        """
        started = saved = time.monotonic()
        before = self.seconds
        title = f"training on {self.data.name}"
        images = len(self.data.train)
        done = len(self.rows) * images
        begun = self.steps - len(self.rows) * self.steps_per_epoch
        done += min(images, begun * self.batch_size)
        self.to_training_mode()
        with (
            asked_to_stop() as asked,
            pyro.validation_enabled(False),
            Progress(title, self.settings.epochs * images, "images", done) as progress,
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
                    self._end_epoch()
                    log_event(self.rows[-1])
                    elbo = self.rows[-1]["validation_elbo_nats_per_datum"]
                    name = "ELBO" if self.step.guide.has_density else "log p(x, z)"
                    progress.advance(0, f"epoch {len(self.rows)}  {name} {elbo:.2f} nats_per_datum")
                    self._check_engine()
        self.seconds = before + time.monotonic() - started
        self.save(folder)
        if asked():
            raise KeyboardInterrupt(
                f"stopped, with a checkpoint; go on with: python -m ppl_vae.fit --resume {folder}"
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
        batches = images.batches(drawn, self.step.model.labelled)
        for index in shares:
            self.ranks.seed_step(self.settings.seed, self.steps)
            captured = self.captured.get(len(index))
            yield (captured, (index,)) if captured else (self.step, next(batches))

    def _update(self, step: SVIStep | CapturedStep, batch: tuple[Tensor, ...]) -> int:
        """Takes a step, and returns the size of its batch."""
        place = (self.steps % self.steps_per_epoch) * self.batch_size
        size = min(self.batch_size, len(self.data.train) - place)
        rate = learning_rate_at(
            self.steps, self.settings.learning_rate, self.warmup_steps, self.total_steps
        )
        epoch, weight = self.steps / self.steps_per_epoch, self.ranks.weight(size)
        loss = step(batch, rate, epoch, weight)
        self.loss_sum += loss * size
        self.steps += 1
        # Reading a number waits for a GPU, so it is read now and then.
        due = self.steps % 50 == 0 or self.steps % self.steps_per_epoch == 0
        if (due or self.loss_sum.device.type == "cpu") and not self.loss_sum.isfinite():
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

    def _end_epoch(self) -> None:
        images = self.data.validation
        means, bad = validate(self.step, images)
        if not means.isfinite().all():
            self._stop(
                "the validation ELBO is not finite", images.batch(bad, self.step.model.labelled)
            )
        self.to_training_mode()
        row: Row = {
            "epoch": len(self.rows) + 1,
            "steps": self.steps,
            "learning_rate": learning_rate_at(
                self.steps - 1, self.settings.learning_rate, self.warmup_steps, self.total_steps
            ),
            "loss_nats_per_datum": (self.loss_sum / len(self.data.train)).item(),
        }
        for term, mean in zip(TERMS, means.tolist(), strict=True):
            row[f"validation_{term}_nats_per_datum"] = mean
        self.rows.append(row)
        self.loss_sum.zero_()
        if self.settings.patience and epochs_since_best(self.rows) == 0:
            self.best = {name: value.clone() for name, value in self.step.pair.state_dict().items()}

    def kept_row(self) -> Row:
        """The metrics of the parameters that are kept: the best epoch's under patience."""
        return self.rows[-1 - (epochs_since_best(self.rows) if self.settings.patience else 0)]

    def keep_best(self) -> None:
        """Puts the best parameters into the pair where patience asks for them."""
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
        tensors = {
            **self.step.pair.state_dict(),
            **{f"optimizer.{name}": value for name, value in self.step.state().items()},
            **random_tensors,
            "loss_sum": self.loss_sum,
        }
        state = {
            "spec": self.spec,
            "fingerprint": self.data.fingerprint,
            "data": self.data.plain(),
            "engine": self.engine,
            "steps": self.steps,
            "seconds": self.seconds,
            "rows": self.rows,
            "random": random_data,
        }
        if self.best:
            known = {name: state[name] for name in ("spec", "fingerprint", "data")}
            write_checkpoint(folder / BEST, self.best, known)
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
        self.engine_before = state.get("engine") if self.steps else None
        restore_random_state(tensors, state["random"])
