"""A generative model with clusters."""

from collections.abc import Sequence
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
from models.ranges import check_count, check_flag
from models.spec import Spec

__all__ = ["Mixture"]

_PLANE = 2  # dimensions
_NEIGHBOURS = 30  # the perplexity of t-SNE
_STARTS = 20  # of k-means; the tightest clusters are kept
_LEAST_VARIANCE = 1e-6  # is added, since a cluster of one draw has none


class Mixture(Model):
    """p(x, y, z) = p(y) p(z|y) p(x|z), p(z|y) = N(z; mu_y, L_y L_y^T): clusters in z.

    Jiang, Zheng, Tan, Tang and Zhou (2017), equations (2) to (6), whose L_y is diagonal, as it is
    here without `full_rank`. The cluster y is summed out exactly, so that a guide has z alone, and
    a datum belongs to the clusters by p(y|z), which is the optimal q(y|x, z) (ibid., equation 16).
    Means start as draws from N(0, I), from the seed, weights equal and scales at one.

    Clusters that start where a `VAE` puts its images, by `fit_codes`, find the classes of the data
    more surely. In a long training diagonal ones leave the classes again, since a density of z also
    gains from two of them in one class; those of full rank stay.

    Args:
        spec: The data's shape and domain, and D.
        likelihood: p(x|z); by default Bernoulli for binary and Gaussian for real data.
        network: Builds the decoder from its input and output shapes.
        components: How many clusters there are.
        full_rank: Whether the dimensions of z are correlated within a cluster.

    Raises:
        ValueError: If components < 2, or full_rank is not a bool.
    """

    enumerated: ClassVar[tuple[str, ...]] = ("y",)
    of_codes: ClassVar[tuple[str, ...]] = ("logits", "loc", "log_scale", "below")

    def __init__(
        self,
        spec: Spec,
        likelihood: Likelihood | None = None,
        network: NetworkFactory = MLP,
        components: int = 10,
        full_rank: bool = False,
    ) -> None:
        super().__init__(spec)
        check_count("components", components, least=2)
        check_flag("full_rank", full_rank)
        size = (components, spec.latent_dim)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(size))
        self.log_scale = nn.Parameter(torch.zeros(size))
        below = nn.Parameter(torch.zeros(*size, spec.latent_dim)) if full_rank else None
        self.register_parameter("below", below)
        self.likelihood = default_likelihood(spec) if likelihood is None else likelihood
        self.decoder = network((spec.latent_dim,), self.likelihood.features)

    def component(self, y: Tensor) -> TorchDistribution:
        """p(z|y), batch shape (...) and event shape (D,), for y of shape (...)."""
        loc, scale = self.loc[y], self.log_scale[y].exp()
        if self.below is None:
            return dist.Normal(loc, scale).to_event(1)
        triangle = self.below[y].tril(-1) + scale.diag_embed()
        return dist.MultivariateNormal(loc, scale_tril=triangle)

    def log_responsibilities(self, z: Tensor) -> Tensor:
        """log p(y|z), (..., components), for z of shape (..., D)."""
        u = self._standardized(z.unsqueeze(-2) - self.loc)
        log_density = -self.log_scale.sum(-1) - u.square().sum(-1) / 2  # up to a constant
        return (self.logits + log_density).log_softmax(-1)

    def _standardized(self, away: Tensor) -> Tensor:
        """L_y^-1 (z - mu_y), (..., components, D), for z - mu_y, by substitution.

        ONNX, in which a classifier may be exported, has no solver for triangular systems.
        """
        inverse_scale = (-self.log_scale).exp()
        if self.below is None:
            return away * inverse_scale
        u = away[..., :1] * inverse_scale[:, :1]
        for row in range(1, away.shape[-1]):
            rest = away[..., row] - (self.below[:, row, :row] * u).sum(-1)
            u = torch.cat([u, (rest * inverse_scale[:, row]).unsqueeze(-1)], -1)
        return u

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(y|z), (..., components), for z of shape (..., D)."""
        return self.log_responsibilities(z).exp()

    def fit_codes(self, z: Tensor, labels: Tensor | None, seed: int) -> None:
        """Starts each cluster as the normal of the draws of z that lie together.

        k-means finds them in the plane of t-SNE (van der Maaten and Hinton, 2008). Classes lie in z
        as bent sheets, which mixtures of normals cut up or join; neighbours in a plane keep them
        apart (McConville et al., 2021, cluster the codes of an autoencoder in this way).

        Args:
            z: One draw of q(z|x) for each of N images, (N, D).
            labels: Are not looked at.
            seed: Of the starts of both.

        Raises:
            ValueError: If there are fewer draws than clusters.
        """
        from sklearn.cluster import KMeans
        from sklearn.manifold import TSNE

        components = len(self.logits)
        if len(z) < components:
            raise ValueError(
                f"expected at most {len(z):,} components, as many as training images; got "
                f"{components:,}"
            )
        z = z.double().cpu()
        plane = z.numpy()
        if z.shape[1] > _PLANE:
            neighbours = min(_NEIGHBOURS, (len(z) - 1) / 3)
            plane = TSNE(_PLANE, perplexity=neighbours, random_state=seed).fit_transform(plane)
        nearest = KMeans(components, n_init=_STARTS, random_state=seed).fit_predict(plane)
        self.fit_clusters([z[nearest == y] for y in range(components)])

    @torch.no_grad()
    def fit_clusters(self, clusters: Sequence[Tensor], pooled: int = 0) -> None:
        """Makes each cluster the normal of its draws of z.

        Args:
            clusters: The draws, (N_y, D) in double precision, for each y.
            pooled: How many draws with the covariance within all clusters together count as drawn
                in each, so that a cluster of few is not flat (Friedman, 1989, equation 16).
        """
        covariances = torch.stack([torch.atleast_2d(each.T.cov(correction=0)) for each in clusters])
        if pooled:
            sizes = torch.tensor([len(each) for each in clusters]).reshape(-1, 1, 1)
            within = (sizes * covariances).sum(0) / sizes.sum()
            covariances = (sizes * covariances + pooled * within) / (sizes + pooled)
        covariances += _LEAST_VARIANCE * torch.eye(self.spec.latent_dim)
        if self.below is None:
            scales = covariances.diagonal(dim1=1, dim2=2).sqrt()
        else:
            triangle = torch.linalg.cholesky(covariances)
            scales = triangle.diagonal(dim1=1, dim2=2)
            self.below.copy_(triangle.tril(-1))
        count = sum(map(len, clusters))
        self.logits.copy_(torch.tensor([len(each) / count for each in clusters]).log())
        self.loc.copy_(torch.stack([each.mean(0) for each in clusters]))
        self.log_scale.copy_(scales.log())

    def decode(self, z: Tensor) -> TorchDistribution:
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            y = pyro.sample(
                "y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", self.component(y))
            return pyro.sample("x", self.observed(self.decode(z)), obs=x)
