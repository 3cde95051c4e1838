"""Train a model/guide pair: `python -m ppl_vae.fit`."""

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from guides import DiagonalNormal, Guide
from models import MLP, VAE, Bernoulli, Gaussian, Likelihood, Model, NetworkFactory, Prior, Spec
from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.pieces import (
    add_pieces,
    allow_only,
    data_set_of,
    parse_with_pieces,
    piece_arguments,
)
from ppl_vae.command_line.verbs import run_verb
from ppl_vae.compiler.compiling import Engine
from ppl_vae.data import DataSet, Digits
from ppl_vae.errors import InputError
from ppl_vae.latents.views import reconstruct, sample
from ppl_vae.machine.devices import DeviceChoice
from ppl_vae.machine.files import remove_unfinished
from ppl_vae.machine.processes import join
from ppl_vae.objectives import ELBO, Objective
from ppl_vae.pairs.building import choose_domain
from ppl_vae.pairs.pieces import ROLES, class_of, describe
from ppl_vae.pictures import plots
from ppl_vae.pictures.graphical_model import graphical_model
from ppl_vae.runs.config import CONFIG, CONFIG_VERSION, config_of
from ppl_vae.runs.directory import PICTURES, create, free_path, locked, unused
from ppl_vae.runs.metrics import Row
from ppl_vae.runs.run import Run, restore_pieces
from ppl_vae.training.engine import start_engine
from ppl_vae.training.loop import Training
from ppl_vae.training.precision import Precision
from ppl_vae.training.preparation import initialise, prepare
from ppl_vae.training.settings import Settings
from ppl_vae.training.summary import report, write_summary

__all__ = ["draw_pictures", "fit", "main", "resume"]


def fit(
    data: DataSet | None = None,
    model: Callable[..., Model] = VAE,
    prior: Callable[[Spec], Prior] | None = None,
    likelihood: Callable[[Spec], Likelihood] | None = None,
    network: NetworkFactory = MLP,
    guide: Callable[..., Guide] = DiagonalNormal,
    objective: Objective | None = None,
    latent_dim: int = 10,
    epochs: int = 200,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    warmup_epochs: float | None = None,
    patience: int | None = None,
    labels: int | None = None,
    label_repeats: int = 1,
    seed: int = 0,
    device: DeviceChoice = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    run: Path | str | None = None,
    checkpoint_seconds: float = 15.0,
) -> Run:
    """Trains a model/guide pair by stochastic variational inference and writes a run directory.

    Args:
        data: The data set; the embedded digits unless given.
        model: p(x, z).
        prior: p(z), where the model has one to choose.
        likelihood: p(x|z), where the model has one to choose; unless given, Bernoulli for data
            that are binary by default and Gaussian for others.
        network: The architecture of encoder and decoder.
        guide: q(z|x).
        objective: What is minimised; the negative ELBO unless given.
        latent_dim: D, the dimension of z.
        epochs: Passes over the training images.
        batch_size: Images in a minibatch, of all processes together where torchrun started several.
        learning_rate: Adam's step size at its peak; it decays to zero along a cosine.
        weight_decay: Adam's L2 term: this multiple of each parameter is added to its gradient.
        warmup_epochs: Epochs over which the learning rate rises to its peak; one, or a tenth of a
            run of fewer than ten, unless given.
        patience: Stop after this many epochs without a better validation ELBO, and keep the best
            parameters; unless given, train all epochs and keep the last.
        labels: How many of the training images keep their labels, as many of each class, where
            the model is one of labelled images; all unless given.
        label_repeats: How often an epoch has each image that keeps its label, where `labels` is
            given. Without it, 100 labels among 50,000 images reach one batch in five.
        seed: The seed of all random numbers.
        device: Where to compute; `auto` takes CUDA where there is one.
        engine: `eager` runs the Pyro programs in every step; `compiled` runs a graph of tensor
            operations that was traced from them, checked against them and compiled; `auto` compiles
            runs of 10,000 steps or more, which pays. A pair that has no such graph runs eager, with
            a line that says why.
        precision: What the networks compute in during training; parameters, log-probabilities and
            measurements are float32.
        run: The run directory to write; the first free one of runs/DATA-MODEL-1, -2, ... unless
            given.
        checkpoint_seconds: Seconds between checkpoints.

    Returns:
        The run, with the trained model and guide.

    Raises:
        InputError: If something given is wrong; nothing is written then.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
        OSError: If the run directory cannot be written.
    """
    pieces: dict[str, Any] = {
        "data": data or Digits(),
        "model": model,
        "prior": prior,
        "likelihood": likelihood,
        "network": network,
        "guide": guide,
        "objective": objective or ELBO(),
    }
    settings = Settings.of(locals())
    ranks = join(device)
    if likelihood is None and "likelihood" in inspect.signature(model).parameters:
        pieces["likelihood"] = Bernoulli if choose_domain(pieces) == "binary" else Gaussian
    name = "-".join(class_of(pieces[role]).__name__ for role in ("data", "model"))
    free = partial(free_path, name)
    path = Path(ranks.text_of_first(lambda: str(unused(Path(run) if run else free()))))
    config = {
        "version": CONFIG_VERSION,
        **{role: describe(piece) for role, piece in pieces.items()},
        **dataclasses.asdict(settings),
    }
    with ranks.quiet():
        started, training = prepare(path, config, settings, pieces, ranks)
        initialise(started)
        start_engine(settings.engine, training)
        fallback = None if run else free
        made = ranks.text_of_first(lambda: str(create(path, config, training.save, fallback)))
        started.path = Path(made)
        with locked(started.path) if ranks.first else nullcontext():
            return _train(started, training)


def resume(
    run: Path | str,
    device: DeviceChoice | None = None,
    allow_code: bool = False,
    data: DataSet | None = None,
) -> Run:
    """Goes on with a run from its last checkpoint, as if it had never stopped.

    On the same device the result is the same, bit for bit.

    Args:
        run: The run directory.
        device: Where to compute; as the run's config says unless given.
        allow_code: Whether classes from outside the project that the config names may be imported.
        data: The data set of the run where its files have moved; that of its config unless given.

    Returns:
        The run, with the trained model and guide.

    Raises:
        InputError: If the run cannot be read.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
        OSError: If the run directory cannot be written.
    """
    path = Path(run)
    config = config_of(path)
    config |= {"device": device} if device else {}
    try:
        settings = Settings.of(config)
    except InputError as error:
        raise InputError(f"{path / CONFIG}: {error}") from error
    ranks = join(settings.device)
    with ranks.quiet(), locked(path) if ranks.first else nullcontext():
        pieces = restore_pieces(config, allow_code, data)
        resumed, training = prepare(path, config, settings, pieces, ranks)
        training.restore(path)
        start_engine(settings.engine, training)
        if ranks.first:
            remove_unfinished(path)
        return _train(resumed, training)


def _train(run: Run, training: Training) -> Run:
    state = training.step.pair.state_dict().values()
    training.ranks.copy_from_first(*state)
    training.run(run.path)
    training.keep_best()
    run.model.eval()
    run.guide.eval()
    if training.ranks.first:
        write_summary(run, training)
        draw_pictures(run, training.rows)
    return run


def draw_pictures(run: Run, rows: list[Row]) -> None:
    """Draws what a run learned, into RUN/pictures/.

    Learning curves, test images beside their reconstructions, samples from the model, and the
    graphical model that the two programs are.

    Args:
        run: A trained run, its pair in evaluation mode.
        rows: The metrics of its epochs.

    Raises:
        OSError: If a picture cannot be written.
    """
    folder = run.path / PICTURES
    folder.mkdir(exist_ok=True)
    seed = run.config["seed"]
    test = run.data.test
    shown = test[slice(0, 256)].cpu().numpy()
    rebuilt = reconstruct(run, count=min(16, len(test)), seed=seed)
    drawn = sample(run, count=64, seed=seed)

    def display(images: ArrayLike) -> NDArray[np.float64]:
        return plots.to_display(images, run.spec.domain, like=shown)

    point = not run.guide.has_density
    given = run.model.labelled and not run.model.enumerated
    place = folder / "learning_curves.png"
    plots.learning_curves(rows, place, run.data.note, point=point, given_class=given)
    plots.reconstructions(
        display(rebuilt["original"]), display(rebuilt["mean"]), folder / "reconstructions.png"
    )
    plots.image_grid(
        display(drawn["mean"]), folder / "samples.png", title=plots.sample_titles(run.model)[0]
    )
    x, *labels = test.batch(slice(0, 2), run.model.labelled)
    graphical_model(run.model, run.guide, x, folder / "graphical_model.png", *labels)


def main(arguments: list[str] | None = None) -> None:
    """The command line of `fit`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("fit", "Train a model/guide pair by stochastic variational inference.")
    add_pieces(
        parser,
        {
            "data": Digits,
            "model": VAE,
            "network": MLP,
            "guide": DiagonalNormal,
            "objective": ELBO,
        },
    )
    parser.add_argument(
        "--resume",
        type=Path | None,
        help="Go on with this run; only --device, --allow_code and, where its files have moved, "
        "options of its data set (--data.path DIR) may stand beside it.",
    )
    parser.add_function_arguments(fit, skip=set(ROLES), as_group=False)
    resumes = any(argument.partition("=")[0] == "--resume" for argument in arguments)
    data, arguments = piece_arguments("data", arguments) if resumes else ([], arguments)
    options = parse_with_pieces(parser, arguments)
    again = options.pop("resume")
    allow_code = options.pop("allow_code")
    if again is not None:
        allow_only(arguments, "--resume", "--device", "--allow_code")
        chosen = any(argument.startswith("--device") for argument in arguments)
        moved = data_set_of(again, data, allow_code)
        run = resume(again, options["device"] if chosen else None, allow_code, moved)
    else:
        run = fit(**options)
    if join(run.config["device"]).first:
        print(report(run))


if __name__ == "__main__":
    main()
