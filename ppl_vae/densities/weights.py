"""Importance weights, datum by datum: the one quantity under every bound on log p(x)."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from guides import Guide
from models import Model
from models.sharing import sharing
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import (
    Batch,
    Latents,
    Nodes,
    Program,
    as_batch,
    log_density,
    sample_sites,
    summed_out,
    trace_of,
)
from ppl_vae.machine.randomness import repeatable

__all__ = [
    "LogTerms",
    "Scoring",
    "guide_term",
    "log_terms",
    "log_weights",
    "model_terms",
    "pair_sites",
]


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
    scaled: bool = True,
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
        scaled: Whether the scales of `poutine.scale` count, as they do in a loss. A measurement
            leaves them out. Masks count in both.

    Raises:
        NotImplementedError: If stop_guide, and the guide has a discrete site, which no gradient
            comes through.
        ValueError: If particles < 1.
    """
    batch = (x,) if labels is None else (x, labels)
    again = repeatable(x.device) if stop_guide else None
    drawn, nodes = pair_sites(model, guide, batch, particles, apart=stop_guide)
    in_guide = tuple(site for site in model.enumerated if site in drawn)
    if again and in_guide:
        raise NotImplementedError(
            f"no gradient comes through the discrete site {in_guide[0]!r} of the guide; choose "
            "--objective ELBO, or IWAE with gradient plain"
        )
    latents = {site: nodes[site]["value"] for site in model.latents}
    shape = torch.Size((particles, len(x)))
    log_prior, log_likelihood = model_terms(model, nodes, shape, scaled)
    if again:
        with again():
            log_guide = guide_term(model, guide, latents, shape, batch, scaled=scaled)
    else:
        log_guide = log_density(drawn, (*model.latents, *in_guide), shape, scaled)
    if not in_guide:
        if model.enumerated:
            log_prior, log_likelihood = summed_out(log_prior, log_likelihood)
        return LogTerms(log_prior, log_likelihood, log_guide, latents)
    log_share = log_density(drawn, in_guide, shape)
    terms = torch.broadcast_tensors(log_prior, log_likelihood, log_guide, log_share)
    rows = terms[0].shape
    draws = {}
    for site in model.latents:
        event = drawn[site]["fn"].event_shape
        draws[site] = latents[site].expand(*rows, *event).reshape(-1, rows[-1], *event)
    prior, likelihood, guided, share = (term.flatten(0, -2) for term in terms)
    return LogTerms(prior, likelihood, guided, draws, share)


def model_terms(
    model: Model, nodes: Nodes, shape: torch.Size, scaled: bool = True
) -> tuple[Tensor, Tensor]:
    """log p(y, z) and log p(x|y, z) from a model's sites: (K, B), or (Y, K, B) with sites y."""
    given = (*model.latents, *model.enumerated)
    others = [name for name in nodes if name not in given]
    return log_density(nodes, given, shape, scaled), log_density(nodes, others, shape, scaled)


def guide_term(
    model: Model,
    guide: Guide,
    latents: Latents,
    shape: torch.Size,
    batch: Batch,
    held: bool = True,
    scaled: bool = True,
) -> Tensor:
    """log q(z_k|x), (K, B) in nats, at draws by site, (K, B, D), of a guide without discrete sites.

    Args:
        model: p(x, z), whose parameters q may share.
        guide: q(z|x).
        latents: The draws.
        shape: (K, B).
        batch: Images (B, C, H, W), and labels (B,) where the programs take them.
        held: Whether the parameters that the density depends on are held constant.
        scaled: Whether the scales of `poutine.scale` count.
    """
    scoring = Scoring(model, guide)
    constants = {name: p.detach() for name, p in scoring.named_parameters()} if held else {}
    with pyro.plate("particles", shape[0], dim=-2):
        inputs = (latents, model.latents, shape, *batch)
        return functional_call(scoring, constants, inputs, {"scaled": scaled})


@sharing()
def pair_sites(
    model: Model, guide: Guide, batch: Batch, particles: int, apart: bool = False
) -> tuple[Nodes, Nodes]:
    """The sites of the guide, and of the model at its draws: K at dim -2, every y at dim -3.

    Args:
        model: p(x, z).
        guide: q(z|x).
        batch: Images (B, C, H, W), and labels (B,) where the programs take them.
        particles: K, the number of draws for each datum.
        apart: Whether the model has the draws as tensors of their own. The gradient that reaches
            z_k there is that of the terms alone, without what the guide computes later draws from
            where layers are chained.
    """
    with poutine.enum(first_available_dim=-3):
        trace = trace_of(guide, batch, particles)
    drawn: Nodes = dict(trace.nodes)
    if apart:
        for site in model.latents:
            drawn[site]["value"] = drawn[site]["value"].view_as(drawn[site]["value"])
    with poutine.enum():
        return drawn, sample_sites(poutine.replay(model, trace), batch, particles)


class Scoring(nn.Module):
    """log q(z_k|x) of draws from a guide, with the model's parameters too, which q may share.

    The density is taken inside the call: a flow looks at its networks' parameters only then.
    """

    def __init__(self, model: Model, guide: Guide) -> None:
        super().__init__()
        self.model = model
        self.guide = guide

    def forward(
        self,
        drawn: Latents | poutine.Trace,
        sites: Sequence[str],
        shape: torch.Size,
        *batch: Tensor,
        scaled: bool = True,
    ) -> Tensor:
        trace = poutine.trace(poutine.condition(self.guide, data=drawn)).get_trace(*batch)
        nodes: Nodes = dict(trace.nodes)
        return log_density(nodes, sites, shape, scaled)


def log_weights(
    model: Program,
    guide: Program,
    x: Tensor | Batch,
    particles: int,
    labels: Tensor | None = None,
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
        x: Data (B, ...), or a tuple of all that the programs take.
        particles: K, the number of draws for each datum.
        labels: Their labels (B,) for a model of labelled images, -1 where there is none.

    Raises:
        NotImplementedError: If q(z|x) is a point, without a density.
        InputError: If programs from outside the project do not fit each other.
        ValueError: If particles < 1, or the data are none that the model is for.
    """
    batch = (*as_batch(x), *(() if labels is None else (labels,)))
    if not (isinstance(model, Model) and isinstance(guide, Guide)):
        joint = Joint.of(model, guide, batch)
        latents, log_guide = joint.draw(particles)
        return torch.stack(joint.log_terms(latents)).sum(0) - log_guide
    guide.check_density("an importance weight")
    model.check_batch(*batch)
    images, labels = (*batch, None)[:2]
    assert images is not None
    terms = log_terms(model, guide, images, particles, labels=labels, scaled=False)
    if terms.log_share is None:
        return terms.log_weights
    return (terms.log_share + terms.log_weights).unflatten(0, (-1, particles)).logsumexp(0)
