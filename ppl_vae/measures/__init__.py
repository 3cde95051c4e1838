"""Measures of a pair on data: the ELBO and log p(x), means, scores, clustering."""

from ppl_vae.measures.classes import class_scores
from ppl_vae.measures.clustering import clustering_accuracy, clustering_scores
from ppl_vae.measures.encoding import decoded_mean, posterior_draws, posterior_mean
from ppl_vae.measures.estimates import Estimates, estimate
from ppl_vae.measures.scores import active_units, bits_per_dim

__all__ = [
    "Estimates",
    "active_units",
    "bits_per_dim",
    "class_scores",
    "clustering_accuracy",
    "clustering_scores",
    "decoded_mean",
    "estimate",
    "posterior_draws",
    "posterior_mean",
]
