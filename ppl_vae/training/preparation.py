"""From settings and pieces to a training that can start: data, pair and checks."""

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from models import Model, Network, Spec
from ppl_vae.compiler.compiling import check_engine
from ppl_vae.data import Data
from ppl_vae.errors import InputError, reason
from ppl_vae.machine.devices import choose_device, seed_everything
from ppl_vae.machine.processes import Ranks
from ppl_vae.machine.randomness import isolated, seeded
from ppl_vae.pairs.building import build_pair, choose_domain
from ppl_vae.pairs.checks import check_labels, check_objective, check_pair
from ppl_vae.runs.run import Run
from ppl_vae.training.loop import Training
from ppl_vae.training.precision import PRECISIONS, matrix_precision, slow_precision
from ppl_vae.training.step import SVIStep

__all__ = ["check_settings", "check_step", "initialise", "prepare"]


def check_settings(settings: dict[str, Any]) -> None:
    """Raises an InputError for a number out of its range, or an unknown choice."""
    check_engine(settings.get("engine", "auto"))
    if settings.get("precision", "float32") not in PRECISIONS:
        raise InputError(
            f"--precision: expected one of {', '.join(PRECISIONS)}; got {settings['precision']!r}"
        )
    for name in ("latent_dim", "epochs", "batch_size", "patience"):
        value = settings[name]
        if (name, value) != ("patience", None) and value < 1:
            raise InputError(f"--{name}: expected at least 1; got {value}")
    if not 0 < settings["learning_rate"] < float("inf"):
        raise InputError(f"--learning_rate: expected above 0; got {settings['learning_rate']}")
    if not 0 <= settings.get("weight_decay", 0.0) < float("inf"):
        raise InputError(f"--weight_decay: expected at least 0; got {settings['weight_decay']}")
    repeats = settings.get("label_repeats", 1)
    if repeats < 1 or (repeats > 1 and settings["labels"] is None):
        expected = "at least 1" if repeats < 1 else "--labels too"
        raise InputError(f"--label_repeats: expected {expected}; got {repeats}")
    if not settings["checkpoint_seconds"] >= 0:
        raise InputError(
            f"--checkpoint_seconds: expected at least 0; got {settings['checkpoint_seconds']}"
        )
    warmup, epochs = settings["warmup_epochs"], settings["epochs"]
    if warmup is not None and not 0 <= warmup < epochs:
        raise InputError(
            f"--warmup_epochs: expected 0 or more, below --epochs {epochs}; got {warmup}"
        )


def prepare(
    path: Path, config: dict[str, Any], pieces: dict[str, Any], ranks: Ranks
) -> tuple[Run, Training]:
    """Loads the data, builds the pair from the seed and checks that the two fit.

    Args:
        path: The run directory.
        config: What `config.yaml` says or is to say.
        pieces: The data set, the objective and the classes of the pair, by role.
        ranks: The processes that train together.

    Raises:
        InputError: If something given is wrong.
    """
    device = choose_device(config["device"])
    seed_everything(config["seed"])
    domain = choose_domain(pieces)
    data: Data = pieces["data"].load(domain, config["seed"]).to(device)
    batch_size = config["batch_size"]
    if len(data.train) < batch_size:
        raise InputError(
            f"--batch_size: expected at most {len(data.train):,}, the number of training images; "
            f"got {batch_size:,}"
        )
    least = pieces["objective"].smallest_batch
    if batch_size < least * ranks.size:
        each = "an image" if least == 1 else f"{least} images"
        raise InputError(
            f"--batch_size: expected at least {least * ranks.size}, {each} for each process with "
            f"--objective {type(pieces['objective']).__name__}; got {batch_size}"
        )
    spec = Spec(data.image_shape, domain, config["latent_dim"], data.classes)
    model, guide = build_pair(spec, pieces)
    model.to(device)
    guide.to(device)
    if config.get("labels") is not None:
        data = _keep_labels(data, model, config)
    check_labels(model, data)
    check_pair(model, guide, *data.validation.batch(slice(batch_size), model.labelled))
    few = data.validation.batch(slice(2), model.labelled)
    check_objective(pieces["objective"], model, guide, *few)
    precision = _precision(config, device, [*model.modules(), *guide.modules()])
    # A share of the last batch of an epoch may be a single image, which some layers refuse.
    left = len(data.train) % batch_size or batch_size
    smallest = data.validation.batch(slice(max(1, left // ranks.size)), model.labelled)
    step = SVIStep(
        model,
        guide,
        pieces["objective"],
        precision=precision,
        weight_decay=config.get("weight_decay", 0.0),
        ranks=ranks,
    )
    check_step(step, *smallest)
    training = Training(
        step,
        data,
        dataclasses.asdict(spec),
        epochs=config["epochs"],
        batch_size=batch_size,
        learning_rate=config["learning_rate"],
        warmup_epochs=config["warmup_epochs"],
        patience=config["patience"],
        seed=config["seed"],
        checkpoint_seconds=config["checkpoint_seconds"],
    )
    run = Run(path, config, pieces, spec, model, guide, device)
    run.data = data
    print(data.note, file=sys.stderr)
    return run, training


def _precision(
    config: dict[str, Any], device: torch.device, modules: Iterable[nn.Module]
) -> torch.dtype | None:
    choice = config.get("precision", "float32")
    if PRECISIONS[choice] and not any(isinstance(m, Network) for m in modules):
        print("precision: the pair has no models.Network, so all is float32", file=sys.stderr)
    if slow_precision(PRECISIONS[choice], device):
        print(
            f"precision: this {device.type} has no {choice} arithmetic and emulates it, which is "
            "slower than float32",
            file=sys.stderr,
        )
    return PRECISIONS[choice]


def _keep_labels(data: Data, model: Model, config: dict[str, Any]) -> Data:
    if not model.labelled:
        raise InputError(
            f"--labels: {type(model).__name__} takes no labels; leave it out, or choose --model "
            "SemiSupervised"
        )
    train = data.train.keep_labels(config["labels"], data.classes, config["seed"])
    return dataclasses.replace(data, train=train.repeat_labelled(config.get("label_repeats", 1)))


def initialise(run: Run) -> None:
    """Lets the model start from training images; the random numbers of the run stay as they are."""
    train = run.data.train
    with seeded(run.device, run.config["seed"]):
        order = torch.randperm(len(train)).to(run.device)
        run.model.initialise(lambda count: train[order[torch.arange(count) % len(train)]])


def check_step(step: SVIStep, *batch: Tensor) -> None:
    """Computes the loss once as in training, in its mode and precision.

    Args:
        step: The step; its parameters, buffers and the modes of its modules stay as they are.
        *batch: As few images (B, C, H, W) as a step may get, and labels where the model takes
            them.

    Raises:
        InputError: If the pair cannot do that.
    """
    modes = [(module, module.training) for module in step.pair.modules()]
    with torch.no_grad(), isolated(batch[0].device, step.pair), pyro.validation_enabled(True):
        step.pair.train()
        try:
            with matrix_precision(step.precision, step.pair):
                step.pair(*batch, **step.scheduled)
        except (ValueError, RuntimeError) as error:
            lower = "" if step.precision is None else f" in {step.precision}".replace("torch.", "")
            raise InputError(
                f"{type(step.model).__name__} with guide {type(step.guide).__name__} cannot be "
                f"trained on a batch of {len(batch[0])}{lower}: {reason(error)}; choose another "
                f"{'--precision' if lower else '--batch_size'}"
            ) from error
        finally:
            for module, mode in modes:
                module.training = mode
