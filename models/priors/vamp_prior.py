"""The prior that is the aggregate posterior of learned pseudo-inputs."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from models.priors.prior import Prior
from models.ranges import check_count
from models.spec import Spec

__all__ = ["VampPrior"]

_NOISE = 0.01  # standard deviation, so that no two pseudo-inputs start alike


class VampPrior(Prior):
    """p(z) = 1/K sum_k q(z|u_k), the variational mixture of posteriors.

    Tomczak and Welling (2018), equation (9). The pseudo-inputs u_k are images, learned; they begin
    as K training images with a little noise. Where pixels have a range u_k is kept in it by
    clamping, as in the paper's hard tanh, and bytes are 255 times a number in [0, 1].

    Every z is compared with every u_k, which is cheap where q(z|u) is one normal. The density of an
    `IAF` at a given z takes D passes of its networks, so that this prior is K D times slower there,
    and that of a `SemiSupervisedNormal` is a sum over classes, K times the number of classes.

    Args:
        spec: The data's shape and domain, and D.
        components: K, the number of pseudo-inputs.

    Raises:
        ValueError: If components < 1.
    """

    posterior: Callable[[Tensor], TorchDistribution] | None = None
    weight_logits: Tensor

    def __init__(self, spec: Spec, components: int = 500) -> None:
        super().__init__(spec)
        check_count("components", components)
        draw = torch.randn if spec.domain == "real" else torch.rand
        self.unclamped = nn.Parameter(draw(components, *spec.image_shape))
        self.register_buffer("weight_logits", torch.zeros(components), persistent=False)

    @property
    def pseudo_inputs(self) -> Tensor:
        """u_1, ..., u_K in the domain of the data, (K, C, H, W)."""
        if self.spec.domain == "real":
            return self.unclamped
        u = self.unclamped.clamp(0, 1)
        return 255 * u if self.spec.domain == "bytes" else u

    def connect(self, posterior: Callable[[Tensor], TorchDistribution]) -> None:
        self.posterior = posterior

    @torch.no_grad()
    def initialise(self, images: Callable[[int], Tensor]) -> None:
        channels = self.spec.image_shape[0]  # with holes, masks follow them
        x = self.spec.network_input(images(len(self.unclamped)))[:, :channels]
        noisy = x + _NOISE * torch.randn_like(x)
        if self.spec.domain != "real":  # reflected: at the edges and beyond nothing would move them
            noisy = 1 - (1 - noisy.abs()).abs()
        self.unclamped.copy_(noisy)

    def forward(self) -> TorchDistribution:
        """p(z), with batch shape () and event shape (D,).

        Raises:
            NotImplementedError: If q(z|x) is not one distribution.
            RuntimeError: If it is not connected to a guide.
        """
        if self.posterior is None:
            raise RuntimeError("VampPrior is made of q(z|x): call model.connect(guide.posterior)")
        try:
            posteriors = self.posterior(self.pseudo_inputs)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"VampPrior is a mixture of q(z|u), and {error}; choose another prior, "
                "such as MixtureOfNormals, or for a VAE the guide DiagonalNormal"
            ) from error
        return dist.MixtureSameFamily(dist.Categorical(logits=self.weight_logits), posteriors)
