"""The engines that take the steps of a training: programs, compiled graph, or captured step."""

import sys
from contextlib import suppress
from functools import partial

from torch import Tensor

from ppl_vae.compiler.comparison import NotCompilable
from ppl_vae.training.capturing import CapturedStep
from ppl_vae.training.drawing import Draw, compile_draw
from ppl_vae.training.loop import Training

__all__ = ["compile_steps", "start_engine"]

_WORTH_COMPILING = 10_000  # steps that save about what compiling costs, some ten seconds


def start_engine(engine: str, training: Training) -> None:
    """Compiles the step if the choice or the length of the run says so, and reports the engine.

    Args:
        engine: `auto`, `eager` or `compiled`.
        training: At the step to go on from. Whether to compile follows from the whole length of the
            run, so that a resumed run takes the same steps.
    """
    if training.finished:
        return
    worth_it = engine == "compiled" or training.total_steps >= _WORTH_COMPILING
    if engine != "eager" and worth_it:
        left = training.total_steps - training.steps
        print(f"engine: compiling the step ({left:,} steps to run)", file=sys.stderr)
        try:
            compile_steps(training)
        except NotCompilable as error:
            print(f"engine: {training.engine}, because the pair {error}", file=sys.stderr)
    if training.engine_before not in (None, training.engine):
        print(
            f"engine: {training.engine}, where the run was {training.engine_before} so far; it "
            "goes on up to rounding only",
            file=sys.stderr,
        )


def compile_steps(training: Training) -> None:
    """Compiles the step for full batches, without disturbing the random numbers of the run.

    Where the images are in memory, their choice and conversion are compiled as well. On a GPU that
    holds them the step is captured too, and so are the programs on the smaller last batch of an
    epoch, for which compiling once more would not pay.

    Raises:
        NotCompilable: If that fails; the step then runs the programs, or the graph uncaptured.
    """
    images, labelled, full = training.data.train, training.step.model.labelled, training.full
    training.to_training_mode()
    training.step.compile(training.batch(full))
    if not isinstance(images.raw, Tensor):
        return
    draw: Draw = partial(images.batch, labelled=labelled)
    try:
        draw = training.draw = compile_draw(images, full, labelled)
    except NotCompilable as error:
        print(f"engine: images are chosen eagerly, because their choice {error}", file=sys.stderr)
    if full.is_cuda and training.ranks.size == 1:
        training.captured[len(full)] = CapturedStep(training.step, draw, full)
        left = len(images) % len(full)
        with suppress(NotCompilable):  # programs may read from the device where a graph does not
            if left:
                training.captured[left] = CapturedStep(training.step, draw, full[:left])
