"""Priors p(z), one a file."""

from models.priors.flow import Flow
from models.priors.mixture_of_normals import MixtureOfNormals
from models.priors.prior import Prior
from models.priors.standard_normal import StandardNormal
from models.priors.vamp_prior import VampPrior

__all__ = ["Flow", "MixtureOfNormals", "Prior", "StandardNormal", "VampPrior"]
