"""The contract of every generative model."""

from abc import abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from models.likelihoods.likelihood import Likelihood
from models.networks.network import Network
from models.observed import observed_pixels
from models.priors.prior import Prior
from models.program import Program
from models.spec import Spec

__all__ = ["Model"]

_MEAN_OF = 1000  # images
_MEAN_VALUES = 2**28  # at most, in those images together: 1 GiB


class Model(Program):
    """A generative model p(x, z), whose `forward` is the Pyro program itself.

    A subclass

    - takes the `Spec` as its first argument and names the pieces that it wants (`prior`,
      `likelihood`, `network`) as further arguments; the other arguments are its options;
    - writes `forward` with one plate `data` at dim -1, its latent sites, and the site `x`, whose
      distribution is `observed(p(x|z))`;
    - lists its latent sites in `latents`, the one that `decode` takes last, or overrides `code`;
    - works for any number of batch dimensions to the left of the plate, which is where
      particles go.

    Attributes:
        latents: Names of the latent sites that are drawn. Where their number is an option, they
            are known of an instance only.
        enumerated: Names of further, discrete latent sites, which are summed out exactly: in the
            program each has `infer={"enumerate": "parallel"}`. A guide may leave them out, or have
            them with the same mark.
        of_codes: Names of the parameters that `fit_codes` sets. All others are those of a `VAE`,
            from which a model that has such names can start.
        labelled: Whether the programs of model and guide take labels y after the images x: (B,)
            int64, -1 where there is none.
        decodes_class: Whether p(x|z, y), which `decode` gives, depends on the class y beside z.
        has_prior: Whether p(z) is a density. A model without one, where log p(x, z) is
            log p(x|z), goes with a guide that is a point.
        spec: The data's shape and domain, and D.
    """

    latents: tuple[str, ...] = ("z",)
    enumerated: ClassVar[tuple[str, ...]] = ()
    of_codes: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = False
    decodes_class: ClassVar[bool] = False
    has_prior: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor | None = None, size: int = 1) -> Tensor:
        """The Pyro program.

        Args:
            x: Observed images (B, C, H, W); None draws `size` images from p(x).
            size: How many to draw where x is None.

        Returns:
            The value of the site `x`, (B, C, H, W).
        """

    @abstractmethod
    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x|z), with batch shape (...) and event shape (C, H, W), for z of shape (..., D)."""

    @property
    def given_class(self) -> bool:
        """Whether it takes the class of every image as given, so that it is p(x, z|y)."""
        return self.labelled and not self.enumerated

    @property
    def code_dim(self) -> int:
        """D, the dimension of the z that `decode` takes."""
        return self.spec.latent_dim

    def code(self, latents: dict[str, Tensor]) -> Tensor:
        """The z that `decode` takes, (..., D), from the values of all latent sites.

        By default it is that of the last one. A model whose p(x|z) takes several puts them side by
        side.
        """
        return latents[self.latents[-1]]

    def latent_name(self, place: int) -> str:
        """What pictures call an entry of the z that `decode` takes."""
        return f"$z_{{{place}}}$"

    def observed(self, images: TorchDistribution) -> TorchDistribution:
        """p(x|z) at the site `x`: where the data have missing pixels, of those that are observed.

        Raises:
            ValueError: If there are missing pixels, and pixels are not independent given z.
        """
        return observed_pixels(images) if self.spec.holes else images

    @classmethod
    def prior_spec(cls, spec: Spec, **options: Any) -> Spec:
        """The spec for the prior that the user chose: `spec` itself where p(z) is over all of z.

        Args:
            spec: What the model is built for.
            **options: The options chosen for the model.
        """
        return spec

    def check_batch(self, x: Tensor, *labels: Tensor) -> None:
        """Looks whether images, and labels where there are any, are such as the model is for.

        Raises:
            ValueError: If they are of another shape or type, or outside of the domain or classes.
        """
        self.check_type("images", x)
        self.spec.check_images(x)
        for y in labels if self.labelled else ():
            self.spec.check_labels(y)

    def connect(self, posterior: Callable[[Tensor], TorchDistribution]) -> None:
        """Gives q(z|x) to the priors in this model: see `Prior.connect`."""
        for prior in self._priors():
            prior.connect(posterior)

    def initialise(self, images: Callable[[int], Tensor]) -> None:
        """Starts from training images, once, before training.

        The priors in this model take them as `Prior.initialise` says; and where a model keeps its
        likelihood as `likelihood` and its network as `decoder`, the decoder begins at their mean,
        as those of Burda, Grosse and Salakhutdinov (2016) did.

        Args:
            images: Gives so many training images, (N, C, H, W), chosen from the run's seed.
        """
        for prior in self._priors():
            prior.initialise(images)
        likelihood, decoder = getattr(self, "likelihood", None), getattr(self, "decoder", None)
        if isinstance(likelihood, Likelihood) and isinstance(decoder, Network):
            count = max(1, min(_MEAN_OF, _MEAN_VALUES // prod(self.spec.image_shape)))
            features = likelihood.features_for_mean(self._mean_image(images(count)))
            if features is not None:
                decoder.initialise_output(features)

    def fit_codes(self, z: Tensor, labels: Tensor | None, seed: int) -> None:
        """Fits the parameters `of_codes` to draws of z, once, before training.

        Args:
            z: One draw of q(z|x) for each of N training images, (N, D), by the guide of a `VAE`.
            labels: Of the images, (N,), -1 where there is none; None if the model takes no labels.
            seed: Of further random numbers.

        Raises:
            ValueError: If these are too few.
        """
        raise NotImplementedError

    def _mean_image(self, x: Tensor) -> Tensor:
        """The mean of the observed pixels at each place, or of all of them where there is none."""
        if not self.spec.holes:
            return x.mean(0)
        mean = x.nanmean(0)
        return torch.where(mean.isnan(), x.nanmean(), mean)

    def _priors(self) -> list[Prior]:
        return [module for module in self.modules() if isinstance(module, Prior)]
