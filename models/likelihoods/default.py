"""The likelihood of a model that was given none."""

from models.likelihoods.bernoulli import Bernoulli
from models.likelihoods.gaussian import Gaussian
from models.likelihoods.likelihood import Likelihood
from models.spec import Spec

__all__ = ["default_likelihood"]


def default_likelihood(spec: Spec) -> Likelihood:
    """The default likelihood of models: Bernoulli for binary data, else Gaussian."""
    return Bernoulli(spec) if spec.domain == "binary" else Gaussian(spec)
