"""One step of stochastic variational inference."""

from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.compiler.comparison import Gradients, NotStageable, with_gradients
from ppl_vae.compiler.compiling import compile_programs, compile_staged
from ppl_vae.compiler.python_state import changed, python_state
from ppl_vae.compiler.trial_runs import stage
from ppl_vae.machine.processes import Ranks
from ppl_vae.objectives import Objective
from ppl_vae.objectives.objective import PairLoss
from ppl_vae.training.adam import Adam
from ppl_vae.training.precision import matrix_precision

__all__ = ["SVIStep", "learning_rate_at"]


class SVIStep:
    """Follows the gradient of an objective for all parameters of a pair, with Adam.

    Kingma and Welling (2014), algorithm 1, with the optimizer of Kingma and Ba (2015).

    Args:
        model: p(x, z).
        guide: q(z|x).
        objective: The loss.
        precision: That of the networks' matrix products during a step; the parameters' own unless
            given. Everything else, and every measurement, is in the parameters' own.
        weight_decay: Adam's L2 term: what of a parameter is added to its gradient.
        ranks: The processes that take each step together; this one alone unless given.
    """

    def __init__(
        self,
        model: Model,
        guide: Guide,
        objective: Objective,
        precision: torch.dtype | None = None,
        weight_decay: float = 0.0,
        ranks: Ranks | None = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.objective = objective
        self.precision = precision
        self.ranks = ranks or Ranks()
        self.pair = PairLoss(model, guide, objective)
        self.parameters = dict(self.pair.named_parameters())
        self._adam = Adam(self.parameters, weight_decay)
        device = next(self.pair.parameters()).device
        # The loss reads what changes in training from tensors, so that a graph need not change.
        self.scheduled = {
            name: torch.tensor(value, device=device)
            for name, value in objective.scheduled(0.0).items()
        }
        self._eager = with_gradients(self.pair)
        self._modules = list(self.pair.modules())
        self._with_buffers = [module for module in self._modules if module._buffers]
        self._parameters = list(self.parameters.values())
        self._compiled: Gradients | None = None
        self._compiled_for: tuple[Any, ...] | None = None
        self._kept: dict[str, Any] = {}

    @property
    def compiled(self) -> bool:
        """Whether a compiled graph stands in for the Pyro programs."""
        return self._compiled is not None

    def compile(self, batch: tuple[Tensor, ...]) -> None:
        """Lets a compiled graph stand in for the Pyro programs on batches of the same shape.

        Batches of another shape or type, such as the last of an epoch, run the programs; so do all
        while a module is in another mode, training or evaluation, than it is now, other parameters
        are learned, or a parameter or buffer is in another place of the memory. Numbers in
        attributes are constants of the graph; see `forget_if_changed`.

        Args:
            batch: Images (B, C, H, W), and labels (B,) where the model takes them.

        Raises:
            NotStageable: If there is no graph that is the same function; nothing changes then.
        """
        with matrix_precision(self.precision, self.pair):
            given = (batch, self.scheduled)
            try:
                staged = stage(self.model, self.guide, self.objective, *given)
            except NotStageable as refusal:
                try:
                    self._compiled = compile_programs(self.pair, *given, self.precision)
                except NotStageable:
                    raise refusal from None
            else:
                self._compiled = compile_staged(staged, *given, self.precision)
        self._compiled_for = _kinds(batch), self.circumstances()
        self._kept = python_state(self.pair, beside=False)

    def forget_if_changed(self) -> str | None:
        """Drops the graph where what the pair keeps in its attributes is no longer what it was.

        Looking takes about a millisecond, so it is for now and then.

        Returns:
            What has changed, where something has.
        """
        if not self.compiled:
            return None
        names = changed(self._kept, python_state(self.pair, beside=False))
        if not names:
            return None
        self._compiled = None
        return names[0]

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
        """Sets what changes from step to step.

        Args:
            learning_rate: Adam's step size.
            epoch: Passes over the data done so far, for objectives that change in training.
        """
        self._adam.set_rate(learning_rate)
        for name, value in self.objective.scheduled(epoch).items():
            self.scheduled[name].fill_(value)

    def update(self, batch: tuple[Tensor, ...], weight: float = 1.0) -> Tensor:
        """Updates the parameters once, or not at all where the loss is not finite.

        Args:
            batch: Images (B, C, H, W), and labels (B,) where the model takes them.
            weight: Which part of the step's batch this is; other processes have the rest.

        Returns:
            The loss of the whole batch before the update, a detached scalar in nats per datum.

        Raises:
            LostProcess: If another process is gone; the parameters are as they were.
        """
        # Without a graph there is nothing to compare, and eager steps need not pay for it.
        if self._compiled and self._compiled_for == (_kinds(batch), self.circumstances()):
            loss, gradients = self._compiled(*batch, **self.scheduled)
        else:
            with matrix_precision(self.precision, self.pair):
                loss, gradients = self._eager(*batch, **self.scheduled)
        loss, gradients = self.ranks.mean(loss, gradients, self.parameters, weight)
        # Where the loss is not finite the parameters stay as they are, so that one can look for the
        # reason.
        self._adam.update(gradients, skip=(loss - loss).ne(0).float())  # NaN where it is not finite
        return loss

    def circumstances(self) -> tuple[Any, ...]:
        """What of the pair a graph is of: modes, what is learned, and where all of it lies."""
        modes = [module.training for module in self._modules]
        learned = [parameter.requires_grad for parameter in self._parameters]
        places = [parameter.data_ptr() for parameter in self._parameters]
        for module in self._with_buffers:
            places += [b.data_ptr() for b in module._buffers.values() if b is not None]
        return modes, learned, places

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and counts by parameter."""
        return self._adam.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` returned, into the tensors that are there already."""
        self._adam.restore(state)


def _kinds(batch: tuple[Tensor, ...]) -> list[Any]:
    return [(part.shape, part.dtype) for part in batch]


def learning_rate_at(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to the peak, then cosine decay to zero at the end of the run.

    Loshchilov and Hutter (2017), equation (5), for one cycle.

    Args:
        step: Updates done so far.
        peak: The largest learning rate.
        warmup_steps: Updates over which it is reached.
        total_steps: Updates in the whole run.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (1 + cos(pi * done)) / 2
