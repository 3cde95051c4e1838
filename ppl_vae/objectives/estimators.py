"""Pyro's ELBO estimators, with losses that stay tensors.

Pyro's own read each log-probability on the host, to report a float and to warn of a NaN. On a GPU
every such read waits for the device, and no tracer can follow it. Values and gradients here are
those of the estimators that they extend.
"""

from typing import Any

from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

__all__ = ["TensorTraceELBO", "TensorTraceMeanFieldELBO", "closed_form_kl"]


def closed_form_kl(site: str, q: Distribution, p: Distribution) -> Tensor:
    """KL(q || p) in nats, with the batch shape of the two.

    Raises:
        NotImplementedError: If it has no closed form; the message names the site.
    """
    try:
        return kl_divergence(q, p)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"KL(q || p) at site {site!r} has no closed form; leave analytic_kl out, or choose a "
            "prior and a guide of normals"
        ) from error


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


class TensorTraceMeanFieldELBO(TraceMeanField_ELBO):
    """`TraceMeanField_ELBO`: the KL in closed form, E_q[log p(x|z)] from draws of z."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, summed over the batch, in nats.

        Raises:
            NotImplementedError: If the KL of a site has no closed form, or the guide draws the
                latent sites in another order than the model.
        """
        losses = [self._loss(*traces) for traces in self._get_traces(model, guide, args, kwargs)]
        return sum(losses[1:], losses[0]) / self.num_particles

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        model_trace, guide_trace = Trace_ELBO._get_trace(self, model, guide, args, kwargs)
        orders = [list(trace.stochastic_nodes) for trace in (model_trace, guide_trace)]
        # KL(q(a|x) || p(a|b)) is a term of the bound where b is drawn before a in both: otherwise
        # b follows from a. Pyro warns of it and goes on.
        if orders[0] != orders[1]:
            raise NotImplementedError(
                "the KL is a sum of closed forms where the guide draws the latent sites in the "
                f"model's order {orders[0]}; it draws {orders[1]}; leave analytic_kl out"
            )
        return model_trace, guide_trace

    def _loss(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        sites: dict[str, Any] = dict(model_trace.nodes)
        guide_sites: dict[str, Any] = dict(guide_trace.nodes)
        loss = -sum(sites[name]["log_prob_sum"] for name in model_trace.observation_nodes)
        for name in model_trace.stochastic_nodes:
            site = guide_sites[name]
            divergence = closed_form_kl(name, site["fn"], sites[name]["fn"])
            loss = loss + scale_and_mask(divergence, site["scale"], site["mask"]).sum()
        return loss
