"""The generative side: p(z) p(x|z) as Pyro programs.

Every class here can be named on the command line and replaced by one's own subclass of `Model`,
`Prior`, `Likelihood` or `Network`.
"""

import pyro.settings

from models.autoencoder import Autoencoder
from models.beta_binomial import BetaBinomial
from models.conditional import Conditional
from models.continuous_bernoulli import ContinuousBernoulli
from models.discretized_logistic import DiscretizedLogistic
from models.fast_log1p import map_constants
from models.flow_prior import Flow
from models.hierarchical import Hierarchical
from models.labelled import Labelled
from models.likelihoods import Bernoulli, Gaussian, Likelihood
from models.max_pooling import MaxPooling
from models.mixture import Mixture
from models.mixture_prior import MixtureOfNormals
from models.model import Model
from models.networks import MLP, Convolutional, Linear, Network, NetworkFactory
from models.ppca import ProbabilisticPCA
from models.priors import Prior, StandardNormal
from models.residual import Residual
from models.semi_supervised import SemiSupervised
from models.spec import DOMAINS, Domain, Shape, Spec
from models.vae import VAE
from models.vamp_prior import VampPrior

__all__ = [
    "DOMAINS",
    "MLP",
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "BetaBinomial",
    "Conditional",
    "ContinuousBernoulli",
    "Convolutional",
    "DiscretizedLogistic",
    "Domain",
    "Flow",
    "Gaussian",
    "Hierarchical",
    "Labelled",
    "Likelihood",
    "Linear",
    "MaxPooling",
    "Mixture",
    "MixtureOfNormals",
    "Model",
    "Network",
    "NetworkFactory",
    "Prior",
    "ProbabilisticPCA",
    "Residual",
    "SemiSupervised",
    "Shape",
    "Spec",
    "StandardNormal",
    "VampPrior",
]

# Two pairs in one process must never share parameters through Pyro's global store. A PyroModule
# decides this when it is constructed, so it has to be set before the first one is.
pyro.settings.set(module_local_params=True)

map_constants()
