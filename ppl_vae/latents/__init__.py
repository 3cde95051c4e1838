"""What the latents of a run hold: codes of images, and images of codes."""

from ppl_vae.latents.quantiles import aggregate_quantiles, prior_quantiles
from ppl_vae.latents.viewing import encode
from ppl_vae.latents.views import interpolate, manifold, reconstruct, sample, traverse
from ppl_vae.latents.views_by_class import analogies, clusters
from ppl_vae.latents.views_by_level import levels
from ppl_vae.measures.encoding import decoded_mean, posterior_draws, posterior_mean

__all__ = [
    "aggregate_quantiles",
    "analogies",
    "clusters",
    "decoded_mean",
    "encode",
    "interpolate",
    "levels",
    "manifold",
    "posterior_draws",
    "posterior_mean",
    "prior_quantiles",
    "reconstruct",
    "sample",
    "traverse",
]
