"""The aggregate posterior of training images, and the ELBO with it in the place of the prior."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
from pyro.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TorchDistribution,
)
from torch import Tensor

from guides import Guide
from models import Model
from ppl_vae.data import Split
from ppl_vae.densities.weights import log_terms

__all__ = ["AggregatePosterior", "exemplar_elbo", "has_aggregate_posterior"]

_NORMALS, _OTHERS = 10_000, 500  # exemplars; normals are compared by one product of matrices
_BATCH = 1000  # training images that are encoded at a time
_JUDGED = 200  # images whose ELBO is estimated at a time
_PAIRS = 5_000_000  # of a z with an exemplar, that are in memory at a time
_DRAWS = 3  # of z for each image, at most: a mean of log-densities needs few


@dataclass(frozen=True)
class AggregatePosterior:
    """q(z) = 1/R sum_r q(z|x_r), over training images x_1, ..., x_R.

    It is the prior under which the ELBO of a guide and decoder is highest (Hoffman and Johnson,
    ELBO surgery, 2016), and the exemplar prior of Norouzi, Fleet and Norouzi (2020).

    Args:
        posteriors: q(z|x_r), with batch shape (R,) and event shape (D,).
    """

    posteriors: TorchDistribution

    @classmethod
    @torch.no_grad()
    def of(cls, guide: Guide, images: Split) -> "AggregatePosterior":
        """That of the first images, 10,000 where q(z|x) is a diagonal normal and else 500."""
        few = guide.posterior(images[:1])
        if not _is_normal(few):
            return cls(guide.posterior(images[:_OTHERS]))
        some = images.first(min(_NORMALS, len(images)))
        parts = [guide.posterior(x) for (x,) in some.in_turn(_BATCH, labelled=False)]
        loc = torch.cat([part.mean for part in parts])
        scale = torch.cat([part.variance for part in parts]).sqrt()
        return cls(Normal(loc, scale).to_event(1))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), (...) in nats, for z (..., D)."""
        flat = z.reshape(-1, z.shape[-1])
        size = max(1, _PAIRS // self.posteriors.batch_shape[0])
        return torch.cat([self._log_prob(part) for part in flat.split(size)]).reshape(z.shape[:-1])

    def _log_prob(self, z: Tensor) -> Tensor:
        count = self.posteriors.batch_shape[0]
        if not _is_normal(self.posteriors):
            weights = Categorical(logits=z.new_zeros(count))
            return MixtureSameFamily(weights, self.posteriors).log_prob(z)
        loc, precision = self.posteriors.mean, 1 / self.posteriors.variance
        # -1/2 sum_d (z_d - m_d)^2 / s_d^2 of all pairs, multiplied out
        constant = 0.5 * (precision.log() - loc.square() * precision - log(2 * pi)).sum(-1)
        factors = torch.cat([loc * precision, -0.5 * precision], -1)
        pairs = torch.addmm(constant, torch.cat([z, z.square()], -1), factors.mT)
        return pairs.logsumexp(-1) - log(count)


def _is_normal(distribution: TorchDistribution) -> bool:
    return isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)


def has_aggregate_posterior(model: Model, guide: Guide, images: Split) -> bool:
    """Whether q(z|x) of an image alone is one distribution, and z the model's only latent."""
    if len(model.latents) > 1 or model.labelled or not guide.has_density:
        return False
    try:
        guide.posterior(images[:1])
    except NotImplementedError:
        return False
    return True


@torch.no_grad()
def exemplar_elbo(
    model: Model,
    guide: Guide,
    images: Split,
    aggregate: AggregatePosterior,
    particles: int,
    advance: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """E_q(z|x)[log p(x|z) + log q(z) - log q(z|x)], with the aggregate posterior q(z) as the prior.

    Args:
        model: p(x, z).
        guide: q(z|x).
        images: N images.
        aggregate: q(z).
        particles: K, draws of z for each image, of which at most 3 are taken.
        advance: Called after each piece with the number of images in it.

    Returns:
        (N,) in nats, float64.
    """
    result = []
    for (x,) in images.in_turn(_JUDGED, labelled=False):
        terms = log_terms(model, guide, x, min(particles, _DRAWS), scaled=False)
        (z,) = terms.latents.values()
        log_weights = terms.log_likelihood + aggregate.log_prob(z) - terms.log_guide
        result.append(log_weights.double().mean(0))
        advance(len(x))
    return torch.cat(result)
