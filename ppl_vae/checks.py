"""Checks of a model/guide pair before it trains, and of its numbers where training breaks."""

import warnings

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.errors import InputError
from ppl_vae.isolation import isolated
from ppl_vae.objectives import Objective

__all__ = ["check_objective", "check_pair", "find_not_finite"]


def check_pair(model: Model, guide: Guide, x: Tensor) -> None:
    """Runs the two programs once, with Pyro's validation on, and compares their traces.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: A minibatch (B, C, H, W) of the data that the pair is to be trained on.

    Raises:
        InputError: If a program does not run, the latent sites differ, `x` is not observed, a
            site is not per datum, a parameter belongs to no module, a log-probability is not
            finite, or a guide that is a density meets a model without one for z.
    """
    pair = f"{type(model).__name__} with guide {type(guide).__name__}"
    with torch.no_grad(), isolated(x.device, model, guide), pyro.validation_enabled(True):
        try:
            guide_trace, model_trace = _traces(model, guide, x)
        except NotImplementedError as error:
            if "pyro.param" not in str(error):
                raise InputError(f"{pair} is not complete: {_reason(error)}") from error
            raise InputError(
                f"{pair}: a pyro.param belongs to no module and would be neither trained nor "
                "saved; make it an nn.Parameter or a PyroParam"
            ) from error
        except (ValueError, RuntimeError) as error:
            reason = _reason(error)
            raise InputError(
                f"{pair} does not run on images {tuple(x.shape[1:])}: {reason}"
            ) from error
    sites = {
        "model": sorted(model_trace.stochastic_nodes),
        "guide": sorted(guide_trace.stochastic_nodes),
    }
    if not sites["model"] == sites["guide"] == sorted(model.latents):
        raise InputError(
            f"{pair}: the guide's sites have to be the model's latent sites; the guide samples "
            f"{sites['guide']}, the model samples {sites['model']} and declares "
            f"{sorted(model.latents)}"
        )
    if model_trace.observation_nodes != ["x"]:
        raise InputError(
            f"{pair}: the model has to observe the one site 'x' (obs=x); "
            f"it observes {model_trace.observation_nodes}"
        )
    for name in [*model.latents, "x"]:
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
    culprit = find_not_finite(model, guide, x)
    if culprit:
        raise InputError(f"{pair}: {culprit} before training; check the initial parameters")


def check_objective(objective: Objective, model: Model, guide: Guide, *batch: Tensor) -> None:
    """Computes the loss of a pair once.

    Args:
        objective: The loss.
        model: p(x, z).
        guide: q(z|x).
        *batch: A minibatch of images (B, C, H, W), and labels where the model takes them.

    Raises:
        InputError: If the objective has no estimator for this pair, such as a closed-form KL where
            there is none.
    """
    device = batch[0].device
    with torch.no_grad(), isolated(device, model, guide), pyro.validation_enabled(True):
        try:
            objective.loss(model, guide, *batch, **objective.schedule(0.0))
        except NotImplementedError as error:
            reason = _reason(error)
            raise InputError(
                f"{type(objective).__name__} cannot be computed for {type(model).__name__} with "
                f"guide {type(guide).__name__}: {reason}; choose another option, prior or guide"
            ) from error


def find_not_finite(model: Model, guide: Guide, x: Tensor) -> str | None:
    """Names the first thing that is not finite, following the two programs: for error messages.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: The minibatch (B, C, H, W) to try.

    Returns:
        A phrase such as "the log-probability of site 'x' is not finite", or None.
    """
    if not x.isfinite().all():
        return "the data are not finite"
    for program, module in (("guide", guide), ("model", model)):
        for name, parameter in module.named_parameters():
            if not parameter.isfinite().all():
                return f"the {program}'s parameter {name} is not finite"
    with torch.no_grad(), isolated(x.device, model, guide), pyro.validation_enabled(False):
        for program, trace in zip(("guide", "model"), _traces(model, guide, x), strict=True):
            for name in [*model.latents, "x"]:
                if name in trace.nodes and not trace.nodes[name]["log_prob"].isfinite().all():
                    return f"the log-probability of site {name!r} in the {program} is not finite"
    return None


def _reason(error: Exception) -> str:
    """The error's own words in one line, without the table of shapes that Pyro puts below them."""
    return " ".join(str(error).partition("Trace Shapes")[0].split())


def _traces(model: Model, guide: Guide, x: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x)
    traces = prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)
    with warnings.catch_warnings():
        # Who asks for the traces looks for what is not finite, so Pyro's warning only repeats.
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+?-?inf)")
        for trace in traces:
            trace.compute_log_prob()
    return traces
