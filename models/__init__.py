"""The generative side: p(z) p(x|z) as Pyro programs.

Every class here can be named on the command line and replaced by your own subclass of `Model`,
`Prior`, `Likelihood` or `Network`.
"""

from models.autoencoder import Autoencoder
from models.conditional import Conditional
from models.fast_log1p import map_constants
from models.hierarchical import Hierarchical
from models.labelled import Labelled
from models.labelled_mixture import LabelledMixture
from models.likelihoods.bernoulli import Bernoulli
from models.likelihoods.beta_binomial import BetaBinomial
from models.likelihoods.continuous_bernoulli import ContinuousBernoulli
from models.likelihoods.discretized_logistic import DiscretizedLogistic
from models.likelihoods.gaussian import Gaussian
from models.likelihoods.likelihood import Likelihood
from models.likelihoods.mixture_of_logistics import MixtureOfLogistics
from models.mixture import Mixture
from models.model import Model
from models.networks.cells import Cells
from models.networks.convolutional import Convolutional
from models.networks.gated_mlp import GatedMLP
from models.networks.max_pooling import MaxPooling
from models.networks.mlp import MLP, Linear
from models.networks.network import Network, NetworkFactory
from models.networks.residual import Residual
from models.ppca import ProbabilisticPCA
from models.priors.flow import Flow
from models.priors.mixture_of_normals import MixtureOfNormals
from models.priors.prior import Prior
from models.priors.standard_normal import StandardNormal
from models.priors.vamp_prior import VampPrior
from models.semi_supervised import SemiSupervised
from models.spec import DOMAINS, Domain, Shape, Spec
from models.top_down import TopDown
from models.vae import VAE

__all__ = [
    "DOMAINS",
    "MLP",
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "BetaBinomial",
    "Cells",
    "Conditional",
    "ContinuousBernoulli",
    "Convolutional",
    "DiscretizedLogistic",
    "Domain",
    "Flow",
    "GatedMLP",
    "Gaussian",
    "Hierarchical",
    "Labelled",
    "LabelledMixture",
    "Likelihood",
    "Linear",
    "MaxPooling",
    "Mixture",
    "MixtureOfLogistics",
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
    "TopDown",
    "VampPrior",
]

map_constants()
