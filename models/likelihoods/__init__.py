"""Likelihoods p(x|z), one a file: from a decoder's features to a distribution over images."""

from models.likelihoods.bernoulli import Bernoulli
from models.likelihoods.beta_binomial import BetaBinomial
from models.likelihoods.continuous_bernoulli import ContinuousBernoulli
from models.likelihoods.discretized_logistic import DiscretizedLogistic
from models.likelihoods.gaussian import Gaussian
from models.likelihoods.likelihood import Likelihood
from models.likelihoods.mixture_of_logistics import MixtureOfLogistics

__all__ = [
    "Bernoulli",
    "BetaBinomial",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Likelihood",
    "MixtureOfLogistics",
]
