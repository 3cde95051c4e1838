"""A generative model with clusters."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.likelihoods.default import default_likelihood
from models.likelihoods.likelihood import Likelihood
from models.model import Model
from models.networks.mlp import MLP
from models.networks.network import NetworkFactory
from models.ranges import check_count
from models.spec import Spec

__all__ = ["Mixture"]

_STARTS = 5  # of expectation maximisation; the most likely mixture is kept
_ITERATIONS = 1000


class Mixture(Model):
    """p(x, y, z) = p(y) p(z|y) p(x|z), p(z|y) = N(z; mu_y, diag(sigma_y^2)): clusters in z.

    Jiang, Zheng, Tan, Tang and Zhou (2017), equations (2) to (6). The cluster y is summed out
    exactly, so that a guide has z alone, and a datum belongs to the clusters by p(y|z), which is
    the optimal q(y|x, z) (ibid., equation 16). Weights, means and scales are learned; means start
    as draws from N(0, I), from the seed, weights equal and scales at one. Clusters that start where
    a `VAE` puts its images, by `fit_codes`, find the classes of the data more surely.

    Args:
        spec: The data's shape and domain, and D.
        likelihood: p(x|z); by default Bernoulli for binary and Gaussian for real data.
        network: Builds the decoder from its input and output shapes.
        components: How many clusters there are.

    Raises:
        ValueError: If components < 2.
    """

    enumerated: ClassVar[tuple[str, ...]] = ("y",)
    of_codes: ClassVar[tuple[str, ...]] = ("logits", "loc", "log_scale")

    def __init__(
        self,
        spec: Spec,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
        components: int = 10,
    ) -> None:
        super().__init__(spec)
        check_count("components", components, least=2)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, spec.latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, spec.latent_dim))
        self.likelihood = default_likelihood(spec) if likelihood is None else likelihood
        self.decoder = network((spec.latent_dim,), self.likelihood.features)

    def component(self, y: Tensor) -> TorchDistribution:
        """p(z|y), batch shape (...) and event shape (D,), for y of shape (...)."""
        return dist.Normal(self.loc[y], self.log_scale[y].exp()).to_event(1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(y|z), (..., components), for z of shape (..., D)."""
        every = self.component(torch.arange(len(self.logits), device=z.device))
        return (self.logits + every.log_prob(z.unsqueeze(-2))).softmax(-1)

    @torch.no_grad()
    def fit_codes(self, z: Tensor, seed: int) -> None:
        """Starts the clusters as the mixture of normals that is most likely for draws of z.

        Jiang et al. (2017) start from such a mixture too. Expectation maximisation fits full
        covariances, of which the diagonals are kept: classes lie in z as ellipses that diagonal
        ones would cut up.

        Args:
            z: One draw of q(z|x) for each of N images, (N, D).
            seed: Of the starts, of which the best is kept.

        Raises:
            ValueError: If there are fewer draws than clusters.
        """
        from sklearn.mixture import GaussianMixture

        components = len(self.logits)
        if len(z) < components:
            raise ValueError(
                f"expected at most {len(z):,} components, as many as training images; got "
                f"{components:,}"
            )
        mixture = GaussianMixture(
            components, n_init=_STARTS, max_iter=_ITERATIONS, random_state=seed
        )
        mixture.fit(z.double().cpu().numpy())
        variances = torch.as_tensor(mixture.covariances_).diagonal(dim1=1, dim2=2)
        self.logits.copy_(torch.as_tensor(mixture.weights_).log())
        self.loc.copy_(torch.as_tensor(mixture.means_))
        self.log_scale.copy_(variances.log() / 2)

    def decode(self, z: Tensor) -> TorchDistribution:
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            y = pyro.sample(
                "y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", self.component(y))
            return pyro.sample("x", self.observed(self.decode(z)), obs=x)
