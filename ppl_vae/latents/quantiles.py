"""Where each latent lies: quantiles under the prior, and under the aggregate posterior q(z)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from models import StandardNormal
from ppl_vae.measures.encoding import likely_classes, posterior_draws
from ppl_vae.runs.run import Run

__all__ = ["aggregate_quantiles", "prior_quantiles"]

_PRIOR_DRAWS = 10_000  # for quantiles that have none
_AGGREGATED = 512  # test images that stand for q(z)
_POSTERIOR_DRAWS = 20  # of z for each of them


def prior_quantiles(run: Run, probabilities: NDArray[np.float64]) -> Tensor:
    """F_d^-1(p), (P, D), of each latent d under the prior: exact for N(0, I), else of draws."""
    prior = getattr(run.model, "prior", None)
    if isinstance(prior, StandardNormal) and len(run.model.latents) == 1:
        from scipy.special import ndtri

        values = np.tile(ndtri(probabilities)[:, None], run.spec.latent_dim)
        return torch.as_tensor(values).to(prior.loc)
    trace: Any = poutine.trace(run.model).get_trace(size=_PRIOR_DRAWS)
    drawn = {site: trace.nodes[site]["value"] for site in run.model.latents}
    return _quantiles(run.model.code(drawn), probabilities)


def aggregate_quantiles(run: Run, probabilities: NDArray[np.float64]) -> Tensor:
    """F_d^-1(p), (P, D), of each latent d under q(z), the average of q(z|x) over test images."""
    x, *labels = run.data.test.batch(slice(0, _AGGREGATED), run.model.labelled)
    y = likely_classes(run.model, run.guide, x, *labels)
    batch = (x,) if y is None else (x, y)
    draws = posterior_draws(run.model, run.guide, _POSTERIOR_DRAWS, *batch)
    return _quantiles(draws.flatten(0, 1), probabilities)


def _quantiles(draws: Tensor, probabilities: NDArray[np.float64]) -> Tensor:
    """(N, D) to (P, D)."""
    values = np.quantile(draws.double().cpu().numpy(), probabilities, axis=0)
    return torch.as_tensor(values).to(draws)
