"""The evidence lower bound as tensors: from draws, and with rates in closed form.

Pyro's own estimators read each log-probability on the host, to report a float and to warn of a NaN.
On a GPU every such read waits for the device, and no tracer can follow it. Values and gradients
here are those of Pyro's.
"""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from guides import Guide
from models import Model
from models.sharing import sharing

__all__ = ["TensorTraceELBO", "closed_form_kl", "distortion_and_rates"]


class TensorTraceELBO(Trace_ELBO):
    """`Trace_ELBO`: -E_q[log p(x, z) - log q(z|x)] from draws of z."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, summed over the batch, in nats; its gradient is the estimator."""
        losses = [self._loss(*traces) for traces in self._get_traces(model, guide, args, kwargs)]
        return sum(losses[1:], losses[0]) / self.num_particles

    def _loss(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        guide_sites: list[Any] = [guide_trace.nodes[n] for n in guide_trace.stochastic_nodes]
        if any(not is_identically_zero(s["score_parts"].score_function) for s in guide_sites):
            # Not reparameterised: Pyro's surrogate has the score-function terms.
            value, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
            return value + (surrogate - surrogate.detach())
        loss = sum(site["score_parts"].entropy_term.sum() for site in guide_sites)
        for name in [*model_trace.stochastic_nodes, *model_trace.observation_nodes]:
            loss = loss - model_trace.nodes[name]["log_prob_sum"]
        return loss


@sharing()
def distortion_and_rates(
    model: Model, guide: Guide, batch: tuple[Tensor, ...], particles: int, analytic_kl: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """-E_q[log p(x|z)] and KL(q(z|x) || p(z)), averaged over the batch, in nats per datum.

    A site has a rate for each of its dimensions where both q and p have independent ones, as
    normals with diagonal covariance do, and else one.

    Args:
        model: p(x, z).
        guide: q(z|x).
        batch: Images (B, C, H, W), and labels (B,) where the programs take them.
        particles: K, draws of z for each datum.
        analytic_kl: Whether the rates are in closed form; otherwise they are averages over draws.

    Returns:
        The distortion, (), and the rates of each site in the guide's order, (G,).

    Raises:
        NotImplementedError: If the model sums classes out; with analytic_kl, if the KL of a site
            has no closed form, or the guide draws the sites in another order than the model.
    """
    if model.enumerated:
        raise NotImplementedError(
            "where classes are summed out, the rate has no closed form and no dimensions; leave "
            "analytic_kl, free_bits and balance out"
        )
    plate = pyro.plate("particles", particles, dim=-2)
    guide_trace = poutine.trace(plate(guide)).get_trace(*batch)
    model_trace = poutine.trace(plate(poutine.replay(model, guide_trace))).get_trace(*batch)
    nodes: dict[str, Any] = dict(model_trace.nodes)
    drawn: dict[str, Any] = dict(guide_trace.nodes)
    order, sampled = ([n for n in trace if n in model.latents] for trace in (nodes, drawn))
    # KL(q(a|x) || p(a|b)) is a term of the bound where b is drawn before a in both: otherwise
    # b follows from a.
    if analytic_kl and sampled != order:
        raise NotImplementedError(
            "the KL is a sum of closed forms where the guide draws the latent sites in the "
            f"model's order {order}; it draws {sampled}; leave analytic_kl out"
        )
    observed = [nodes[name] for name in model_trace.observation_nodes]
    distortion = -torch.cat([_means(x["fn"].log_prob(x["value"]), x) for x in observed]).sum()
    rates = {}
    for name in sampled:
        site, prior = drawn[name], nodes[name]
        q, p = _by_dimension(site["fn"], prior["fn"])
        if analytic_kl:
            rates[name] = _means(closed_form_kl(name, q, p), site)
        else:
            log_q, log_p = q.log_prob(site["value"]), p.log_prob(site["value"])
            rates[name] = _means(log_q, site) - _means(log_p, prior)
    return distortion, rates


def _means(term: Tensor, node: dict[str, Any]) -> Tensor:
    """A term (K, B) or (K, B, D) of a site, averaged over particles and batch, (1,) or (D,)."""
    first = term.unsqueeze(0) if term.dim() == 2 else term.movedim(-1, 0)
    return scale_and_mask(first, node["scale"], node["mask"]).mean((1, 2))


def _by_dimension(q: Distribution, p: Distribution) -> tuple[Distribution, Distribution]:
    """The two dimension by dimension where both have independent ones, else as they are."""
    bases = [part.base_dist if isinstance(part, Independent) else part for part in (q, p)]
    whole = any(base.event_shape for base in bases)
    return (q, p) if whole else (bases[0], bases[1])


def closed_form_kl(site: str, q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) in nats, with the batch shape of the two.

    Torch and Pyro know it of two normals of the same kind, and of a diagonal one from one of full
    rank. A diagonal p is here taken as one of full rank where q is one.

    Raises:
        NotImplementedError: If it has no closed form; the message names the site.
    """
    if isinstance(q, MultivariateNormal) and isinstance(p, Independent):
        base = p.base_dist
        if isinstance(base, Normal) and p.reinterpreted_batch_ndims == 1:
            p = MultivariateNormal(base.loc, scale_tril=base.scale.diag_embed())
    try:
        return kl_divergence(q, p)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"KL(q || p) at site {site!r} has no closed form; leave analytic_kl out, or choose a "
            "prior and a guide of normals"
        ) from error
