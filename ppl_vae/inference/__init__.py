"""Inference and its diagnostics, for any Pyro pair: gaps, NUTS, AIS, k-hat, calibration."""

from ppl_vae.densities.joint import Joint
from ppl_vae.densities.weights import log_weights
from ppl_vae.inference.ais import AIS, Bidirectional, ais, bidirectional
from ppl_vae.inference.bridge import bridge_log_likelihood
from ppl_vae.inference.calibration import Calibration, simulation_based_calibration
from ppl_vae.inference.datatree import loo_pit_datatree, nuts_datatree, to_datatree
from ppl_vae.inference.gaps import Gaps, gap_decomposition
from ppl_vae.inference.marginal_likelihood import MarginalLikelihood, marginal_likelihood_estimator
from ppl_vae.inference.netcdf import read_datatree, write_datatree
from ppl_vae.inference.nuts import NutsPosterior, nuts_posterior
from ppl_vae.inference.pareto import ImportanceWeightedBounds, ParetoK, iwae_curve, pareto_k
from ppl_vae.inference.simulation import simulate

__all__ = [
    "AIS",
    "Bidirectional",
    "Calibration",
    "Gaps",
    "ImportanceWeightedBounds",
    "Joint",
    "MarginalLikelihood",
    "NutsPosterior",
    "ParetoK",
    "ais",
    "bidirectional",
    "bridge_log_likelihood",
    "gap_decomposition",
    "iwae_curve",
    "log_weights",
    "loo_pit_datatree",
    "marginal_likelihood_estimator",
    "nuts_datatree",
    "nuts_posterior",
    "pareto_k",
    "read_datatree",
    "simulate",
    "simulation_based_calibration",
    "to_datatree",
    "write_datatree",
]
