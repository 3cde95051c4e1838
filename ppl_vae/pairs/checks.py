"""Checks of a model/guide pair before it trains, and of its numbers where training breaks."""

import inspect
import warnings
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from guides import Guide
from models import Cells, Convolutional, MaxPooling, Mixture, Model, NetworkFactory, Residual
from models.ranges import check_count
from ppl_vae.data import Data
from ppl_vae.errors import InputError, reason
from ppl_vae.machine.randomness import isolated
from ppl_vae.objectives import Objective
from ppl_vae.pairs.own_code import in_own_code
from ppl_vae.pairs.pieces import class_of, subclasses
from ppl_vae.pairs.sites import OnlyDistributions, check_plates

__all__ = [
    "check_labels",
    "check_network",
    "check_objective",
    "check_pair",
    "find_not_finite",
]

_HOLES = (
    "; where pixels are missing (NaN), the site x takes self.observed(p(x|z)) in a model, and the "
    "encoder of a guide inputs of shape spec.encoder_shape"
)


def check_network(network: NetworkFactory, data: Data) -> None:
    """Refuses a network of convolutions for the rows of a table, whose columns have no neighbours.

    Raises:
        InputError: If it is one.
    """
    cls = class_of(network)
    if data.table and issubclass(cls, (Cells, Convolutional, MaxPooling, Residual)):
        raise InputError(
            f"--network {cls.__name__} convolves images, and the data are a table, whose columns "
            "have no neighbours; choose --network MLP or Linear"
        )


def check_labels(model: Model, data: Data) -> None:
    """Checks that the labels of the data suit a model of labelled images.

    Raises:
        InputError: If images have none and the model takes the class as given, or a label is
            none of the classes.
    """
    if not model.labelled:
        return
    for name, split in (
        ("training", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        labels = torch.full((len(split),), -1) if split.labels is None else split.labels
        unknown = int((labels < 0).sum())
        if unknown and not model.enumerated:
            raise InputError(
                f"{type(model).__name__} needs the label of every image; {unknown:,} of the "
                f"{len(split):,} {name} images have none; choose --model SemiSupervised --guide "
                "SemiSupervisedNormal"
            )
        if labels.max() >= data.classes:
            raise InputError(
                f"expected labels of 0 to {data.classes - 1}, those of the training images; got "
                f"{int(labels.max())} among the {name} images"
            )


def check_pair(model: Model, guide: Guide, x: Tensor, *labels: Tensor) -> None:
    """Runs the two programs once, with Pyro's validation on, and compares their traces.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: A minibatch (B, C, H, W) of the data that the pair is to be trained on.
        *labels: Their labels (B,) where the model is one of labelled images. Where it can do
            without, one image is left without.

    Raises:
        InputError: If a program does not run, the latent sites differ, `x` is not observed, a
            site is not per datum, a discrete site cannot be summed out, a parameter is complex or
            belongs to no module, a log-probability is not finite, or a guide that is a density
            meets a model without one for z.
    """
    pair = f"{type(model).__name__} with guide {type(guide).__name__}"
    if not _takes(type(guide), x, *labels) and not labels:
        raise InputError(
            f"{pair}: the guide takes the class of each image, which the model does not know of; "
            "choose --guide DiagonalNormal, or --model Conditional"
        )
    if not _takes(type(guide), x, *labels):
        suited = "SemiSupervisedNormal" if model.enumerated else "ConditionalNormal"
        raise InputError(
            f"{pair}: a model of labelled images needs a guide that takes labels; choose --guide "
            f"{'ClassifyingNormal' if isinstance(model, Mixture) else suited}"
        )
    for program, module in (("guide", guide), ("model", model)):
        for name, parameter in module.named_parameters():
            if parameter.is_complex():
                raise InputError(
                    f"{pair}: the {program}'s parameter {name} is complex; make its real and "
                    "imaginary part two parameters"
                )
    if model.enumerated:
        labels = tuple(y.index_fill(0, torch.tensor([0], device=y.device), -1) for y in labels)
    with torch.no_grad(), isolated(x.device, model, guide), pyro.validation_enabled(True):
        try:
            guide_trace, model_trace = _traces(model, guide, x, *labels)
        except NotImplementedError as error:
            if "pyro.param" not in str(error):
                raise InputError(
                    f"{pair} is not complete: {reason(error)}{in_own_code(error)}"
                ) from error
            raise InputError(
                f"{pair}: a pyro.param belongs to no module and would be neither trained nor "
                "saved; make it an nn.Parameter or a PyroParam"
            ) from error
        except InputError as error:  # to which Pyro appended its table
            raise InputError(f"{pair}: {reason(error)}") from error
        except (ValueError, RuntimeError) as error:
            if sorted(guide.latents) != sorted(model.latents):
                others = ", ".join(_guides_of(model, sorted(model.latents), x, *labels))
                raise InputError(
                    f"{pair}: the guide is one for the sites {sorted(guide.latents)}, the model "
                    f"has {sorted(model.latents)}; choose one of {others or 'your own'}"
                ) from error
            holes = _HOLES if model.spec.holes else ""
            raise InputError(
                f"{pair} does not run on images {tuple(x.shape[1:])}: {reason(error)}"
                f"{in_own_code(error)}{holes}"
            ) from error
    sites = {
        "model": sorted(model_trace.stochastic_nodes),
        "guide": sorted(guide_trace.stochastic_nodes),
    }
    every = sorted([*model.latents, *model.enumerated])
    if sites["model"] != every or sites["guide"] not in (every, sorted(model.latents)):
        known = _guides_of(model, sites["model"], x, *labels)
        fitting = [name for name in known if name != type(guide).__name__]
        declared = "" if sites["model"] == every else f", which declares {every}"
        raise InputError(
            f"{pair}: the guide's sites have to be the model's latent sites; the guide samples "
            f"{sites['guide']}, the model {sites['model']}{declared}"
            + (f"; guides for these: {', '.join(fitting)}" if fitting else "")
        )
    check_plates(pair, [*every, "x"], {"guide": guide_trace, "model": model_trace})
    _check_enumeration(pair, model, guide_trace, model_trace)
    observed = model_trace.observation_nodes
    if "x" not in observed or (len(observed) > 1 and not labels):
        raise InputError(
            f"{pair}: the model has to observe the one site 'x' (obs=x); it observes {observed}"
        )
    for name in [*every, "x"]:
        shape = tuple(model_trace.nodes[name]["log_prob"].shape)
        if shape != (len(x),):
            raise InputError(
                f"{pair}: expected log-probabilities of site {name!r} per datum, shape "
                f"({len(x)},); got {shape}; put it into the plate 'data' at dim -1 and use to_event"
            )
    if guide.has_density and not model.has_prior:
        raise InputError(
            f"{pair}: the model has no density p(z), so that nothing would keep q(z|x) from "
            "spreading without end; choose --guide Delta, a point"
        )
    culprit = find_not_finite(model, guide, x, *labels)
    if culprit:
        raise InputError(f"{pair}: {culprit} before training; check the initial parameters")


def _guides_of(model: Model, sites: list[str], *batch: Tensor) -> list[str]:
    """The names of the guides for a model whose latent sites have these names on this batch."""
    known: list[Any] = subclasses(Guide)
    sites = sites if type(model).latents else []  # else their number is an option
    return [cls.__name__ for cls in known if sorted(cls.latents) == sites if _takes(cls, *batch)]


def _takes(guide: type[Guide], *batch: Tensor) -> bool:
    try:
        inspect.signature(guide.forward).bind(None, *batch)
    except TypeError:
        return False
    return True


def _check_enumeration(
    pair: str, model: Model, guide_trace: poutine.Trace, model_trace: poutine.Trace
) -> None:
    """Refuses discrete sites that would be drawn, or that take other values in the guide."""
    if not model.enumerated:
        return
    guide_nodes: dict[str, Any] = dict(guide_trace.nodes)
    model_nodes: dict[str, Any] = dict(model_trace.nodes)
    for site in model.enumerated:
        counts = {}
        for program, nodes in (("guide", guide_nodes), ("model", model_nodes)):
            if site not in nodes:
                continue
            if nodes[site]["infer"].get("enumerate") != "parallel":
                raise InputError(
                    f"{pair}: the {program} draws the discrete site {site!r}, which has to be "
                    "summed out; add infer={'enumerate': 'parallel'} to its pyro.sample"
                )
            counts[program] = len(nodes[site]["fn"].enumerate_support(expand=False))
        if len(set(counts.values())) > 1:
            raise InputError(
                f"{pair}: site {site!r} has {counts['guide']} values in the guide and "
                f"{counts['model']} in the model; give both the same number"
            )
    for site in model.latents:
        if not guide_nodes[site]["fn"].has_rsample:
            raise InputError(
                f"{pair}: where classes are summed out, the guide's site {site!r} has to be "
                "reparameterised, as that of --guide DiagonalNormal is"
            )


def check_objective(objective: Objective, model: Model, guide: Guide, *batch: Tensor) -> None:
    """Computes the loss of a pair once.

    Args:
        objective: The loss.
        model: p(x, z).
        guide: q(z|x).
        *batch: A minibatch of images (B, C, H, W), and labels where the model takes them.

    Raises:
        InputError: If the objective has no estimator for this pair, such as a closed-form KL where
            there is none, or takes no labels where the model has them, or its `bound_particles`
            are no count.
    """
    try:
        check_count(f"{type(objective).__name__}.bound_particles", objective.bound_particles)
    except ValueError as error:
        raise InputError(str(error)) from error
    device = batch[0].device
    scheduled = objective.first_scheduled(device)
    try:
        inspect.signature(objective.loss).bind(model, guide, *batch, **scheduled)
    except TypeError as error:
        raise InputError(
            f"{type(objective).__name__} takes no labels, and {type(model).__name__} is a model of "
            "labelled images; choose --objective ELBO"
        ) from error
    with torch.no_grad(), isolated(device, model, guide), pyro.validation_enabled(True):
        try:
            if objective.through_draws:
                _check_reparameterised(model, guide, batch)
            objective.loss(model, guide, *batch, **scheduled)
        except NotImplementedError as error:
            raise InputError(
                f"{type(objective).__name__} cannot be computed for {type(model).__name__} with "
                f"guide {type(guide).__name__}: {reason(error)}"
            ) from error


def _check_reparameterised(model: Model, guide: Guide, batch: tuple[Tensor, ...]) -> None:
    nodes: dict[str, Any] = dict(poutine.trace(guide).get_trace(*batch).nodes)
    for site in model.latents:
        if not nodes[site]["fn"].has_rsample:
            raise NotImplementedError(
                f"no gradient comes through draws of {site!r} from the guide; choose --objective "
                "ScoreFunction or ELBO, or a guide that is reparameterised, such as DiagonalNormal"
            )


def find_not_finite(model: Model, guide: Guide, x: Tensor, *labels: Tensor) -> str | None:
    """Names the first thing that is not finite, following the two programs: for error messages.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: The minibatch (B, C, H, W) to try.
        *labels: Their labels (B,) where the model is one of labelled images.

    Returns:
        A phrase such as "the log-probability of site 'x' is not finite", or None.
    """
    if not (x.isfinite() | (x.isnan() & model.spec.holes)).all():
        return "the data are not finite"
    for program, module in (("guide", guide), ("model", model)):
        for name, parameter in module.named_parameters():
            if not parameter.isfinite().all():
                return f"the {program}'s parameter {name} is not finite"
    with torch.no_grad(), isolated(x.device, model, guide), pyro.validation_enabled(False):
        traces = _traces(model, guide, x, *labels)
        for program, trace in zip(("guide", "model"), traces, strict=True):
            for name in [*model.enumerated, *model.latents, "x"]:
                if name in trace.nodes and not trace.nodes[name]["log_prob"].isfinite().all():
                    return f"the log-probability of site {name!r} in the {program} is not finite"
    return None


def _traces(model: Model, guide: Guide, *batch: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
    with OnlyDistributions(guide):
        guide_trace = poutine.trace(guide).get_trace(*batch)
    with OnlyDistributions(model):
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(*batch)
    traces = prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)
    with warnings.catch_warnings():
        # The callers report values that are not finite themselves.
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)")
        for trace in traces:
            trace.compute_log_prob()
    return traces
