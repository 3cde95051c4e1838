"""The contract of every guide."""

from abc import abstractmethod

from pyro.distributions import TorchDistribution
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from models.program import Program

__all__ = ["Guide"]


class Guide(Program):
    """An amortized posterior q(z|x), whose `forward` is the Pyro program itself.

    A subclass

    - takes the `Spec` as its first argument, `network` too where it wants the architecture
      that the user chose, and `model` where it needs the model, of which it keeps bound methods
      (a module that it kept would count among its own); the other arguments are its options;
    - writes `forward` with one plate `data` at dim -1 and exactly the model's latent sites;
    - gives its parts other names than the model's: stock Pyro knows parameters by name alone;
    - gives `encode` and `posterior_of` where q(z|x) is one distribution with parameters computed
      from x, or overrides `posterior` where it is a distribution otherwise.

    Attributes:
        latents: Names of the latent sites of the models that it fits.
        has_density: Whether log q(z|x) is a density. False where the guide is a point: whatever
            needs the density then refuses the guide, with `check_density`. A guide around another
            one takes this from it.
    """

    latents: tuple[str, ...] = ("z",)
    has_density: bool = True

    def check_density(self, purpose: str) -> None:
        """Refuses a guide without a density.

        Args:
            purpose: Names what needs the density, for the message.

        Raises:
            NotImplementedError: If log q(z|x) is no density.
        """
        if not self.has_density:
            raise NotImplementedError(
                f"{purpose} needs q(z|x) as a density, and that of {type(self).__name__} is a "
                "point; choose a guide that is a density, such as DiagonalNormal"
            )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program: samples z (..., B, D) given images x (B, C, H, W)."""

    def encode(self, x: Tensor) -> Tensor:
        """The variational parameters of each datum, (B, F): real numbers without constraints.

        Raises:
            NotImplementedError: Where q(z|x) is not one distribution.
        """
        raise NotImplementedError(f"q(z|x) of {type(self).__name__} is not one distribution")

    def posterior_of(self, features: Tensor) -> TorchDistribution:
        """The distribution, batch shape (...) and event shape (D,), with parameters (..., F).

        Raises:
            NotImplementedError: Where q(z|x) is not one distribution.
        """
        raise NotImplementedError(f"q(z|x) of {type(self).__name__} is not one distribution")

    def posterior(self, x: Tensor) -> TorchDistribution:
        """q(z|x) with batch shape (B,) and event shape (D,), where it is one distribution.

        Raises:
            NotImplementedError: Where it is not.
            ValueError: If x is outside of the bounds of the domain.
        """
        self.check_range(x)
        return self.posterior_of(self.encode(x))

    def check_range(self, x: Tensor) -> None:
        """Looks whether x lies between the bounds of the domain, where `posterior` is called alone.

        The programs are given images that were converted, and looking at their values in each step
        would wait for a GPU; while a graph is traced there are no values.

        Raises:
            ValueError: If it does not.
        """
        if type(x) is Tensor and not am_i_wrapped() and not self._pyro_context.active:
            self.spec.check_range(x)

    def amortized_posterior(self, x: Tensor) -> TorchDistribution:
        """q(z|x) as networks alone give it, which is what a prior made of q(z|x) is made of.

        Raises:
            NotImplementedError: Where q(z|x) is not one distribution, or a point.
        """
        self.check_density("a prior made of q(z|x)")
        return self.posterior(x)

    def classify(self, x: Tensor) -> TorchDistribution:
        """q(y|x) with batch shape (B,), where the guide has a classifier of images.

        Raises:
            NotImplementedError: Where it has none.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no classifier q(y|x); SemiSupervisedNormal has one"
        )
