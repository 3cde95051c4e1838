"""The marginal likelihood estimator of AEVB's appendix D, for few latent dimensions."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from models.ranges import check_count
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.of_pair import of_pair
from ppl_vae.densities.unconstrained import Unconstrained
from ppl_vae.errors import InputError
from ppl_vae.inference.nuts import nuts_posterior

__all__ = ["MarginalLikelihood", "marginal_likelihood_estimator"]


@dataclass(frozen=True)
class MarginalLikelihood:
    """log p(x) of B data, (B,) in nats, float64.

    Attributes:
        log_likelihood: The estimate.
        standard_error: From the chains, each of which gives one.
        r_hat: The largest over the latents, of the draws that it rests on.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    r_hat: Tensor


@of_pair
def marginal_likelihood_estimator(
    joint: Joint,
    *,
    draws: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    advance: Callable[[int], None] = lambda draws: None,
) -> MarginalLikelihood:
    """1 / p(x) = E_{p(z|x)}[q(z) / (p(z) p(x|z))] for any density q with the posterior's support.

    Kingma and Welling (2014), appendix D: draws from p(z|x) by Hamiltonian Monte Carlo (here
    NUTS), q fitted to one half of them (here a normal with full covariance), the mean over the
    other half.

    The limits: q has to be narrow where the posterior is, for its tails divide by it, and with D
    the estimate's variance grows fast; the paper uses it below 5 dimensions. On average it lies
    above log p(x) (a mean of 1 / p(x), inverted), and where chains miss a mode, nothing shows it.

    Args:
        joint: The pair with its data, or `model, guide, x` in its place; chains start at the guide.
        draws: Of each chain; the first half fits q.
        warmup: Draws before those.
        chains: At least 2, for the error.
        advance: As that of `nuts_posterior`.

    Raises:
        ValueError: If a number is out of range, or there are too few draws for D dimensions.
    """
    check_count("chains", chains, 2)
    found = nuts_posterior(joint, draws=draws, warmup=warmup, chains=chains, advance=advance)
    target = Unconstrained.of(joint)
    flat = {name: value.flatten(0, 1) for name, value in found.latents.items()}
    with torch.no_grad():
        u = target.pack(flat).unflatten(0, (chains, draws)).double()  # (C, S, B, D)
    half, size = draws // 2, u.shape[-1]
    if chains * half < 10 * size:
        raise InputError(f"expected chains * draws / 2 >= {10 * size}, ten a dimension")
    fit = u[:, :half].flatten(0, 1)
    centred = fit - fit.mean(0)
    covariance = torch.einsum("nbi,nbj->bij", centred, centred) / (len(fit) - 1)
    factor = torch.linalg.cholesky(covariance)
    q = MultivariateNormal(fit.mean(0), scale_tril=factor, validate_args=False)
    log_ratio = q.log_prob(u[:, half:]) - found.log_joint[:, half:].double()
    each = -(log_ratio.logsumexp(1) - log(draws - half))  # (C, B)
    whole = -(log_ratio.flatten(0, 1).logsumexp(0) - log(chains * (draws - half)))
    worst = torch.cat([value.reshape(len(value), -1) for value in found.r_hat.values()], -1).amax(
        -1
    )
    return MarginalLikelihood(whole, each.std(0) / sqrt(chains), worst)
