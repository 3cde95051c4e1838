"""The generative side: p(z) p(x|z) as Pyro programs.

Every class here can be named on the command line and replaced by one's own subclass of `Model`,
`Prior`, `Likelihood` or `Network`.
"""

import pyro.settings

from models.beta_binomial import BetaBinomial
from models.continuous_bernoulli import ContinuousBernoulli
from models.discretized_logistic import DiscretizedLogistic
from models.hierarchical import Hierarchical
from models.likelihoods import Bernoulli, Gaussian, Likelihood
from models.mixture_prior import MixtureOfNormals
from models.model import Model
from models.networks import MLP, Convolutional, Linear, Network, NetworkFactory
from models.ppca import ProbabilisticPCA
from models.priors import Prior, StandardNormal
from models.spec import DOMAINS, Domain, Shape, Spec
from models.vae import VAE
from models.vamp_prior import VampPrior

__all__ = [
    "DOMAINS",
    "MLP",
    "VAE",
    "Bernoulli",
    "BetaBinomial",
    "ContinuousBernoulli",
    "Convolutional",
    "DiscretizedLogistic",
    "Domain",
    "Gaussian",
    "Hierarchical",
    "Likelihood",
    "Linear",
    "MixtureOfNormals",
    "Model",
    "Network",
    "NetworkFactory",
    "Prior",
    "ProbabilisticPCA",
    "Shape",
    "Spec",
    "StandardNormal",
    "VampPrior",
]

# Two pairs in one process must never share parameters through Pyro's global store. A PyroModule
# decides this when it is constructed, so it has to be set before the first one is.
pyro.settings.set(module_local_params=True)
