"""A whole training step on a GPU as one CUDA graph.

A step is some fifty kernels, and on a GPU a small one spends its time in launching them. Captured
once and replayed, the step is one launch: the choice of the images, their noise, the loss, the
gradients and the updates, with nothing read back.
"""

import gc
from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from ppl_vae.compiler.comparison import NotCompilable, first_line
from ppl_vae.machine.randomness import isolated, unchanged
from ppl_vae.training.step import SVIStep

__all__ = ["CapturedStep"]

_WARM_UPS = 3  # in which libraries choose kernels and allocate, which no graph can hold


class CapturedStep:
    """Replays a step on batches of one size.

    Args:
        step: The step, on a GPU, compiled or not.
        draw: From indices (B,) of images to the arguments of the programs.
        index: Some indices; those of a replay have the same shape.

    Raises:
        NotCompilable: If the step cannot be captured, because it reads from the device or copies
            to it; the step is as it was then.
    """

    def __init__(
        self, step: SVIStep, draw: Callable[[Tensor], tuple[Tensor, ...]], index: Tensor
    ) -> None:
        self.step = step
        self._draw = draw
        self._captured_for = step.fingerprint()
        self._index = index.clone()
        self._graph = torch.cuda.CUDAGraph()
        state = {name: value.clone() for name, value in step.state().items()}
        # A graph reads tensors in attributes at their addresses, so these are not copied.
        with isolated(index.device), unchanged(*step.pair.modules()):
            try:
                self._capture(draw)
            finally:
                step.restore(state)

    def _capture(self, draw: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        generator = torch.cuda.default_generators[self._index.get_device()]
        state, stream = generator.clone_state(), torch.cuda.current_stream(self._index.device)
        gc.collect()  # during a capture it might destroy an older graph, which ends both
        try:
            # Pyro's validation reads from the device.
            with pyro.validation_enabled(False):
                self._warm_up(draw)
                with torch.cuda.graph(self._graph):
                    self._loss = self.step.update(draw(self._index))
        except Exception as error:  # whatever stops the capture, the answer is the same
            # Torch leaves these in the state of a capture, in which no random number can be drawn.
            torch.cuda.set_stream(stream)
            generator.graphsafe_set_state(state)
            # The end of a capture that has failed fails too; the reason is what came before.
            first = error.__context__ if isinstance(error.__context__, Exception) else error
            raise NotCompilable(f"cannot be captured: {first_line(first)}") from error

    def _warm_up(self, draw: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        here = torch.cuda.current_stream(self._index.device)
        side = torch.cuda.Stream(self._index.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self.step.update(draw(self._index))
        here.wait_stream(side)

    def __call__(
        self,
        batch: tuple[Tensor, ...],
        learning_rate: float,
        epoch: float = 0.0,
        weight: float = 1.0,
    ) -> Tensor:
        """`SVIStep.__call__` on the images of indices, without waiting for the result.

        Falls back to `SVIStep` if the pair changed since capture.

        Args:
            batch: The indices (B,), alone.
            learning_rate: The optimizer's step size.
            epoch: Passes over the data done so far.
            weight: Which part of the step's batch this is; a captured one is always whole.
        """
        if self.step.fingerprint() != self._captured_for:
            return self.step(self._draw(batch[0]), learning_rate, epoch, weight)
        self.step.set(learning_rate, epoch)
        self._index.copy_(batch[0])
        self._graph.replay()
        return self._loss
