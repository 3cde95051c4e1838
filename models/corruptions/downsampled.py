"""Images of fewer pixels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import avg_pool2d

from models.corruptions.corruption import Corruption
from models.corruptions.pixels import Pixels
from models.ranges import check_count
from models.spec import Shape, Spec

__all__ = ["Downsampled"]


@dataclass(frozen=True)
class Downsampled(Corruption):
    """y_j is the mean of the factor x factor pixels of block j of x, without noise.

    Where p(x|z) is normal, so is p(y|z) = prod_j N(y_j; mean_i mu_i, sum_i sigma_i^2 / factor^4),
    and so is p(x|z, y), which has no density: the mean of each block is y_j. For other likelihoods
    there is no closed form, and the corruption refuses them.

    Args:
        factor: How many pixels become one, in height and in width.

    Raises:
        ValueError: If factor < 2.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        check_count("factor", self.factor, least=2)

    def shape(self, spec: Spec) -> Shape:
        channels, height, width = spec.image_shape
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"expected a factor that divides {height} and {width}, the sizes of the images; "
                f"got {self.factor}"
            )
        return (channels, height // self.factor, width // self.factor)

    def corrupt(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return avg_pool2d(x, self.factor)

    def log_likelihood(self, pixels: Pixels, y: Tensor) -> Tensor:
        loc, scale = self._normal(pixels)
        means, variances = self._pool(loc), self._pool(scale.square()) / self.factor**2
        whole = torch.distributions.Normal(means, variances.sqrt(), validate_args=False)
        return whole.log_prob(y).sum((-3, -2, -1))

    def posterior(self, pixels: Pixels, y: Tensor) -> TorchDistribution:
        return _GivenMeans(self, *self._normal(pixels), y)

    def estimate(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.spread(y), torch.full_like(self.spread(y), 0.03)

    def spread(self, y: Tensor) -> Tensor:
        """Each pixel as a block of pixels, (..., C, H, W)."""
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def _pool(self, x: Tensor) -> Tensor:
        return avg_pool2d(x.flatten(0, -4), self.factor).unflatten(0, x.shape[:-3])

    def _normal(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        if pixels.normal is None:
            raise ValueError(
                "Downsampled needs a likelihood that is normal, such as Gaussian: for others the "
                f"mean of several pixels has no closed form; got {type(pixels.base).__name__}"
            )
        loc, scale = torch.broadcast_tensors(*pixels.normal)
        return loc, scale


class _GivenMeans(TorchDistribution):
    """Normal pixels whose means over blocks are known: those of p(x|z), moved onto y."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, corruption: Downsampled, loc: Tensor, scale: Tensor, y: Tensor) -> None:
        self.corruption, self.loc, self.scale, self.y = corruption, loc, scale, y
        variance = scale.square()
        mean = corruption.spread(corruption._pool(variance))
        self.gain = variance / mean
        super().__init__(loc.shape, torch.Size(), validate_args=False)

    def _moved(self, x: Tensor) -> Tensor:
        distance = self.y - self.corruption._pool(x)
        return x + self.gain * self.corruption.spread(distance)

    @property
    def mean(self) -> Tensor:
        return self._moved(self.loc)

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (1 - self.gain / self.corruption.factor**2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self._moved(self.loc + self.scale * torch.randn_like(self.loc))
