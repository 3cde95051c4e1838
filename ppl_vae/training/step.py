"""One step of stochastic variational inference."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.compiler.comparison import Gradients, Outcome, Trial, with_gradients
from ppl_vae.compiler.compiling import compile_programs, parted
from ppl_vae.machine.processes import Ranks
from ppl_vae.objectives import Objective
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.runs.settings import Precision
from ppl_vae.training.adam import Adam, Rule
from ppl_vae.training.averaging import Average
from ppl_vae.training.clipping import clipped
from ppl_vae.training.muon import Muon, weights_of_layers
from ppl_vae.training.outliers import Outliers
from ppl_vae.training.precision import PRECISIONS, matrix_precision, rounded_operands

__all__ = ["SVIStep"]


class SVIStep:
    """Follows the gradient of an objective for all parameters of a pair, by Adam or another rule.

    Kingma and Welling (2014), algorithm 1, with the optimizer of Kingma and Ba (2015) by default.

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
        precision: Of the networks' matrix products during a step, and of Muon's.
        rule: Of the updates; Adam's with its usual constants by default.
        clip_norm: The largest norm of the gradient, over all parameters; none by default.
        skip_norm: The norm of a gradient above which its step is left out; none by default.
        average: The decay of the parameters' running mean; none by default.
        ranks: The processes that take each step together; by default this one alone.
    """

    def __init__(
        self,
        model: Model,
        guide: Guide,
        objective: Objective,
        precision: Precision = "float32",
        rule: Rule | None = None,
        clip_norm: float | None = None,
        skip_norm: float | None = None,
        average: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.objective = objective
        self.precision = precision
        self.ranks = ranks or Ranks()
        self.pair = PairLoss(model, guide, objective)
        self.parameters = dict(self.pair.named_parameters())
        rule = rule or Rule()
        if rule.optimizer == "Muon":
            matrices = weights_of_layers(self.pair)
            self._optimizer: Adam = Muon(self.parameters, matrices, rule, PRECISIONS[precision])
        else:
            self._optimizer = Adam(self.parameters, rule)
        self._clip_norm = clip_norm
        device = next(self.pair.parameters()).device
        self.outliers = None if skip_norm is None else Outliers(skip_norm, device)
        self._average = None if average is None else Average(self.parameters, average)
        # Scheduled scalars are tensors, so that the graph need not change with them.
        self.scheduled = objective.first_scheduled(device)
        self._eager = with_gradients(self.pair)
        self._modules = list(self.pair.modules())
        self._with_buffers = [module for module in self._modules if module._buffers]
        self._parameters = list(self.parameters.values())
        self._compiled: Gradients | None = None
        self._compiled_for: tuple[Any, ...] | None = None

    @property
    def compiled(self) -> bool:
        """Whether a compiled graph stands in for the Pyro programs."""
        return self._compiled is not None

    def compile(self, batch: tuple[Tensor, ...]) -> None:
        """Has a compiled graph take the steps on batches of the same shape.

        Batches of another shape or type, such as the last of an epoch, run the programs; so do all
        while a module is in another mode, training or evaluation, than it is now, other parameters
        are learned, or a parameter or buffer is in another place of the memory. Numbers in
        attributes are constants of the graph; see `drop_stale_graph`.

        Args:
            batch: Images (B, C, H, W), and labels (B,) where the model takes them.

        Raises:
            NotCompilable: If there is no graph that is the same function; nothing changes then.
        """
        with matrix_precision(self.precision, self.pair):
            self._compiled = compile_programs(self.pair, batch, self.scheduled, *self._rounding())
        self._compiled_for = _kinds(batch), self.fingerprint()
        if batch[0].is_cuda:
            self._optimizer.compile()

    def drop_stale_graph(self, batch: tuple[Tensor, ...]) -> bool:
        """Drops the graph if it and the programs part on a batch.

        Both run once, on the same random numbers; parameters, buffers, the optimizer and random
        states stay as they are.

        Args:
            batch: Data of the shape that the graph is for.

        Returns:
            Whether the graph was dropped.
        """
        if not self._compiled or self._compiled_for != (_kinds(batch), self.fingerprint()):
            return False  # the programs run anyway
        trial = Trial(self.pair, batch, self.scheduled)
        with matrix_precision(self.precision, self.pair):
            if parted(trial, self._compiled, *self._rounding()):
                self._compiled = None
        return not self.compiled

    def __call__(
        self,
        batch: tuple[Tensor, ...],
        learning_rate: float,
        epoch: float = 0.0,
        weight: float = 1.0,
    ) -> Tensor:
        """`set` and `update` in one."""
        self.set(learning_rate, epoch)
        return self.update(batch, weight)

    def set(self, learning_rate: float, epoch: float) -> None:
        """Sets the numbers that change from step to step.

        Args:
            learning_rate: The optimizer's step size.
            epoch: Passes over the data done so far, for objectives that change in training.
        """
        self._optimizer.set_rate(learning_rate)
        for name, value in self.objective.scheduled(epoch).items():
            self.scheduled[name].fill_(value)

    def update(self, batch: tuple[Tensor, ...], weight: float = 1.0) -> Tensor:
        """Updates the parameters once, or not at all where loss or gradient are refused.

        Args:
            batch: Images (B, C, H, W), and labels (B,) where the model takes them.
            weight: Which part of the step's batch this is; other processes have the rest.

        Returns:
            The loss of the whole batch before the update, a detached scalar in nats per datum.

        Raises:
            LostProcess: If another process is gone; the parameters are as they were.
        """
        # Without a graph there is nothing to compare, and eager steps need not pay for it.
        if self._compiled and self._compiled_for == (_kinds(batch), self.fingerprint()):
            with rounded_operands(self.precision):
                loss, gradients = self._compiled(*batch, **self.scheduled)
        else:
            with matrix_precision(self.precision, self.pair):
                loss, gradients = self._eager(*batch, **self.scheduled)
        loss, gradients = self.ranks.mean(loss, gradients, self.parameters, weight)
        outlier = self.outliers(gradients) if self.outliers else None
        # Where the loss is not finite the parameters stay, so that the reason can be found.
        if loss.device.type == "cpu":
            if outlier or not math.isfinite(loss.item()):
                return loss
            skip = None
        else:  # where reading it would wait for the device
            skip = (loss - loss).ne(0).float()
            skip = skip if outlier is None else torch.maximum(skip, outlier)
        if self._clip_norm is not None:
            gradients = clipped(gradients, self._clip_norm)
        self._optimizer.update(gradients, skip)
        if self._average:
            self._average.update(skip)
        return loss

    def _rounding(self) -> tuple[torch.dtype | None, Gradients | None]:
        """The type of rounded products, and the programs without; None where none are rounded."""
        dtype = PRECISIONS[self.precision]
        return dtype, self._unrounded if dtype else None

    def _unrounded(self, *batch: Tensor, **scheduled: Tensor) -> tuple[Tensor, Outcome]:
        with matrix_precision("float32", self.pair):
            return self._eager(*batch, **scheduled)

    def averaged(self) -> AbstractContextManager[None]:
        """Where a mean of the parameters is kept, the pair has that mean meanwhile."""
        return self._average.in_place() if self._average else nullcontext()

    def keep_average(self) -> None:
        """Where a mean of the parameters is kept, the pair has it from now on."""
        if self._average:
            self._average.keep()

    def fingerprint(self) -> tuple[Any, ...]:
        """The state of the pair that a graph holds for: modes, learned parameters, addresses."""
        modes = [module.training for module in self._modules]
        learned = [parameter.requires_grad for parameter in self._parameters]
        places = [parameter.data_ptr() for parameter in self._parameters]
        for module in self._with_buffers:
            places += [b.data_ptr() for b in module._buffers.values() if b is not None]
        return modes, learned, places

    def state(self) -> dict[str, Tensor]:
        """The moments and counts by parameter; averages and outliers where there are any."""
        state = self._optimizer.state()
        for part in (self._average, self.outliers):
            state |= part.state() if part else {}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensors."""
        self._optimizer.restore(state)
        for part in (self._average, self.outliers):
            if part:
                part.restore(state)


def _kinds(batch: tuple[Tensor, ...]) -> list[Any]:
    return [(part.shape, part.dtype) for part in batch]
