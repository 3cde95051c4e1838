"""Importance weights, datum by datum: the one quantity under every bound on log p(x)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from guides import Guide
from models import Model
from ppl_vae.densities.joint import Joint, Program, summed_out
from ppl_vae.machine.randomness import repeatable

__all__ = ["LogTerms", "Scoring", "log_terms", "log_weights", "pair_traces"]


@dataclass(frozen=True)
class LogTerms:
    """The terms of log w = log p(z) + log p(x|z) - log q(z|x), each (R, B) in nats.

    A row is a draw, R = K, unless the guide has a discrete site y that takes all its values: then
    each draw of z has a row for every y, and the row counts as much as q(y|x) says. Averages
    over rows are therefore taken with `sum` and `log_sum_exp`, and divided by K.

    Attributes:
        latents: The draws themselves by site, (R, B, D).
        log_share: log q(y|x) of each row, (R, B); None where every row is a whole draw.
    """

    log_prior: Tensor
    log_likelihood: Tensor
    log_guide: Tensor
    latents: dict[str, Tensor]
    log_share: Tensor | None = None

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z_k) - log q(z_k|x), (R, B) in nats."""
        return self.log_prior + self.log_likelihood - self.log_guide

    def check_draws(self, purpose: str) -> None:
        """Refuses rows that are no whole draws.

        Args:
            purpose: What counts every row once, for the message.

        Raises:
            NotImplementedError: If a row is a class, which counts as much as q(y|x) says.
        """
        if self.log_share is not None:
            raise NotImplementedError(
                f"{purpose} is an average over draws, and the guide takes every class instead of "
                "drawing one; choose --objective ELBO, or for Mixture a guide of z alone, such as "
                "DiagonalNormal"
            )

    def sum(self, values: Tensor) -> Tensor:
        """sum_k E_q(y|x) values, (B,), for values (R, B)."""
        return (values if self.log_share is None else self.log_share.exp() * values).sum(0)

    def log_sum_exp(self, values: Tensor) -> Tensor:
        """log sum_k E_q(y|x) exp(values), (B,), for values (R, B)."""
        return (values if self.log_share is None else self.log_share + values).logsumexp(0)


def log_terms(
    model: Model,
    guide: Guide,
    x: Tensor,
    particles: int,
    stop_guide: bool = False,
    labels: Tensor | None = None,
) -> LogTerms:
    """Draws z_1, ..., z_K from q(z|x) for each datum and evaluates the terms of its weights.

    The sites that the model names in `enumerated` are summed out exactly. Where the guide leaves
    them out, log p(z) is the marginal density log sum_y p(y) p(z|y) and log p(x|z) the ratio of
    sum_y p(y) p(z|y) p(x|z, y) to it. Where the guide has them, every value has rows of its own.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: Images (B, C, H, W).
        particles: K, the number of draws for each datum.
        stop_guide: Whether log q(z_k|x) is taken with the parameters that it depends on held
            constant, so that their gradient from there comes through z_k alone.
        labels: Their labels (B,) for a model of labelled images, -1 where there is none.

    Raises:
        NotImplementedError: If stop_guide, and the guide has a discrete site, which no gradient
            comes through.
    """
    batch = (x,) if labels is None else (x, labels)
    again = repeatable(x.device) if stop_guide else None
    guide_trace = _guide_trace(guide, batch, particles)
    in_guide = tuple(site for site in model.enumerated if site in guide_trace.nodes)
    if again and in_guide:
        raise NotImplementedError(
            f"no gradient comes through the discrete site {in_guide[0]!r} of the guide; choose "
            "--objective ELBO, or IWAE with gradient plain"
        )
    if again:
        # What the terms are computed from, apart from what the guide computed later draws from:
        # who weights the gradient of each z_k must not meet it twice where layers are chained.
        for site in model.latents:
            node: Any = guide_trace.nodes[site]
            node["value"] = node["value"].view_as(node["value"])
    model_trace = _model_trace(model, guide_trace, batch, particles)
    shape = torch.Size((particles, len(x)))
    latents = (*model.latents, *model.enumerated)
    log_prior = _log_probability(model_trace, latents, shape)
    log_likelihood = _log_probability(model_trace, model_trace.observation_nodes, shape)
    if again:
        scoring = Scoring(model, guide)
        constants = {name: value.detach() for name, value in scoring.named_parameters()}
        with pyro.plate("particles", particles, dim=-2), again():
            inputs = (guide_trace, model.latents, shape, *batch)
            log_guide = functional_call(scoring, constants, inputs)
    else:
        log_guide = _log_probability(guide_trace, (*model.latents, *in_guide), shape)
    if not in_guide:
        if model.enumerated:
            log_prior, log_likelihood = summed_out(log_prior, log_likelihood)
        drawn = {site: _value(guide_trace, site) for site in model.latents}
        return LogTerms(log_prior, log_likelihood, log_guide, drawn)
    log_share = _log_probability(guide_trace, in_guide, shape)
    terms = torch.broadcast_tensors(log_prior, log_likelihood, log_guide, log_share)
    rows = terms[0].shape
    drawn = {site: _expanded(guide_trace, site, rows) for site in model.latents}
    prior, likelihood, guided, share = (term.flatten(0, -2) for term in terms)
    return LogTerms(prior, likelihood, guided, drawn, share)


class Scoring(nn.Module):
    """log q(z_k|x) of draws from a guide; its parameters are also the model's, which q may share.

    The density is taken inside the call: a flow looks at its networks' parameters only then.
    """

    def __init__(self, model: Model, guide: Guide) -> None:
        super().__init__()
        self.model = model
        self.guide = guide

    def forward(
        self, drawn: poutine.Trace, sites: Sequence[str], shape: torch.Size, *batch: Tensor
    ) -> Tensor:
        trace = poutine.trace(poutine.replay(self.guide, drawn)).get_trace(*batch)
        return _log_probability(trace, sites, shape)


def pair_traces(
    model: Model, guide: Guide, batch: tuple[Tensor, ...], particles: int
) -> tuple[poutine.Trace, poutine.Trace]:
    """The guide's trace, and the model's on its draws: particles at dim -2, every y at dim -3.

    Args:
        model: p(x, z).
        guide: q(z|x).
        batch: Images (B, C, H, W), and labels (B,) where the programs take them.
        particles: K, the number of draws for each datum.
    """
    guide_trace = _guide_trace(guide, batch, particles)
    return guide_trace, _model_trace(model, guide_trace, batch, particles)


def _guide_trace(guide: Guide, batch: tuple[Tensor, ...], particles: int) -> poutine.Trace:
    """Particles at dim -2, every value of a discrete site at dim -3."""
    with pyro.plate("particles", particles, dim=-2), poutine.enum(first_available_dim=-3):
        return poutine.trace(guide).get_trace(*batch)


def _model_trace(
    model: Model, guide_trace: poutine.Trace, batch: tuple[Tensor, ...], particles: int
) -> poutine.Trace:
    """The model on the guide's draws, the same way."""
    with poutine.enum(), pyro.plate("particles", particles, dim=-2):
        return poutine.trace(poutine.replay(model, guide_trace)).get_trace(*batch)


def _log_probability(trace: poutine.Trace, sites: Sequence[str], shape: torch.Size) -> Tensor:
    """The sum over sites, (K, B), or (Y, K, B) where it depends on the discrete site."""
    nodes: list[Any] = [trace.nodes[site] for site in sites]
    terms = [node["fn"].log_prob(node["value"]) for node in nodes]
    shape = torch.broadcast_shapes(shape, *(term.shape for term in terms))
    return torch.stack([term.expand(shape) for term in terms]).sum(0)


def _value(trace: poutine.Trace, site: str) -> Tensor:
    node: Any = trace.nodes[site]
    return node["value"]


def _expanded(trace: poutine.Trace, site: str, rows: torch.Size) -> Tensor:
    """The value of a site in each row, (R, B, D)."""
    node: Any = trace.nodes[site]
    value = node["value"].expand(*rows, *node["fn"].event_shape)
    return value.reshape(-1, rows[-1], *node["fn"].event_shape)


def log_weights(
    model: Program, guide: Program, x: Tensor, particles: int, labels: Tensor | None = None
) -> Tensor:
    """log w_k = log p(x, z_k) - log q(z_k|x), z_k ~ q(z|x), (K, B) in nats, per datum.

    Their mean over k estimates the ELBO; log mean exp of them is the bound of Burda, Grosse and
    Salakhutdinov (2016, equation 8), which tends to log p(x). Where the guide has a discrete site
    y, w_k is the average of its weights over y under q(y|x), and the mean over k of log w_k a
    bound that is no looser than the ELBO.

    The pair is one of this project, or any two Pyro programs as
    `ppl_vae.densities.joint.Joint` takes them.
    All draws are made at once and gradients come through them; `Joint.log_weights` is for many.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: Data (B, ...).
        particles: K, the number of draws for each datum.
        labels: Their labels (B,) for a model of labelled images, -1 where there is none.

    Raises:
        NotImplementedError: If q(z|x) is a point, without a density.
        InputError: If programs from outside the project do not fit each other.
    """
    if not (isinstance(model, Model) and isinstance(guide, Guide)):
        joint = Joint.of(model, guide, x if labels is None else (x, labels))
        latents, log_guide = joint.draw(particles)
        return torch.stack(joint.log_terms(latents)).sum(0) - log_guide
    guide.check_density("an importance weight")
    terms = log_terms(model, guide, x, particles, labels=labels)
    if terms.log_share is None:
        return terms.log_weights
    return (terms.log_share + terms.log_weights).unflatten(0, (-1, particles)).logsumexp(0)
