"""p(z) p(y|z) of corrupted images y as a Pyro pair: the model's own program, with y observed."""

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from models import Domain, Model
from models.corruptions import Corruption, Pixels
from ppl_vae.densities.joint import Joint
from ppl_vae.densities.sites import Batch, Latents, log_density
from ppl_vae.errors import InputError

__all__ = ["CorruptedImages", "CorruptedModel", "Normals", "normals_at", "restored_images"]


class CorruptedImages(TorchDistribution):
    """p(y|z), batch shape (...) and the event shape of y.

    Args:
        pixels: p(x|z).
        corruption: p(y|x).
        event: The shape of one y.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.real
    has_rsample = False

    def __init__(self, pixels: Pixels, corruption: Corruption, event: torch.Size) -> None:
        self.pixels, self.corruption = pixels, corruption
        super().__init__(pixels.base.batch_shape[:-3], event, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "CorruptedImages":
        whole = torch.Size((*batch_shape, *self.pixels.base.batch_shape[-3:]))
        return CorruptedImages(self.pixels.expand(whole), self.corruption, self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.corruption.log_likelihood(self.pixels, value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        x = self.pixels.sample()
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        y = self.corruption.corrupt(x.flatten(0, -4), generator)
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class _Corrupting(Messenger):
    """Puts p(y|z) in the place of p(x|z)."""

    def __init__(self, corruption: Corruption, domain: Domain, event: torch.Size) -> None:
        super().__init__()
        self.corruption, self.domain, self.event = corruption, domain, event

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] == "x":
            pixels = Pixels(message["fn"], self.domain)
            message["fn"] = CorruptedImages(pixels, self.corruption, self.event)


class CorruptedModel(nn.Module):
    """p(z) p(y|z), the model's program with y at its site `x`.

    Args:
        model: p(z) p(x|z).
        corruption: p(y|x).
    """

    def __init__(self, model: Model, corruption: Corruption) -> None:
        super().__init__()
        self.model, self.corruption = model, corruption

    def forward(self, y: Tensor, *rest: Tensor) -> Tensor:
        """The program of y (B, ...), labels where the model takes them, and what `Normals` take."""
        labels = rest[: int(self.model.labelled)]
        with _Corrupting(self.corruption, self.model.spec.domain, y.shape[1:]):
            return self.model(y, *labels)


class Normals(nn.Module):
    """q(z|y): a normal distribution for each datum and latent site, which its batch holds.

    Args:
        sites: The latent sites, each a vector.
        skipped: How many tensors after y come before the first mean.
    """

    def __init__(self, sites: tuple[str, ...], skipped: int) -> None:
        super().__init__()
        self.sites, self.skipped = sites, skipped

    def forward(self, y: Tensor, *rest: Tensor) -> None:
        """The program; after labels the batch has mean (B, D) and triangle (B, D, D) by site."""
        features = rest[self.skipped :]
        with pyro.plate("data", len(y), dim=-1):
            for name, loc, triangle in zip(self.sites, features[::2], features[1::2], strict=True):
                pyro.sample(name, dist.MultivariateNormal(loc, scale_tril=triangle))


def normals_at(latents: Latents) -> Batch:
    """The mean and the diagonal triangle of draws (K, B, D) by site, as `Normals` take them.

    Raises:
        InputError: If a latent site is no vector of real numbers.
    """
    features: list[Tensor] = []
    for name, z in latents.items():
        if z.dim() != 3:
            raise InputError(f"expected vectors at the latent site {name!r}; got {z.shape[2:]}")
        features += [z.mean(0), z.std(0).clamp(min=1e-4).diag_embed()]
    return tuple(features)


def restored_images(joint: Joint, latents: Latents) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of p(x|z, y), and a draw from it, each (K, B, C, H, W) of intensities.

    A class that the model sums out is drawn from p(class|z, y).

    Args:
        joint: A pair of `CorruptedModel`.
        latents: z by site, (K, B, D).
    """
    nodes, particles = joint.model_sites(latents)
    images: Any = nodes["x"]["fn"]
    posterior = images.corruption.posterior(images.pixels, joint.batch[0])
    parts = [posterior.mean, posterior.variance, posterior.sample()]
    if len(images.batch_shape) > 2:
        names = [name for name in nodes if name not in joint.sites]
        logits = log_density(nodes, names, (particles, len(joint))).flatten(0, -3)
        place = dist.Categorical(logits=logits.movedim(0, -1)).sample()
        place = place.reshape(1, *place.shape, 1, 1, 1)
        parts = [part.flatten(0, -6) for part in parts]
        parts = [part.gather(0, place.expand(1, *part.shape[1:]))[0] for part in parts]
    mean, variance, draw = (part.expand(particles, len(joint), *part.shape[-3:]) for part in parts)
    return mean, variance, draw
