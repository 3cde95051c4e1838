"""log p and log q of a pair at given or drawn latents, per datum."""

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.unconstrained import Unconstrained
from ppl_vae.densities.weights import LogTerms, log_terms, log_weights

__all__ = ["Joint", "LogTerms", "Unconstrained", "log_terms", "log_weights"]
