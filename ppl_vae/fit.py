"""Train a model/guide pair: `python -m ppl_vae.fit`."""

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from guides import DiagonalNormal, Guide
from models import MLP, VAE, Likelihood, Model, NetworkFactory, Prior, Spec
from ppl_vae.command_line.fit_parser import fit_parser
from ppl_vae.command_line.pieces import allow_only, data_set_of, parse_with_pieces, piece_arguments
from ppl_vae.command_line.verbs import run_verb
from ppl_vae.compiler.compiling import Engine
from ppl_vae.data import DataSet
from ppl_vae.errors import InputError, as_path, check_flags
from ppl_vae.latents.live import Live
from ppl_vae.latents.pictures import draw_pictures, named_if_interrupted
from ppl_vae.machine.devices import DeviceChoice
from ppl_vae.machine.files import remove_unfinished
from ppl_vae.machine.notebook import in_notebook
from ppl_vae.machine.processes import join
from ppl_vae.machine.progress import announced
from ppl_vae.objectives import ELBO, Objective
from ppl_vae.pairs.building import check_pieces, usual_likelihood
from ppl_vae.pairs.calls import called_anywhere
from ppl_vae.pairs.given import data_set, described, save_with_images, saved_in
from ppl_vae.pairs.pieces import class_of, instance
from ppl_vae.runs.config import CONFIG, CONFIG_VERSION, config_of
from ppl_vae.runs.directory import create, free_path, locked, unused
from ppl_vae.runs.metrics import Row
from ppl_vae.runs.restoring import restore_pieces
from ppl_vae.runs.run import Run
from ppl_vae.runs.settings import Optimizer, Precision, Schedule, Settings
from ppl_vae.training.engine import start_engine
from ppl_vae.training.loop import StopWhen, Training, check_functions
from ppl_vae.training.preparation import initialise, prepare, record_plan
from ppl_vae.training.summary import report, write_summary

__all__ = ["fit", "main", "resume"]


@called_anywhere
def fit(
    data: Any = None,
    model: Callable[..., Model] = VAE,
    prior: Callable[[Spec], Prior] | None = None,
    likelihood: Callable[[Spec], Likelihood] | None = None,
    network: NetworkFactory = MLP,
    guide: Callable[..., Guide] = DiagonalNormal,
    objective: Objective | Callable[..., Objective] | None = None,
    latent_dim: int = 10,
    epochs: int = 200,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    schedule: Schedule = "cosine",
    warmup_epochs: float | None = None,
    restart_epochs: list[int] | None = None,
    optimizer: Optimizer = "Adam",
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    skip_norm: float | None = None,
    average: float | None = None,
    patience: int | None = None,
    start_from: Run | Path | str | None = None,
    labels: int | None = None,
    label_repeats: int = 1,
    seed: int = 0,
    device: DeviceChoice = "auto",
    engine: Engine = "auto",
    precision: Precision = "float32",
    run: Path | str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 15.0,
    on_epoch: Callable[[Run, Row], object] | None = None,
    stop_when: StopWhen | None = None,
    validation: Any = None,
    test: Any = None,
) -> Run:
    """Trains a model/guide pair by stochastic variational inference and writes a run directory.

    Args:
        data: The data set, or images as `ppl_vae.data.Arrays.of` takes them: an array or a tensor
            (N, H, W) or (N, C, H, W), a table (N, columns), a pair (images, labels), or a map-style
            torch `Dataset`. Of images the run directory keeps a copy. The embedded digits unless
            given.
        model: p(x, z).
        prior: p(z), where the model has one to choose.
        likelihood: p(x|z), where the model has one to choose; unless given, Bernoulli for data
            that are binary by default and Gaussian for others, for a table with a scale for each
            column that begins at 1.
        network: The architecture of encoder and decoder.
        guide: q(z|x).
        objective: What is minimised; the negative ELBO unless given.
        latent_dim: D, the dimension of z.
        epochs: Passes over the training images.
        batch_size: Images in a minibatch, of all processes together where torchrun started several;
            100, or all training images where there are fewer, unless given.
        learning_rate: The optimizer's step size at its peak.
        schedule: How it goes on from there: `cosine` decays to zero, `constant` stays, `step` falls
            to a tenth in the eight stages of Burda et al. (2016), each three times as long as the
            one before.
        warmup_epochs: Epochs in which the learning rate rises to its peak; by default one, or a
            tenth of fewer than ten.
        restart_epochs: Epochs after which the schedule begins again at its peak, and patience
            counts again; none unless given. Going on beyond the plan adds one.
        optimizer: The rule of the updates, by its name in torch.optim. `Muon` makes those of the
            weights of layers orthogonal, and has AdamW for all else, with the constants of Adam.
        adam_beta1: The part of the gradient's running mean that a step keeps.
        adam_beta2: The part of that of its square (in Adamax, of its maximum) that one keeps.
        adam_epsilon: What is added to the denominator of an update.
        weight_decay: This multiple of each parameter is added to its gradient; with AdamW or
            Muon the parameter shrinks by it, times the learning rate, instead.
        clip_norm: A gradient of a larger norm, over all parameters, is scaled down to it.
        skip_norm: A step whose gradient has a larger norm is left out, and counted.
        average: The decay, such as 0.999, of an exponential mean of the parameters over the steps,
            which is then what is validated, kept and measured; none unless given.
        patience: Stop after this many epochs without a better bound on the validation images, and
            keep the best parameters; unless given, train all epochs and keep the last.
        start_from: The run whose parameters the pair takes; of a `VAE` also for a `Mixture`.
        labels: How many of the training images keep their labels, as many of each class, where
            the model is one of labelled images; all unless given.
        label_repeats: How often an epoch has each image that keeps its label, where `labels` is
            given. Without it, 100 labels among 50,000 images reach one batch in five.
        seed: The seed of all random numbers.
        device: Where to compute: cpu, cuda or cuda:N, or a `torch.device`; `auto` takes CUDA where
            there is one.
        engine: `eager` runs the Pyro programs in every step; `compiled` runs a graph of tensor
            operations that was traced from them, checked against them and compiled; `auto` compiles
            runs of 10,000 steps or more. A pair without one runs eager, and a line says why.
        precision: What the networks, and Muon, compute in during training, `tensorfloat32` on GPUs
            alone; parameters, log-probabilities and measurements are float32.
        run: The run directory to write; the first free one of runs/DATA-MODEL-1, -2, ... unless
            given.
        overwrite: Whether a run that is there already is replaced, once this one can start.
        checkpoint_seconds: Seconds between checkpoints.
        on_epoch: Called as on_epoch(run, row) after each epoch, with its line of `metrics.csv`. The
            pair is in evaluation mode then. It may measure, draw and write; random numbers that it
            draws do not change the run. Where the process was killed, the epochs since the last
            checkpoint come again.
        stop_when: Called as stop_when(rows) after each epoch, with all lines so far; once it gives
            true, the run is finished.
        validation: Where `data` are images, those for validation; a tenth of `data` unless given.
        test: Where `data` are images, those for the test; a tenth of `data` unless given.

    Returns:
        The run, with the trained model and guide. In a notebook its learning curves are shown as
        they grow, and its pictures at the end.

    Raises:
        InputError: If something given is wrong; nothing is written then.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
        OSError: If the run directory cannot be written.
    """
    check_flags(overwrite=overwrite)
    check_functions(on_epoch=on_epoch, stop_when=stop_when)
    pieces: dict[str, Any] = {
        "data": data_set(data, validation, test),
        "model": model,
        "prior": prior,
        "likelihood": likelihood,
        "network": network,
        "guide": guide,
        "objective": instance("objective", objective or ELBO),
    }
    check_pieces(pieces)
    if start_from is not None:
        path = start_from.path if isinstance(start_from, Run) else start_from
        start_from = str(as_path("--start_from", path))
    settings = Settings.of(locals() | {"device": str(device)})
    if overwrite and run is None:
        raise InputError("--overwrite: expected --run too, the run to replace; got none")
    ranks = join(settings.device)
    if likelihood is None and "likelihood" in inspect.signature(model).parameters:
        pieces["likelihood"] = usual_likelihood(pieces)
    name = "-".join(class_of(pieces[role]).__name__ for role in ("data", "model"))
    free = partial(free_path, name)
    wanted = as_path("--run", run) if run else None
    path = Path(ranks.text_of_first(lambda: str(unused(wanted or free(), overwrite))))
    config = {"version": CONFIG_VERSION, **described(pieces), **dataclasses.asdict(settings)}
    with ranks.quiet():
        with announced("preparing: the data, the pair and a trial on one batch"):
            started, training = prepare(path, config, settings, pieces, ranks)
            initialise(started, settings.start_from)
        start_engine(settings.engine, training)
        fallback = None if run else free
        fill = partial(save_with_images, pieces["data"], training.save)
        with announced("writing the first checkpoint"):
            made = ranks.text_of_first(lambda: str(create(path, config, fill, fallback, overwrite)))
        started.path = Path(made)
        started.pieces["data"] = saved_in(started.path, pieces["data"])
        with locked(started.path) if ranks.first else nullcontext():
            return _train(started, training, on_epoch, stop_when)


@called_anywhere
def resume(
    run: Run | Path | str,
    device: DeviceChoice | torch.device | None = None,
    allow_code: bool = False,
    data: DataSet | None = None,
    epochs: int | None = None,
    on_epoch: Callable[[Run, Row], object] | None = None,
    stop_when: StopWhen | None = None,
) -> Run:
    """Goes on with a run from its last checkpoint, as if it had never stopped.

    On the same device the result is the same, bit for bit. With more `epochs` than the run was
    planned for, its schedule begins again at the end of the plan, or where the run ended before
    it, and lasts for the epochs that are added: then it is the run that `fit` trains with these
    `epochs` and `restart_epochs`, which its `config.yaml` has from now on.

    Args:
        run: The run, or its directory.
        device: Where to compute; as the run's config says unless given.
        allow_code: Whether classes from outside the project that the config names may be imported.
        data: The data set of the run where its files have moved; that of its config unless given.
        epochs: Passes over the training images, in all; as many as were planned unless given.
        on_epoch: As `fit` takes it.
        stop_when: As `fit` takes it.

    Returns:
        The run, with the trained model and guide.

    Raises:
        InputError: If the run cannot be read, or has more epochs than are asked for.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is written.
        OSError: If the run directory cannot be written.
    """
    check_functions(on_epoch=on_epoch, stop_when=stop_when)
    if isinstance(run, Run):  # whose code is there already
        allow_code, data, run = True, data or run.pieces["data"], run.path
    path = as_path("a run", run)
    config = config_of(path)
    config |= {"device": str(device)} if device else {}
    try:
        settings = Settings.of(config)
    except InputError as error:
        raise InputError(f"{path / CONFIG}: {error}") from error
    ranks = join(settings.device)
    with ranks.quiet(), locked(path) if ranks.first else nullcontext():
        pieces = restore_pieces(config, allow_code, data)
        with announced("preparing: the data, the pair and its checkpoint"):
            resumed, training = prepare(path, config, settings, pieces, ranks)
            training.restore(path)
        if epochs is not None:
            training.extend(epochs)
        start_engine(settings.engine, training)
        if ranks.first:
            remove_unfinished(path)
            if training.settings != settings:
                record_plan(resumed, training.settings)
        return _train(resumed, training, on_epoch, stop_when)


def _train(
    run: Run,
    training: Training,
    on_epoch: Callable[[Run, Row], object] | None,
    stop_when: StopWhen | None,
) -> Run:
    state = training.step.pair.state_dict().values()
    training.ranks.copy_from_first(*state)
    live = Live(run, training.rows) if in_notebook() else None

    def after_epoch(row: Row) -> None:
        if on_epoch:
            on_epoch(run, row)
        if live:
            live()

    training.run(run.path, after_epoch, stop_when)
    training.keep_best()
    run.model.eval()
    run.guide.eval()
    if not training.ranks.first:
        return run
    write_summary(run, training)
    with announced("drawing pictures"), named_if_interrupted(run):
        draw_pictures(run, training.rows)
    if live:
        live.finish()
    return run


def main(arguments: list[str] | None = None) -> None:
    """The command line of `fit`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = fit_parser(fit)
    resumes = any(argument.partition("=")[0] == "--resume" for argument in arguments)
    data, arguments = piece_arguments("data", arguments) if resumes else ([], arguments)
    options = parse_with_pieces(parser, arguments)
    again = options.pop("resume")
    allow_code = options.pop("allow_code")
    if again is not None:
        allow_only(arguments, "--resume", "--epochs", "--device", "--allow_code")
        chosen = {argument.partition("=")[0] for argument in arguments}
        device, epochs = (
            options[name] if f"--{name}" in chosen else None for name in ("device", "epochs")
        )
        moved = data_set_of(again, data, allow_code)
        run = resume(again, device, allow_code, moved, epochs)
    else:
        run = fit(**options)
    if join(run.config["device"]).first:
        print(report(run))


if __name__ == "__main__":
    main()
