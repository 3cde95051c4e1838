"""Muon: momentum of orthogonal matrices for the weights of layers, AdamW for all other parameters.

Adam scales each entry of a gradient by itself. The gradient of a weight matrix is mostly a sum of a
few directions, and what it says of all others is lost in the steps. Here each update has all
directions of its gradient, all of about the same length.
"""

import dataclasses
from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ppl_vae.training.adam import Adam, Rule

__all__ = ["Muon", "orthogonal", "weights_of_layers"]

_MOMENTUM = 0.95
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_TIMES = 5  # that it is applied; a small singular value s becomes about 3.4 s each time
_ADAMS_LENGTH = 0.2  # the usual root mean square of an update of Adam, in learning rates
_LEAST = 1e-7


class Muon:
    """Updates matrices W (rows, columns) by orthogonal ones, and other parameters by AdamW.

    With g the gradient of W and b1 = 0.95, m <- b1 m + (1 - b1) g, and W becomes

        (1 - rate * weight_decay) W
            - rate * 0.2 sqrt(max(rows, columns)) O(b1 m + (1 - b1) g),

    where O(U S V^T) is about U V^T; Jordan et al. (2024), "Muon: an optimizer for hidden layers in
    neural networks". The factor gives the entries of an update the size that they have with Adam,
    so that both take one learning rate; Liu et al. (2025), "Muon is scalable for LLM training",
    equation 4.

    Args:
        parameters: The parameters to update, by name; on one device.
        matrices: The names of those that are matrices. The filters of a convolution are one, with a
            row for each place in their first dimension.
        rule: The constants of AdamW; its weight decay is that of the matrices too.
        dtype: The type of the products that make a matrix orthogonal.

    Raises:
        InputError: If the elements of a parameter that is no matrix do not fill its memory.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        matrices: frozenset[str],
        rule: Rule,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._matrices = {name: parameters[name] for name in parameters if name in matrices}
        others = {name: p for name, p in parameters.items() if name not in matrices}
        self._adam = Adam(others, dataclasses.replace(rule, optimizer="AdamW")) if others else None
        self._weight_decay = rule.weight_decay
        self._dtype = dtype
        self._momenta = {name: torch.zeros_like(p) for name, p in self._matrices.items()}
        self._rate = torch.zeros((), device=next(iter(parameters.values())).device)

    def compile(self) -> None:
        """Has a compiled function take the updates of AdamW, as `Adam.compile` does."""
        if self._adam:
            self._adam.compile()

    def set_rate(self, rate: float) -> None:
        """Sets the step size."""
        self._rate.fill_(rate)
        if self._adam:
            self._adam.set_rate(rate)

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor | None], skip: Tensor | None = None) -> None:
        """Updates once the parameters that have a gradient.

        Args:
            gradients: By the parameters' names; None for one on which the loss does not depend.
            skip: A scalar; where it is 1.0 nothing changes. It is read on the device, without
                waiting for it. None is as good as 0.0.
        """
        if self._adam:
            self._adam.update(gradients, skip)
        for name, matrix in self._matrices.items():
            gradient, momentum = gradients[name], self._momenta[name]
            if gradient is None:
                continue
            mean = momentum.lerp(gradient, 1 - _MOMENTUM)
            update = orthogonal(gradient.lerp(mean, _MOMENTUM).flatten(1), self._dtype)
            length = _ADAMS_LENGTH * sqrt(max(update.shape))
            moved = matrix * (1 - self._rate * self._weight_decay)
            moved -= self._rate * length * update.reshape(matrix.shape)
            for old, new in ((momentum, mean), (matrix, moved)):
                old.copy_(new if skip is None else torch.where(skip > 0, old, new))

    def state(self) -> dict[str, Tensor]:
        """The momenta, as `momentum.NAME`, and the state of AdamW."""
        state = self._adam.state() if self._adam else {}
        return state | {f"momentum.{name}": value for name, value in self._momenta.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Copies a result of `state` into the present tensors; those that it lacks begin again."""
        if self._adam:
            self._adam.restore(state)
        for name, momentum in self._momenta.items():
            momentum.copy_(state.get(f"momentum.{name}", torch.zeros_like(momentum)))


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About U V^T of a matrix U S V^T: singular values between 0.7 and 1.2 instead of S.

    Those below a thousandth of the largest stay smaller. The polynomial of Jordan et al. (2024) in
    X X^T, five times, with no decomposition.

    Args:
        matrix: (rows, columns).
        dtype: The type of the products.

    Returns:
        (rows, columns), of the matrix's own type.
    """
    first, second, third = _POLYNOMIAL
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.to(dtype)
    x = x / x.norm().clamp(min=_LEAST)
    for _ in range(_TIMES):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return (x if wide is matrix else x.T).to(matrix.dtype)


def weights_of_layers(module: nn.Module) -> frozenset[str]:
    """The names of the weights of all linear layers and convolutions in a module."""
    return frozenset(
        f"{name}.weight"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd) and "weight" in layer._parameters
    )
