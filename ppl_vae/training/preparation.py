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
from ppl_vae.data import Data, Split
from ppl_vae.errors import InputError, kind, reason
from ppl_vae.machine.devices import choose_device, seed_everything
from ppl_vae.machine.processes import Ranks
from ppl_vae.machine.randomness import isolated, seeded
from ppl_vae.measures.encoding import posterior_draws
from ppl_vae.objectives import Objective
from ppl_vae.pairs.building import build_pair, load_data
from ppl_vae.pairs.checks import check_labels, check_network, check_objective, check_pair
from ppl_vae.pairs.own_code import in_own_code
from ppl_vae.runs.config import config_of, write_config
from ppl_vae.runs.directory import SUMMARY
from ppl_vae.runs.restoring import kept_parameters
from ppl_vae.runs.run import Run
from ppl_vae.runs.settings import Precision, Settings
from ppl_vae.training.adam import Rule
from ppl_vae.training.loop import Training
from ppl_vae.training.precision import matrix_precision, precisions_of, slow_precision
from ppl_vae.training.size import check_activations, check_size
from ppl_vae.training.step import SVIStep

__all__ = ["check_step", "initialise", "prepare", "record_plan"]

_BATCH_SIZE = 100
_CODES = 5_000  # images at most, to whose z parameters are fitted: t-SNE of more takes minutes


def prepare(
    path: Path, config: dict[str, Any], settings: Settings, pieces: dict[str, Any], ranks: Ranks
) -> tuple[Run, Training]:
    """Loads the data, builds the pair from the seed and checks that the two fit.

    Args:
        path: The run directory.
        config: The content of `config.yaml`; the batch size goes into it where none was given.
        settings: How to train.
        pieces: The data set, the objective and the classes of the pair, by role.
        ranks: The processes that train together.

    Raises:
        InputError: If something given is wrong.
    """
    device = choose_device(settings.device)
    seed_everything(settings.seed)
    data = load_data(pieces, settings.seed).to(device)
    batch_size = _batch_size(settings, len(data.train), pieces["objective"], ranks.size)
    config["batch_size"] = batch_size
    settings = dataclasses.replace(settings, batch_size=batch_size)
    spec = Spec(data.image_shape, data.domain, settings.latent_dim, data.classes, data.holes)
    check_network(pieces["network"], data)
    check_size(spec, pieces, settings.average is not None)
    model, guide = build_pair(spec, pieces)
    model.to(device)
    guide.to(device)
    if settings.labels is not None:
        data = _keep_labels(data, model, settings)
    check_labels(model, data)
    check_pair(model, guide, *data.validation.batch(slice(batch_size), model.labelled))
    few = data.validation.batch(slice(2), model.labelled)
    check_objective(pieces["objective"], model, guide, *few)
    _check_precision(settings.precision, device, [*model.modules(), *guide.modules()])
    # A share of the last batch of an epoch may be a single image, which some layers refuse.
    left = len(data.train) % batch_size or batch_size
    smallest = data.validation.batch(slice(max(1, left // ranks.size)), model.labelled)
    step = SVIStep(
        model,
        guide,
        pieces["objective"],
        precision=settings.precision,
        rule=Rule(
            settings.optimizer,
            settings.adam_beta1,
            settings.adam_beta2,
            settings.adam_epsilon,
            settings.weight_decay,
        ),
        clip_norm=settings.clip_norm,
        skip_norm=settings.skip_norm,
        average=settings.average,
        ranks=ranks,
    )
    check_step(step, -(-batch_size // ranks.size), *smallest)
    training = Training(step, data, dataclasses.asdict(spec), settings)
    run = Run(path, config, pieces, spec, model, guide, device)
    run.data = data
    print(data.note, file=sys.stderr)
    return run, training


def _batch_size(settings: Settings, images: int, objective: Objective, processes: int) -> int:
    """The one that was given, else 100 or, where there are fewer, all training images."""
    least = objective.smallest_batch * processes
    each = "an image" if least == processes else f"{objective.smallest_batch} images"
    why = f"{each} for each process with --objective {type(objective).__name__}"
    if settings.batch_size is None and images < least:
        raise InputError(
            f"expected at least {least} training images, {why}; got {images}; add images"
        )
    batch_size = settings.batch_size or min(_BATCH_SIZE, images)
    if images < batch_size:
        raise InputError(
            f"--batch_size: expected at most {images:,}, the number of training images; "
            f"got {batch_size:,}"
        )
    if batch_size < least:
        raise InputError(f"--batch_size: expected at least {least}, {why}; got {batch_size}")
    return batch_size


def _check_precision(
    precision: Precision, device: torch.device, modules: Iterable[nn.Module]
) -> None:
    """Refuses a precision that the device lacks, and says where one does nothing or is slow."""
    if precision not in precisions_of(device):
        raise InputError(
            f"--precision {precision}: expected a GPU, whose products have it; got "
            f"{device.type}; choose float32 or bfloat16"
        )
    if precision == "bfloat16" and not any(isinstance(m, Network) for m in modules):
        print("precision: the pair has no models.Network and stays float32", file=sys.stderr)
    if slow_precision(precision, device):
        print(
            f"precision: this {device.type} has no {precision} arithmetic and emulates it, which "
            "is slower than float32",
            file=sys.stderr,
        )


def _keep_labels(data: Data, model: Model, settings: Settings) -> Data:
    if not model.labelled:
        raise InputError(
            f"--labels: {type(model).__name__} takes no labels; leave it out, or choose --model "
            "SemiSupervised --guide SemiSupervisedNormal"
        )
    assert settings.labels is not None
    train = data.train.keep_labels(settings.labels, data.classes, settings.seed)
    return dataclasses.replace(data, train=train.repeat_labelled(settings.label_repeats))


def initialise(run: Run, start_from: str | None = None) -> None:
    """Lets the model start from training images; the random numbers of the run stay as they are.

    Args:
        run: A run whose pair has just been built.
        start_from: Another run, with whose parameters the pair starts instead.

    Raises:
        InputError: If that run cannot be read, or its parameters are not those of this pair.
    """
    if start_from is not None:
        _take_parameters(run, Path(start_from))
        return
    train = run.data.train
    with seeded(run.device, run.config["seed"]):
        order = torch.randperm(len(train)).to(run.device)
        run.model.initialise(lambda count: train[order[torch.arange(count) % len(train)]])


def _take_parameters(run: Run, other: Path) -> None:
    """Those of another run; where that is of a `VAE`, this model's others are fitted to its z."""
    pair = nn.ModuleDict({"model": run.model, "guide": run.guide})
    own, theirs = pair.state_dict(), kept_parameters(other)[0]
    theirs = {n: value for n, value in theirs.items() if n.startswith(("model.", "guide."))}
    of_codes = [f"model.{name}" for name in run.model.of_codes]
    fitted = bool(of_codes) and not any(name in theirs for name in of_codes)
    remedy = "choose the pieces of that run"
    if fitted:
        remedy = "start from a VAE of these networks with the prior StandardNormal"
        own = {name: value for name, value in own.items() if name not in of_codes}
    for name in (*own, *theirs):
        shapes = [
            str(tuple(there[name].shape)) if name in there else "none" for there in (own, theirs)
        ]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"--start_from {other}: expected the parameters of this pair, with {name} of shape "
                f"{shapes[0]}; got {shapes[1]}; {remedy}"
            )
    if of_codes and run.model.labelled and not fitted:
        kinds = [config["model"]["class_path"] for config in (run.config, config_of(other))]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"--start_from {other}: its clusters are not numbered as the classes; start from a "
                "VAE of these networks"
            )
    pair.load_state_dict(theirs, strict=False)
    if not fitted:
        return
    images = run.data.train
    if run.model.labelled:
        images = _known_first(images, run.config["label_repeats"])
    images = images.first(_CODES)
    labels = images.labels if run.model.labelled else None
    try:
        run.model.fit_codes(_draws(run, images), labels, run.config["seed"])
    except ValueError as error:
        raise InputError(f"--start_from {other}: {reason(error)}") from error


def _known_first(images: Split, repeats: int) -> Split:
    """Those with a label, each once, and then the others."""
    assert images.labels is not None
    known, others = ((images.labels >= 0) == given for given in (True, False))
    places = known.nonzero().flatten()
    return images.select(torch.cat([places[: len(places) // repeats], others.nonzero().flatten()]))


@torch.no_grad()
def _draws(run: Run, images: Split) -> Tensor:
    """A draw of q(z|x) for each image, (N, D)."""
    starts = range(0, len(images), _BATCH_SIZE)
    batches = images.batches([slice(s, s + _BATCH_SIZE) for s in starts], labelled=False)
    run.guide.eval()
    with seeded(run.device, run.config["seed"]):
        return torch.cat([posterior_draws(run.model, run.guide, 1, x)[0] for (x,) in batches])


def record_plan(run: Run, settings: Settings) -> None:
    """Writes how many epochs a run has from now on, and where its schedule begins again.

    Its summary goes: it is that of a run at its end.
    """
    plan = {"epochs": settings.epochs, "restart_epochs": settings.restart_epochs}
    run.config |= plan
    write_config(run.path, config_of(run.path) | plan)
    (run.path / SUMMARY).unlink(missing_ok=True)


def check_step(step: SVIStep, batch_size: int, *batch: Tensor) -> None:
    """Computes the loss once as in training, in its mode and precision.

    Args:
        step: The step; its parameters, buffers and the modes of its modules stay as they are.
        batch_size: How many images the process has in a usual step, whose memory is foreseen.
        *batch: As few images (B, C, H, W) as a step may get, and labels where the model takes
            them.

    Raises:
        InputError: If the pair cannot do that, or its activations do not fit into memory.
    """

    def loss(count: int) -> Tensor:
        index = torch.arange(count, device=batch[0].device) % len(batch[0])
        return step.pair(*(part[index] for part in batch), **step.scheduled)

    modes = [(module, module.training) for module in step.pair.modules()]
    with torch.enable_grad(), isolated(batch[0].device, step.pair), pyro.validation_enabled(True):
        step.pair.train()
        try:
            with matrix_precision(step.precision, step.pair):
                _check_loss(step.objective, step.pair(*batch, **step.scheduled))
                check_activations(step.pair, loss, batch_size)
        except InputError:
            raise
        except (ValueError, RuntimeError) as error:
            lower = "" if step.precision == "float32" else f" in {step.precision}"
            raise InputError(
                f"{type(step.model).__name__} with guide {type(step.guide).__name__} cannot be "
                f"trained on a batch of {len(batch[0])}{lower}: {reason(error)}"
                f"{in_own_code(error)}; choose another "
                f"{'--precision' if lower else '--batch_size'}"
            ) from error
        finally:
            for module, mode in modes:
                module.training = mode


def _check_loss(objective: Objective, loss: Any) -> None:
    """Refuses a loss that no gradient comes from, or that is no finite number."""
    name = f"objective {type(objective).__name__}"
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else kind(loss)
        raise InputError(f"{name}: expected its loss as a scalar tensor; got {got}")
    if not loss.requires_grad:
        raise InputError(
            f"{name}: its loss has no gradient for any parameter; compute it from the programs, "
            "without detach, item or torch.no_grad"
        )
    if not loss.isfinite():
        raise InputError(f"{name}: expected a finite loss before training; got {loss.item()}")
